"""The generation settings a trace was made with, read back from its facts."""

from collections.abc import Mapping
from typing import Any

from clearline.config import PRESETS, GenerationConfig, Sampling
from clearline.errors import ConfigError


def settings_of(facts: Mapping[str, Any]) -> GenerationConfig | None:
    """The settings that the facts of a trace name, or None where they do not say."""
    if "text_sampling" in facts and "audio_sampling" in facts:
        try:
            return GenerationConfig(
                text=Sampling(**facts["text_sampling"]),
                audio=Sampling(**facts["audio_sampling"]),
                seed=facts.get("seed", 0),
                **facts.get("alignment", {}),
            )
        except (TypeError, ConfigError):
            return None
    return PRESETS.get(str(facts.get("preset")))
