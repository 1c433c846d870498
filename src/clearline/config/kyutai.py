"""Kyutai's own configuration files: the LM's `config.json` and the codec's, read key by key.

Unknown keys are errors, not silently ignored: a key that changes the model and is not understood garbles audio.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from clearline.config.lm import DepformerConfig, LMConfig
from clearline.config.mimi import MimiConfig
from clearline.config.presets import GenerationConfig
from clearline.config.sampling import Sampling
from clearline.config.transformer import Activation, Norm, Position, TransformerConfig, gated_hidden
from clearline.errors import ConfigError


@dataclass(frozen=True)
class CheckpointConfig:
    """Everything a checkpoint folder's config.json says: the model, its files, and its defaults."""

    lm: LMConfig
    model_type: str = "moshi"
    moshi_name: str = "model.safetensors"
    mimi_name: str = "tokenizer-e351c8d8-checkpoint125.safetensors"
    mimi_config_name: str | None = None
    tokenizer_name: str = "tokenizer_spm_32k_3.model"
    generation: GenerationConfig = GenerationConfig()
    stt_prefix_seconds: float = 0.0
    stt_delay_seconds: float = 0.0


# What the released 7B means when its folder has no config.json, as Kyutai's loader assumes.
MOSHI_7B: dict[str, Any] = {
    "dim": 4096, "text_card": 32000, "n_q": 16, "dep_q": 8, "card": 2048, "num_heads": 32, "num_layers": 32,
    "hidden_scale": 4.125, "context": 3000, "max_period": 10000, "gating": "silu", "norm": "rms_norm_f32",
    "positional_embedding": "rope", "depformer_dim": 1024, "depformer_dim_feedforward": 4224, "depformer_num_heads": 16,
    "depformer_num_layers": 6, "depformer_multi_linear": True, "depformer_pos_emb": "none",
    "depformer_weights_per_step": True, "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
}  # fmt: skip

_RUNNABLE = ("moshi", "stt")


def parse_checkpoint(raw: Mapping[str, Any]) -> CheckpointConfig:
    """Read a whole config.json. Raises ConfigError naming the key for anything missing, unknown or unsupported."""
    keys = _Keys(raw, "config.json")
    model_type = keys.text("model_type", "moshi")
    if model_type not in _RUNNABLE:
        raise ConfigError(f"config.json: model_type {model_type!r} cannot be run yet; this version runs {', '.join(_RUNNABLE)}")
    files = {name: keys.text(name, None) for name in ("moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name")}
    if keys.take("lora_name", None) or keys.take("lora", False):
        raise ConfigError("config.json: LoRA checkpoints cannot be run yet; fuse the LoRA into the weights first")
    generation = _generation(keys.take("lm_gen_config", {}))
    stt = _Keys(keys.take("stt_config", {}), "config.json stt_config")
    prefix, delay = stt.number("audio_silence_prefix_seconds", 0.0), stt.number("audio_delay_seconds", 0.0)
    keys.ignore("model_id", "tts_config")
    lm = _lm(keys)
    named = {name: value for name, value in files.items() if value is not None}
    return CheckpointConfig(lm, model_type, generation=generation, stt_prefix_seconds=prefix, stt_delay_seconds=delay, **named)


