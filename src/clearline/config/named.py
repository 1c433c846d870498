"""The model configurations that official implementations carry in their code, by the names they have there."""

import re
from collections.abc import Callable

from clearline.config.compact import acoustic_delays, depformer, moshi
from clearline.config.lm import LMConfig
from clearline.config.rust import RUST_ACOUSTIC_DELAY
from clearline.errors import ConfigError


def _two(codebooks: int, delay: int) -> tuple[int, ...]:
    return acoustic_delays((codebooks, codebooks), delay)


def _rust_v0_1(n_q: int, dep_q: int) -> LMConfig:
    delays = acoustic_delays((dep_q, n_q - dep_q), RUST_ACOUSTIC_DELAY if dep_q else 0)
    return moshi(4096, 32, 32, text=32000, n_q=n_q, dep_q=dep_q, delays=delays)


def _rust_s2s(n_q: int, dep_q: int) -> LMConfig:
    # moshi-core gives d_model 2048 a dim_feedforward of 4096 * 2 = 4 * 2048, so the gated size is 11/4 d_model.
    delays = acoustic_delays((dep_q, n_q - dep_q), RUST_ACOUSTIC_DELAY)
    return moshi(2048, 16, 16, text=48000, n_q=n_q, dep_q=dep_q, delays=delays)


def _asr(dim: int, heads: int, n_q: int) -> LMConfig:
    return moshi(dim, heads, 16, text=48000, n_q=n_q, dep_q=0, delays=(0,) * (n_q + 1), context=750, period=100_000)


def _hibiki_1b(codebooks: int) -> LMConfig:
    return moshi(
        2048, 16, 16, text=48000, n_q=2 * codebooks, dep_q=codebooks, delays=_two(codebooks, 2), period=100_000,
        dep=depformer(codebooks),
    )  # fmt: skip


# By "implementation:name". `(n)` names take the number of generated codebooks.
_MODELS: dict[str, Callable[[], LMConfig]] = {
    "pytorch:moshi_7b_202409": lambda: moshi(4096, 32, 32, text=32000, n_q=16, dep_q=8, delays=_two(8, 1)),
    "pytorch:moshi_dev_2b": lambda: moshi(2560, 20, 24, text=48000, n_q=32, dep_q=16, delays=_two(16, 2), period=100_000),
    "mlx:config_v0_1": lambda: moshi(4096, 32, 32, text=32000, n_q=16, dep_q=8, delays=_two(8, 1)),
    "mlx:config1b_202412": lambda: _hibiki_1b(8),
    "mlx:config1b_202412_16rvq": lambda: _hibiki_1b(16),
    "nvidia:personaplex_7b_v1": lambda: moshi(4096, 32, 32, text=32000, n_q=16, dep_q=8, delays=_two(8, 1)),
    "rust:v0_1": lambda: _rust_v0_1(8, 8),
    "rust:v0_1_streaming": lambda: _rust_v0_1(16, 8),
    "rust:v0_1_asr": lambda: _rust_v0_1(8, 0),
    "rust:s2s_v0_1": lambda: _rust_s2s(16, 16),
    "rust:s2s_v0_1_streaming": lambda: _rust_s2s(16, 8),
    "rust:s2s_2b_16rvq_202501": lambda: moshi(
        2560, 20, 24, text=48000, n_q=32, dep_q=16, delays=_two(16, RUST_ACOUSTIC_DELAY), period=100_000
    ),
    "rust:asr_v0_1_1b": lambda: _asr(2048, 16, 8),
    "rust:asr_300m_202501": lambda: _asr(1024, 8, 32),
}
_WITH_SLICES: dict[str, Callable[[int], LMConfig]] = {
    "rust:v0_1_streaming": lambda slices: _rust_v0_1(16, slices),
    "rust:s2s_v0_1_streaming": lambda slices: _rust_s2s(16, slices),
}
# In the same places, but not runnable here: why.
_OTHERS = {
    "rust:v0_1_vision": "cross-attention to images",
    "rust:v0_1_vision_streaming": "cross-attention to images",
    "rust:tts_v0_1": "cross-attention to a speaker",
    "rust:tts_202501": "cross-attention to a speaker",
    "mlx:config_helium_1_preview_2b": "a text model without audio",
}
MODEL_NAMES = tuple(_MODELS)


def named_model(name: str) -> tuple[str, LMConfig] | None:
    """The full name and the configuration called `name`, with or without "mlx:" and the like; None when unknown.

    `v0_1_streaming(8)` may carry its argument. Raises ConfigError for a known name that cannot be described here.
    """
    match = re.fullmatch(r"(?:(pytorch|mlx|rust|nvidia):)?(\w+)(?:\((\d+)\))?", name)
    if match is None:
        return None
    rooms = [match[1]] if match[1] else ["rust", "mlx", "pytorch", "nvidia"]
    for full in (f"{room}:{match[2]}" for room in rooms):
        if full in _OTHERS:
            raise ConfigError(f"{full} describes a model with {_OTHERS[full]}, which this version does not know")
        if match[3] is not None and full in _WITH_SLICES:
            slices = int(match[3])
            if not 1 <= slices <= 16:
                raise ConfigError(f"{full}({slices}): the number of generated codebooks must lie in 1..16")
            return f"{full}({slices})", _WITH_SLICES[full](slices)
        if full in _MODELS and match[3] is None:
            return full, _MODELS[full]()
    return None
