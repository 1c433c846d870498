"""Kyutai's own configuration files: the LM's `config.json` and the codec's, read key by key.

Unknown keys are errors, not silently ignored: a key that changes the model and is not understood garbles audio.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from clearline.config.checkpoint import (
    BEST,
    CONDITIONER,
    WORST,
    CheckpointConfig,
    LoraConfig,
    LutConditioner,
    own_codebooks,
)
from clearline.config.keys import Keys
from clearline.config.lm import DepformerConfig, LMConfig
from clearline.config.mimi import MimiConfig
from clearline.config.presets import PERSONAPLEX_ALIGNMENT, GenerationConfig
from clearline.config.sampling import Sampling
from clearline.config.transformer import Activation, Norm, Position, TransformerConfig, gated_hidden
from clearline.errors import ConfigError

# What the released 7B means when its folder has no config.json, as Kyutai's loader assumes.
MOSHI_7B: dict[str, Any] = {
    "dim": 4096, "text_card": 32000, "n_q": 16, "dep_q": 8, "card": 2048, "num_heads": 32, "num_layers": 32,
    "hidden_scale": 4.125, "context": 3000, "max_period": 10000, "gating": "silu", "norm": "rms_norm_f32",
    "positional_embedding": "rope", "depformer_dim": 1024, "depformer_dim_feedforward": 4224, "depformer_num_heads": 16,
    "depformer_num_layers": 6, "depformer_multi_linear": True, "depformer_pos_emb": "none",
    "depformer_weights_per_step": True, "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
}  # fmt: skip

# The released PersonaPlex' config.json holds nothing but its type: the rest is in NVIDIA's loader, as here.
_PERSONAPLEX_7B: dict[str, Any] = MOSHI_7B | {"dep_q": 16}

_RUNNABLE = ("moshi", "stt", "hibiki", "personaplex")
# Keys that make a model another one, and what stands in their way.
_UNSUPPORTED = {
    "demux_second_text_stream": "two text streams in one (demux)",
    "demux_second_stream": "two text streams in one (demux)",
    "cross_attention": "cross-attention",
}


def parse_checkpoint(raw: Mapping[str, Any]) -> CheckpointConfig:
    """Read a whole config.json. Raises ConfigError naming the key for anything missing, unknown or malformed."""
    if isinstance(raw, Mapping) and raw.get("model_type") == "personaplex" and "dim" not in raw:
        raw = _PERSONAPLEX_7B | dict(raw)
    keys = Keys(raw, "config.json")
    model_type = keys.text("model_type", "moshi")
    problems = [] if model_type in _RUNNABLE else [f"model_type {model_type!r}; this version runs {', '.join(_RUNNABLE)}"]
    files = {name: keys.text(name, None) for name in ("moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name")}
    lora = _lora(keys)
    conditioners = keys.section("conditioners", {}).raw
    fuser = keys.section("fuser", {}).raw
    lut = _lut(conditioners, fuser) if model_type == "hibiki" else None
    if (conditioners or any(fuser.values())) and lut is None:
        problems.append(f"conditioners ({', '.join(conditioners) or 'in the fuser'}) in a model of type {model_type!r}")
    problems += [what for name, what in _UNSUPPORTED.items() if keys.flag(name)]
    generation = _generation(keys.section("lm_gen_config", {}))
    stt = keys.section("stt_config", {})
    prefix, delay = stt.number("audio_silence_prefix_seconds", 0.0, high=3600), stt.number("audio_delay_seconds", 0.0, high=3600)
    # `quantize` says that linears hold bitsandbytes codes: the tensors say so themselves.
    keys.ignore("model_id", "tts_config", "quantize", "version")
    try:
        lm = _lm(keys)
    except ConfigError as error:
        if model_type in _RUNNABLE:
            raise
        raise ConfigError(f"config.json: this version cannot run {problems[0]}; nor can it read the network: {error}") from error
    named = {name: value for name, value in files.items() if value is not None}
    file_lm = None
    if model_type == "personaplex":
        generation = replace(generation, **PERSONAPLEX_ALIGNMENT)
        file_lm, lm = lm, own_codebooks(lm)
    return CheckpointConfig(
        lm, model_type, generation=generation, file_lm=file_lm, stt_prefix_seconds=prefix, stt_delay_seconds=delay, lora=lora,
        conditioners=tuple(conditioners), conditioner=lut, cannot_run=tuple(problems), **named,
    )  # fmt: skip


def _lut(conditioners: Mapping[str, Any], fuser: Mapping[str, Any]) -> LutConditioner | None:
    """The one conditioner of a Hibiki, or None when there is another arrangement than Hibiki's."""
    summed = {"sum": list(conditioners)}
    if list(conditioners) != [CONDITIONER] or {name: value for name, value in fuser.items() if value} != summed:
        return None
    outer = Keys(conditioners, "config.json conditioners").section(CONDITIONER)
    if outer.take("type") != "lut":
        return None
    keys = outer.section("lut")
    keys.expect("tokenizer", "noop")
    values = keys.take("possible_values", None)
    if not isinstance(values, list) or not {BEST, WORST} <= {value for value in values if isinstance(value, str)}:
        raise ConfigError(f"{keys.where}: possible_values is {values!r}; expected a list with {BEST!r} and {WORST!r}")
    keys.ignore("init_scale", "pad_empty", "learn_padding", "force_linear")
    lut = LutConditioner(CONDITIONER, keys.whole("n_bins", low=len(values)), keys.whole("dim", low=1), tuple(map(str, values)))
    keys.done()
    return lut


