"""moshi-core (Rust): its TOML model files, the JSON files of moshi-backend, and what its generator adds to both.

The delays of the audio streams are in neither file: moshi-core's generator has one constant for all acoustic codebooks.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from clearline.config.checkpoint import BEST, CONDITIONER, WORST, LutConditioner
from clearline.config.compact import acoustic_delays, gated
from clearline.config.keys import Keys
from clearline.config.lm import DepformerConfig, LMConfig
from clearline.config.transformer import Activation, Norm, Position, TransformerConfig
from clearline.errors import ConfigError

# `acoustic_delay` in lm_generate_multistream's v0_1 and in moshi-cli's gen.rs, whatever the model was trained with.
RUST_ACOUSTIC_DELAY = 2
_MAX_BYTES = 1 << 20
_NORMS: dict[str, Norm] = {"RmsNorm": "rms_norm_f32", "LayerNorm": "layer_norm"}
_POSITIONS: dict[str, Position] = {"Rope": "rope", "Sin": "sin", "None": "none"}
_FIXED = {
    "causal": True, "norm_first": True, "bias_ff": False, "bias_attn": False, "use_conv_block": False, "conv_layout": False,
    "shared_cross_attn": False,
}  # fmt: skip


@dataclass(frozen=True)
class RustModel:
    """What a TOML file says. `conditioners` are names; `max_seq_len` is where moshi-core's position cache ends."""

    lm: LMConfig
    conditioners: tuple[str, ...] = ()
    conditioner: LutConditioner | None = None
    max_seq_len: int = 4096


@dataclass(frozen=True)
class BackendFiles:
    """What a moshi-backend JSON says: files, codebooks, and generator constants (None: the program's own)."""

    lm_model_file: str
    mimi_model_file: str
    text_tokenizer_file: str
    mimi_num_codebooks: int
    hf_repo: str = ""
    acoustic_delay: int | None = None


def read_toml(path: Path, acoustic_delay: int = RUST_ACOUSTIC_DELAY) -> RustModel:
    """A moshi-core model file. Raises ConfigError naming the key."""
    try:
        raw = tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not readable TOML: {error}") from error
    return parse_rust(raw, str(path), acoustic_delay)


def parse_rust(raw: Mapping[str, Any], where: str, acoustic_delay: int = RUST_ACOUSTIC_DELAY) -> RustModel:
    """The fields of moshi-core's `lm::Config`; the delays are those its generator would use."""
    keys = Keys(raw, where)
    main = keys.section("transformer")
    longest = main.whole("max_seq_len", 4096)
    transformer = _transformer(main)
    dep, low_rank, dep_q = None, None, 0
    if keys.take("depformer", None) is not None:
        dep_keys = keys.section("depformer")
        dep_q, low_rank = dep_keys.whole("num_slices", high=256), dep_keys.whole_or_none("low_rank_embeddings")
        inner = dep_keys.section("transformer")
        inner.ignore("max_seq_len")
        dep = DepformerConfig(_transformer(inner, dep_q), True, low_rank) if dep_q else None
        dep_keys.done()
    heads = keys.section("extra_heads", {"num_heads": 0, "dim": 6})
    n_q, text_in = keys.whole("audio_codebooks", high=256), keys.whole("text_in_vocab_size", low=2)
    conditioners = keys.section("conditioners", {})
    config = LMConfig(
        transformer,
        dep,
        n_q,
        dep_q,
        card=keys.whole("audio_vocab_size", low=2) - 1,
        text_card=text_in - 1,
        text_card_out=keys.whole("text_out_vocab_size"),
        delays=acoustic_delays((dep_q, max(0, n_q - dep_q)), acoustic_delay if dep_q else 0),
        extra_heads=heads.whole("num_heads"),
        extra_heads_dim=heads.whole("dim"),
    )
    keys.done()
    return RustModel(config, tuple(conditioners.raw), _lut(conditioners), longest)


def _lut(conditioners: Keys) -> LutConditioner | None:
    """Hibiki's one table conditioner; None for any other arrangement."""
    if list(conditioners.raw) != [CONDITIONER]:
        return None
    keys = conditioners.section(CONDITIONER)
    if keys.text("type") != "Lut":
        return None
    values = keys.take("possible_values")
    if not isinstance(values, list) or not {BEST, WORST} <= {value for value in values if isinstance(value, str)}:
        raise ConfigError(f"{keys.where}: possible_values is {values!r}; expected a list with {BEST!r} and {WORST!r}")
    return LutConditioner(CONDITIONER, keys.whole("n_bins", low=len(values)), keys.whole("dim", low=1), tuple(map(str, values)))


def _transformer(keys: Keys, steps: int = 0) -> TransformerConfig:
    for name, value in _FIXED.items():
        keys.expect(name, value)
    keys.expect("cross_attention", None)
    dim, heads, ffn = keys.whole("d_model", low=1), keys.whole("num_heads", low=1), keys.whole("dim_feedforward", low=2)
    gating = keys.text("gating", None)
    hidden = gated(dim, ffn) if gating else ffn
    norm, position = keys.text("norm"), keys.text("positional_embedding")
    if norm not in _NORMS or position not in _POSITIONS:
        raise ConfigError(f"{keys.where}: norm {norm!r} or positional_embedding {position!r} is not known to moshi-core")
    keys.ignore("use_conv_bias", "conv_kernel_size")
    config = TransformerConfig(
        dim=dim,
        num_heads=heads,
        num_layers=keys.whole("num_layers", low=1, high=1024),
        ffn_hidden=(hidden,) * max(1, steps),
        context=keys.whole("context", low=1),
        num_kv_heads=heads // keys.whole("kv_repeat", 1, low=1, high=heads),
        gating=cast(Activation, gating.lower()) if gating else None,
        norm=_NORMS[norm],
        position=_POSITIONS[position],
        max_period=keys.number("max_period", low=1),
        layer_scale=keys.take("layer_scale", None) is not None,
        steps=steps,
    )
    keys.done()
    return config


def read_backend(path: Path) -> BackendFiles:
    """A moshi-backend JSON file. Raises ConfigError naming the key."""
    try:
        raw = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not readable JSON: {error}") from error
    keys = Keys(raw, str(path))
    lm = keys.section("lm_config", {})
    delay = None if lm.take("acoustic_delay", None) is None else lm.whole("acoustic_delay", high=64)
    files = BackendFiles(
        keys.text("lm_model_file"),
        keys.text("mimi_model_file"),
        keys.text("text_tokenizer_file"),
        keys.whole("mimi_num_codebooks", low=1, high=64),
        keys.text("hf_repo", ""),
        delay,
    )
    keys.ignore("instance_name", "log_dir", "use_cpu_for_mimi", "asr_delay_in_tokens", "static_dir", "addr", "port", "cert_dir")
    keys.done()
    return files


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path} has more than {_MAX_BYTES} bytes: that is not a configuration file")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
