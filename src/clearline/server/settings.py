"""What a client may choose about its conversation, from the query of its address."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from clearline.config import GenerationConfig, Sampling, preset
from clearline.errors import ConfigError

# Our name of a setting: (stream, field of Sampling).
_SAMPLING = {
    "temperature": ("audio", "temperature"),
    "top_k": ("audio", "top_k"),
    "top_p": ("audio", "top_p"),
    "min_p": ("audio", "min_p"),
    "text_temperature": ("text", "temperature"),
    "text_top_k": ("text", "top_k"),
    "text_top_p": ("text", "top_p"),
    "text_min_p": ("text", "min_p"),
    "repetition_penalty": ("text", "repetition_penalty"),
    "repetition_context": ("text", "repetition_context"),
    "padding_bonus": ("text", "padding_bonus"),
}
SETTINGS = ("preset", "seed", *_SAMPLING)
# Chosen before all other settings, because it has defaults of its own for them.
MODEL = "model"

# What Kyutai's web client sends, by our names. It sends pad_mult too, which has no counterpart here, and two seeds.
KYUTAI_NAMES = {
    "text_temperature": "text_temperature",
    "text_topk": "text_top_k",
    "audio_temperature": "temperature",
    "audio_topk": "top_k",
    "text_seed": "seed",
    "repetition_penalty": "repetition_penalty",
    "repetition_penalty_context": "repetition_context",
}


def said_once(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What an address says, by name. Raises ConfigError for a name that it says twice: which of them is meant?"""
    query: dict[str, str] = {}
    for name, value in pairs:
        if name in query:
            raise ConfigError(f"{name[:40]} is given twice, as {query[name][:40]!r} and {value[:40]!r}")
        query[name] = value
    return query


def settings(query: Mapping[str, str], base: GenerationConfig) -> GenerationConfig:
    """`base`, or the preset that the query names, with the query's values. Raises ConfigError for a name or value unknown."""
    unknown = sorted(set(query) - {MODEL, *SETTINGS})
    if unknown:
        raise ConfigError(f"there is no setting {unknown[0][:40]!r}; known: {', '.join((MODEL, *SETTINGS))}")
    if "preset" in query:
        base = preset(query["preset"][:40])
    changed: dict[str, dict[str, float]] = {"text": {}, "audio": {}}
    for name, (stream, field) in _SAMPLING.items():
        if name in query:
            whole = isinstance(getattr(base.text, field), int)
            changed[stream][field] = _whole(name, query[name]) if whole else _number(name, query[name])
    return replace(
        base,
        text=_sampling(base.text, changed["text"]),
        audio=_sampling(base.audio, changed["audio"]),
        seed=_whole("seed", query["seed"]) if "seed" in query else base.seed,
    )


def kyutai_settings(query: Mapping[str, str], base: GenerationConfig) -> GenerationConfig:
    """The same under Kyutai's names; what is not among them is ignored, as their server does."""
    return settings({ours: query[theirs] for theirs, ours in KYUTAI_NAMES.items() if theirs in query}, base)


def _sampling(base: Sampling, values: dict[str, float]) -> Sampling:
    return replace(base, **values)  # type: ignore[arg-type]


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{name} is {text[:40]!r}; it must be a number") from None


def _whole(name: str, text: str) -> int:
    # Python turns a text of many digits into a number slowly, on purpose; no seed is that long.
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise ConfigError(f"{name} is {text[:40]!r}; it must be a whole number, 0 or more")
    return int(text)