def _lora(keys: Keys) -> LoraConfig | None:
    name, wanted = keys.text("lora_name", None), keys.flag("lora")
    rank, scaling = keys.whole("lora_rank", 128, low=1), keys.number("lora_scaling", 2.0, low=-1e6, high=1e6)
    if name is not None and not wanted:
        raise ConfigError(f"config.json: lora_name is {name!r}, but lora is not true: Kyutai's loader refuses this too")
    if wanted and name is None:
        raise ConfigError("config.json: lora is true, but lora_name names no file")
    return LoraConfig(name, rank, scaling) if name is not None else None


def parse_mimi(raw: Mapping[str, Any]) -> MimiConfig:
    """Read a Mimi config in Kyutai's layout: sample_rate, channels, frame_rate, seanet, quantizer, transformer."""
    keys = Keys(raw, "Mimi config")
    sample_rate, frame_rate = keys.whole("sample_rate", 24_000, low=1000), keys.number("frame_rate", 12.5, low=0.5, high=1000)
    keys.expect("channels", 1)
    seanet = keys.section("seanet")
    quantizer = keys.section("quantizer")
    transformer = keys.section("transformer")
    keys.done()
    for name, value in (("channels", 1), ("causal", True), ("activation", "ELU"), ("norm", "none")):
        seanet.expect(name, value)
    seanet.expect("final_activation", None)
    seanet.expect("trim_right_ratio", 1.0)
    seanet.ignore("disable_norm_outer_blocks", "norm_params", "final_activation_params", "mask_fn", "mask_position")
    dimension = seanet.whole("dimension", 128, low=1)
    ratios = seanet.wholes("ratios", (8, 5, 4, 2), low=1)
    alpha = seanet.section("activation_params", {"alpha": 1.0}).number("alpha", 1.0, high=100)
    hop = 1
    for ratio in ratios:
        hop *= ratio
    config = MimiConfig(
        sample_rate=sample_rate,
        frame_rate=frame_rate,
        dimension=dimension,
        n_filters=seanet.whole("n_filters", 32, low=1),
        n_residual_layers=seanet.whole("n_residual_layers", 3, high=64),
        ratios=ratios,
        kernel_size=seanet.whole("kernel_size", 7, low=1, high=4096),
        residual_kernel_size=seanet.whole("residual_kernel_size", 3, low=1, high=4096),
        last_kernel_size=seanet.whole("last_kernel_size", 7, low=1, high=4096),
        dilation_base=seanet.whole("dilation_base", 2, low=1, high=64),
        compress=seanet.whole("compress", 2, low=1),
        true_skip=seanet.flag("true_skip", True),
        elu_alpha=alpha,
        pad_mode=seanet.text("pad_mode", "reflect"),
        transformer=_mimi_transformer(transformer, dimension, int(sample_rate / frame_rate) // hop),
        n_q=quantizer.whole("n_q", 8, low=1, high=256),
        n_q_semantic=quantizer.whole("n_q_semantic", 1),
        bins=quantizer.whole("bins", 1024, low=1),
        codebook_dim=quantizer.whole("dimension", 128, low=1),
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


def _mimi_transformer(keys: Keys, dimension: int, frame_rows: int) -> TransformerConfig:
    keys.expect("input_dimension", dimension)
    keys.expect("output_dimensions", [dimension])
    keys.expect("conv_layout", True)
    keys.expect("causal", True)
    dim = keys.whole("d_model", low=1)
    config = _transformer(
        keys, dim, keys.whole("num_heads", low=1), keys.whole("dim_feedforward", 2048, low=1), frame_rows=frame_rows
    )
    keys.done()
    return config


def _lm(keys: Keys) -> LMConfig:
    dim, n_q, dep_q = keys.whole("dim", 128, low=1), keys.whole("n_q", 8, high=256), keys.whole("dep_q", 8, high=256)
    hidden_scale = keys.number("hidden_scale", 4, low=1e-3, high=1000)
    text_card = keys.whole("text_card", 32000)
    dep_keys = keys.below("depformer_")
    # The depformer inherits every transformer key of the main model that it does not set itself.
    inherited = {name: keys.raw[name] for name in _TRANSFORMER_KEYS if name in keys.raw}
    keys.expect("causal", True)
    transformer = _transformer(keys, dim, keys.whole("num_heads", 8, low=1), int(hidden_scale * dim), default_position="sin")
    depformer = _depformer(dep_keys, inherited, dep_q, hidden_scale, transformer.norm) if dep_q else None
    config = LMConfig(
        transformer=transformer,
        depformer=depformer,
        n_q=n_q,
        dep_q=dep_q,
        card=keys.whole("card", 1024),
        text_card=text_card,
        text_card_out=keys.whole("text_card_out", text_card),
        delays=keys.wholes("delays", [0]),
        norm_emb=keys.flag("norm_emb"),
        bias_proj=keys.flag("bias_proj"),
        text_padding=keys.whole("existing_text_padding_id", 3),
        text_end_padding=keys.whole("existing_text_end_padding_id", 0),
        extra_heads=keys.whole("extra_heads_num_heads", 0, high=256),
        extra_heads_dim=keys.whole("extra_heads_dim", 6, low=1),
    )
    keys.ignore("gradient_checkpointing", "same_initial", "device", "dtype")
    keys.done()
    return config


def _depformer(keys: Keys, inherited: Mapping[str, Any], dep_q: int, hidden_scale: float, norm: Norm) -> DepformerConfig:
    per_step = keys.flag("weights_per_step")
    schedule = keys.wholes("weights_per_step_schedule") if keys.take("weights_per_step_schedule", None) is not None else None
    dim = keys.whole("dim", 256, low=1)
    feed_forward = _sizes(keys, int(hidden_scale * dim))
    position = keys.text("pos_emb", "sin")
    multi_linear, low_rank = keys.flag("multi_linear"), keys.whole_or_none("low_rank_embeddings")
    dep_norm = keys.text("norm", None)
    keys.ignore("context", "causal")
    merged = Keys({**inherited, **keys.rest(), "positional_embedding": position, "norm": norm, "context": dep_q}, "config.json")
    transformer = _transformer(
        merged,
        dim,
        merged.whole("num_heads", low=1),
        feed_forward,
        steps=dep_q if per_step else 0,
        schedule=tuple(schedule) if schedule and per_step else None,
    )
    merged.done()
    return DepformerConfig(transformer, multi_linear, low_rank, dep_norm)


def _sizes(keys: Keys, default: int) -> int | list[int]:
    """dim_feedforward: one number, or one for each set of weights."""
    value = keys.take("dim_feedforward", None)
    if isinstance(value, list):
        return list(keys.wholes("dim_feedforward", low=1))
    return default if value is None else keys.whole("dim_feedforward", low=1)


_TRANSFORMER_KEYS = ("num_layers", "max_period", "gating", "layer_scale", "kv_repeat")


def _transformer(
    keys: Keys,
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
    if keys.take("context", None) is None:
        raise ConfigError(f"{keys.where}: context is missing; a streaming transformer needs a size for its ring cache")
    context = keys.whole("context", low=1)
    sizes = feed_forward if isinstance(feed_forward, list) else [feed_forward]
    hidden = [size if gating == "none" else gated_hidden(dim, size) for size in sizes]
    sets = (max(schedule) + 1 if schedule else steps) if steps else 1
    for name in ("skip_self_attn", "cross_attention"):
        keys.expect(name, False)
    keys.expect("positional_scale", 1.0)
    return TransformerConfig(
        dim=dim,
        num_heads=num_heads,
        num_layers=keys.whole("num_layers", low=1, high=1024),
        ffn_hidden=tuple(hidden * sets if len(hidden) == 1 else hidden),
        context=context,
        num_kv_heads=num_heads // keys.whole("kv_repeat", 1, low=1, high=num_heads),
        gating=None if gating == "none" else cast(Activation, gating),
        norm=cast(Norm, keys.text("norm", "layer_norm")),
        position=cast(Position, keys.text("positional_embedding", default_position)),
        max_period=keys.number("max_period", 10_000, low=1),
        layer_scale=keys.take("layer_scale", None) is not None,
        steps=steps,
        schedule=schedule,
        frame_rows=frame_rows,
    )


def _generation(keys: Keys) -> GenerationConfig:
    base = GenerationConfig()
    text = Sampling(keys.number("temp_text", base.text.temperature, low=-1e9), keys.whole("top_k_text", base.text.top_k))
    audio = Sampling(keys.number("temp", base.audio.temperature, low=-1e9), keys.whole("top_k", base.audio.top_k))
    if not keys.flag("use_sampling", True):
        text = audio = Sampling.greedy()
    guidance = keys.number("cfg_coef", 1.0, high=100)
    keys.ignore("check", "support_out_of_sync")
    keys.done()
    return replace(base, text=text, audio=audio, guidance=guidance)
