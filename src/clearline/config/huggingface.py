"""transformers' config.json of `MoshiForConditionalGeneration` and `MimiModel`, in our terms."""

from collections.abc import Mapping
from typing import Any

from clearline.config.checkpoint import CheckpointConfig
from clearline.config.compact import acoustic_delays
from clearline.config.keys import Keys
from clearline.config.lm import DepformerConfig, LMConfig
from clearline.config.mimi import MimiConfig
from clearline.config.transformer import TransformerConfig
from clearline.errors import ConfigError


def is_transformers(raw: Any) -> bool:
    """Whether a config.json was written by transformers."""
    return isinstance(raw, Mapping) and ("architectures" in raw or "transformers_version" in raw)


def parse_transformers_mimi(raw: Mapping[str, Any]) -> MimiConfig:
    """A MimiConfig of transformers; absent keys have the released codec's values."""
    keys = Keys(raw, "Mimi config.json")
    for name, value in (("use_causal_conv", True), ("audio_channels", 1), ("hidden_act", "gelu"), ("use_conv_shortcut", False)):
        keys.expect(name, value)
    dimension, rate, frames = keys.whole("hidden_size", 512, low=1), keys.whole("sampling_rate", 24000, low=1000), _frame_rate(keys)
    ratios = keys.wholes("upsampling_ratios", [8, 6, 5, 4], low=1)
    hop = 1
    for ratio in ratios:
        hop *= ratio
    transformer = TransformerConfig(
        dim=dimension,
        num_heads=keys.whole("num_attention_heads", 8),
        num_layers=keys.whole("num_hidden_layers", 8),
        ffn_hidden=(keys.whole("intermediate_size", 2048),),
        context=keys.whole("sliding_window", 250),
        num_kv_heads=keys.whole("num_key_value_heads", 8),
        norm="layer_norm",
        max_period=_period(keys),
        layer_scale=True,
        frame_rows=int(rate / frames) // hop,
    )
    return MimiConfig(
        sample_rate=rate,
        frame_rate=frames,
        dimension=dimension,
        n_filters=keys.whole("num_filters", 64),
        n_residual_layers=keys.whole("num_residual_layers", 1),
        ratios=ratios,
        kernel_size=keys.whole("kernel_size", 7),
        residual_kernel_size=keys.whole("residual_kernel_size", 3),
        last_kernel_size=keys.whole("last_kernel_size", 3),
        dilation_base=keys.whole("dilation_growth_rate", 2),
        compress=keys.whole("compress", 2),
        pad_mode=keys.text("pad_mode", "constant"),
        transformer=transformer,
        n_q=keys.whole("num_quantizers", 32),
        n_q_semantic=keys.whole("num_semantic_quantizers", 1),
        bins=keys.whole("codebook_size", 2048),
        codebook_dim=keys.whole("codebook_dim", 256),
    )


def parse_transformers_moshi(raw: Mapping[str, Any]) -> tuple[CheckpointConfig, MimiConfig]:
    """A MoshiConfig of transformers with its codec inside.

    transformers stores no delays: its generation shifts every acoustic codebook by one frame, as the released 7B needs.
    """
    if raw.get("model_type") != "moshi":
        raise ConfigError(f"config.json is transformers' for a model of type {raw.get('model_type')!r}; known: moshi, mimi")
    keys = Keys(raw, "config.json")
    codebooks, dim, heads = (
        keys.whole("num_codebooks", 8, low=1, high=128),
        keys.whole("hidden_size", 4096, low=1),
        keys.whole("num_attention_heads", 32, low=1),
    )
    keys.expect("hidden_act", "silu")
    keys.expect("head_dim", raw.get("head_dim") and dim // heads)
    depth = keys.section("depth_decoder_config")
    depth.expect("hidden_act", "silu")
    eps = {keys.number("rms_norm_eps", 1e-8), depth.number("rms_norm_eps", 1e-8)}
    if eps != {1e-8}:
        raise ConfigError(f"config.json: rms_norm_eps is {eps}; only 1e-8 is supported")
    transformer = TransformerConfig(
        dim, heads, keys.whole("num_hidden_layers", 32), (keys.whole("ffn_dim", 22528) // 2,), keys.whole("sliding_window", 3000),
        keys.whole_or_none("num_key_value_heads") or heads, gating="silu", norm="rms_norm_f32", max_period=_period(keys),
    )  # fmt: skip
    inner = TransformerConfig(
        depth.whole("hidden_size", 1024, low=1), depth.whole("num_attention_heads", 16, low=1), depth.whole("num_hidden_layers", 6),
        (depth.whole("ffn_dim", 5632) // 2,) * codebooks, codebooks, gating="silu", norm="rms_norm_f32", position="none",
        steps=codebooks,
    )  # fmt: skip
    text = keys.whole("vocab_size", 32000)
    card = keys.whole_or_none("audio_vocab_size") or 2048
    delays = acoustic_delays((codebooks, codebooks), 1)
    config = LMConfig(transformer, DepformerConfig(inner, True), 2 * codebooks, codebooks, card, text, text, delays)
    return CheckpointConfig(config), parse_transformers_mimi(keys.section("audio_encoder_config").raw)


def _frame_rate(keys: Keys) -> float:
    for name in ("frame_rate", "_frame_rate"):
        if keys.take(name, None) is not None:
            return keys.number(name, low=0.5, high=1000)
    return 12.5


def _period(keys: Keys) -> float:
    """rope_theta, which newer versions keep in rope_parameters."""
    rope = keys.section("rope_parameters", {})
    rope.expect("rope_type", "default")
    return rope.number("rope_theta", keys.number("rope_theta", 10_000, low=1), low=1)