def parse_mimi(raw: Mapping[str, Any]) -> MimiConfig:
    """Read a Mimi config in Kyutai's layout: sample_rate, channels, frame_rate, seanet, quantizer, transformer."""
    keys = _Keys(raw, "Mimi config")
    sample_rate, frame_rate = keys.whole("sample_rate", 24_000), keys.number("frame_rate", 12.5)
    keys.expect("channels", 1)
    seanet = _Keys(keys.take("seanet"), "Mimi config seanet")
    quantizer = _Keys(keys.take("quantizer"), "Mimi config quantizer")
    transformer = _Keys(keys.take("transformer"), "Mimi config transformer")
    keys.done()
    for name, value in (("channels", 1), ("causal", True), ("activation", "ELU"), ("norm", "none")):
        seanet.expect(name, value)
    seanet.expect("final_activation", None)
    seanet.expect("trim_right_ratio", 1.0)
    seanet.ignore("disable_norm_outer_blocks", "norm_params", "final_activation_params", "mask_fn", "mask_position")
    dimension = seanet.whole("dimension", 128)
    ratios = tuple(seanet.take("ratios", (8, 5, 4, 2)))
    alpha = _Keys(seanet.take("activation_params", {"alpha": 1.0}), "Mimi config activation_params").number("alpha", 1.0)
    hop = 1
    for ratio in ratios:
        hop *= ratio
    config = MimiConfig(
        sample_rate=sample_rate,
        frame_rate=frame_rate,
        dimension=dimension,
        n_filters=seanet.whole("n_filters", 32),
        n_residual_layers=seanet.whole("n_residual_layers", 3),
        ratios=ratios,
        kernel_size=seanet.whole("kernel_size", 7),
        residual_kernel_size=seanet.whole("residual_kernel_size", 3),
        last_kernel_size=seanet.whole("last_kernel_size", 7),
        dilation_base=seanet.whole("dilation_base", 2),
        compress=seanet.whole("compress", 2),
        true_skip=seanet.take("true_skip", True),
        elu_alpha=alpha,
        pad_mode=seanet.text("pad_mode", "reflect"),
        transformer=_mimi_transformer(transformer, dimension, int(sample_rate / frame_rate) // hop),
        n_q=quantizer.whole("n_q", 8),
        n_q_semantic=quantizer.whole("n_q_semantic", 1),
        bins=quantizer.whole("bins", 1024),
        codebook_dim=quantizer.whole("dimension", 128),
    )
    for name in ("input_dimension", "output_dimension"):
        quantizer.expect(name, dimension)
    quantizer.ignore("q_dropout", "no_quantization_rate", "decay", "threshold_usage_ratio", "replaced_usage_ratio")
    seanet.done()
    quantizer.done()
    return config


def official_mimi() -> MimiConfig:
    """The released codec: 8 layers of 512, context 250, layer scale."""
    rows = MimiConfig().resample_stride
    transformer = TransformerConfig(512, 8, 8, (2048,), 250, norm="layer_norm", layer_scale=True, frame_rows=rows)
    return replace(MimiConfig(), transformer=transformer)


def _mimi_transformer(keys: "_Keys", dimension: int, frame_rows: int) -> TransformerConfig:
    keys.expect("input_dimension", dimension)
    keys.expect("output_dimensions", [dimension])
    keys.expect("conv_layout", True)
    keys.expect("causal", True)
    dim = keys.whole("d_model")
    config = _transformer(keys, dim, keys.whole("num_heads"), keys.whole("dim_feedforward", 2048), frame_rows=frame_rows)
    keys.done()
    return config


def _lm(keys: "_Keys") -> LMConfig:
    if keys.take("conditioners", None) or keys.take("fuser", None):
        raise ConfigError("config.json: models with conditioners cannot be run yet")
    for name in ("demux_second_text_stream", "demux_second_stream", "quantize", "cross_attention"):
        if keys.take(name, False):
            raise ConfigError(f"config.json: {name} is not supported yet")
    dim, n_q, dep_q = keys.whole("dim", 128), keys.whole("n_q", 8), keys.whole("dep_q", 8)
    hidden_scale = keys.number("hidden_scale", 4)
    text_card = keys.whole("text_card", 32000)
    dep_keys = keys.below("depformer_")
    # The depformer inherits every transformer key of the main model that it does not set itself.
    inherited = {name: keys.raw[name] for name in _TRANSFORMER_KEYS if name in keys.raw}
    keys.expect("causal", True)
    transformer = _transformer(keys, dim, keys.whole("num_heads", 8), int(hidden_scale * dim), default_position="sin")
    depformer = _depformer(dep_keys, inherited, dep_q, hidden_scale, transformer.norm) if dep_q else None
    config = LMConfig(
        transformer=transformer,
        depformer=depformer,
        n_q=n_q,
        dep_q=dep_q,
        card=keys.whole("card", 1024),
        text_card=text_card,
        text_card_out=keys.whole("text_card_out", text_card),
        delays=tuple(keys.take("delays", [0])),
        norm_emb=keys.take("norm_emb", False),
        bias_proj=keys.take("bias_proj", False),
        text_padding=keys.whole("existing_text_padding_id", 3),
        text_end_padding=keys.whole("existing_text_end_padding_id", 0),
        extra_heads=keys.whole("extra_heads_num_heads", 0),
        extra_heads_dim=keys.whole("extra_heads_dim", 6),
    )
    keys.ignore("gradient_checkpointing", "same_initial", "lora_rank", "lora_scaling", "device", "dtype")
    keys.done()
    return config


def _depformer(keys: "_Keys", inherited: Mapping[str, Any], dep_q: int, hidden_scale: float, norm: Norm) -> DepformerConfig:
    per_step = keys.take("weights_per_step", False)
    schedule = keys.take("weights_per_step_schedule", None)
    dim = keys.whole("dim", 256)
    feed_forward = keys.take("dim_feedforward", None) or int(hidden_scale * dim)
    position = keys.text("pos_emb", "sin")
    multi_linear, low_rank = keys.take("multi_linear", False), keys.take("low_rank_embeddings", None)
    dep_norm = keys.text("norm", None)
    keys.ignore("context", "causal")
    merged = _Keys({**inherited, **keys.rest(), "positional_embedding": position, "norm": norm, "context": dep_q}, "config.json")
    transformer = _transformer(
        merged,
        dim,
        merged.whole("num_heads"),
        feed_forward,
        steps=dep_q if per_step else 0,
        schedule=tuple(schedule) if schedule and per_step else None,
    )
    merged.done()
    return DepformerConfig(transformer, multi_linear, low_rank, dep_norm)


_TRANSFORMER_KEYS = ("num_layers", "max_period", "gating", "layer_scale", "kv_repeat")


def _transformer(
    keys: "_Keys",
    dim: int,
    num_heads: int,
    feed_forward: int | list[int],
    *,
    steps: int = 0,
    schedule: tuple[int, ...] | None = None,
    frame_rows: int = 1,
    default_position: str = "sin",
) -> TransformerConfig:
    gating = keys.text("gating", "none")
    context = keys.take("context", None)
    if context is None:
        raise ConfigError(f"{keys.where}: context is missing; a streaming transformer needs a size for its ring cache")
    sizes = feed_forward if isinstance(feed_forward, list) else [feed_forward]
    hidden = [size if gating == "none" else gated_hidden(dim, size) for size in sizes]
    sets = (max(schedule) + 1 if schedule else steps) if steps else 1
    for name in ("skip_self_attn", "cross_attention"):
        keys.expect(name, False)
    keys.expect("positional_scale", 1.0)
    return TransformerConfig(
        dim=dim,
        num_heads=num_heads,
        num_layers=keys.whole("num_layers"),
        ffn_hidden=tuple(hidden * sets if len(hidden) == 1 else hidden),
        context=context,
        num_kv_heads=num_heads // keys.whole("kv_repeat", 1),
        gating=None if gating == "none" else cast(Activation, gating),
        norm=cast(Norm, keys.text("norm", "layer_norm")),
        position=cast(Position, keys.text("positional_embedding", default_position)),
        max_period=keys.number("max_period", 10_000),
        layer_scale=keys.take("layer_scale", None) is not None,
        steps=steps,
        schedule=schedule,
        frame_rows=frame_rows,
    )


def _generation(raw: Mapping[str, Any]) -> GenerationConfig:
    keys = _Keys(raw, "config.json lm_gen_config")
    base = GenerationConfig()
    text = Sampling(keys.number("temp_text", base.text.temperature), keys.whole("top_k_text", base.text.top_k))
    audio = Sampling(keys.number("temp", base.audio.temperature), keys.whole("top_k", base.audio.top_k))
    if not keys.take("use_sampling", True):
        text = audio = Sampling.greedy()
    keys.expect("cfg_coef", 1.0)
    keys.ignore("check", "support_out_of_sync")
    keys.done()
    return replace(base, text=text, audio=audio)


_MISSING = object()


class _Keys:
    """A mapping whose keys are taken one by one; what is left over at the end is an error."""

    def __init__(self, raw: Any, where: str) -> None:
        if not isinstance(raw, Mapping):
            raise ConfigError(f"{where}: expected an object with keys, got {type(raw).__name__}")
        self.raw = raw
        self.where = where
        self._left = dict(raw)

    def take(self, name: str, default: Any = _MISSING) -> Any:
        if name in self._left:
            return self._left.pop(name)
        if default is _MISSING and name not in self.raw:
            raise ConfigError(f"{self.where}: the key {name!r} is missing")
        return self.raw.get(name, default)

    def whole(self, name: str, default: Any = _MISSING) -> int:
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{self.where}: {name} is {value!r}; expected a whole number")
        return value

    def number(self, name: str, default: Any = _MISSING) -> float:
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{self.where}: {name} is {value!r}; expected a number")
        return float(value)

    def text(self, name: str, default: Any = _MISSING) -> Any:
        value = self.take(name, default)
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{self.where}: {name} is {value!r}; expected a string")
        return value

    def expect(self, name: str, value: Any) -> None:
        """The key may be absent, or must hold the one value that is supported."""
        found = self.take(name, value)
        if found != value:
            raise ConfigError(f"{self.where}: {name} is {found!r}; only {value!r} is supported")

    def ignore(self, *names: str) -> None:
        """Keys that matter for training or memory only."""
        for name in names:
            self._left.pop(name, None)

    def below(self, prefix: str) -> "_Keys":
        """Every key that starts with `prefix`, without it."""
        chosen = {name: self._left.pop(name) for name in list(self._left) if name.startswith(prefix)}
        return _Keys({name.removeprefix(prefix): value for name, value in chosen.items()}, f"{self.where} {prefix}*")

    def rest(self) -> dict[str, Any]:
        return dict(self._left)

    def done(self) -> None:
        if self._left:
            raise ConfigError(f"{self.where}: unknown keys {', '.join(sorted(self._left))}; nothing here knows what they change")
