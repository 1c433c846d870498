"""How one stream of tokens is drawn from its logits."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from clearline.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """Sampling of the text or of the audio stream.

    temperature 0 is greedy. Filters apply in the order top-k, top-p, min-p; each is off at 0 (top-p also at 1).
    `repetition_penalty` looks back over the last `repetition_context` spoken text tokens and divides positive logits
    (multiplies negative ones) by the penalty; `padding_bonus` is added to the padding token's log-probability after the
    temperature. Both concern the text stream only.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_context: int = 32
    padding_bonus: float = 0.0

    def __post_init__(self) -> None:
        plain_numbers(self)
        within("temperature", self.temperature, 0.0, 100.0)
        within("top-p", self.top_p, 0.0, 1.0)
        within("min-p", self.min_p, 0.0, 1.0)
        within("repetition penalty", self.repetition_penalty, 0.01, 100.0)
        within("padding bonus", self.padding_bonus, -1000.0, 1000.0)
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or not 0 <= self.top_k < 2**31:
            raise ConfigError(f"top-k is {self.top_k!r}; it must be a whole number, 0 (off) or more")
        if not isinstance(self.repetition_context, int) or self.repetition_context < 0:
            raise ConfigError(f"repetition context is {self.repetition_context}; it must be a whole number, 0 or more")

    @staticmethod
    def greedy() -> "Sampling":
        """Always the most likely token; ties to the lowest id."""
        return Sampling(temperature=0.0)


def plain_numbers(settings: Any) -> None:
    """NumPy's numbers in a dataclass of settings become Python's, which JSON can write: a seed out of `np.arange` is a seed."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, np.generic):
            object.__setattr__(settings, field.name, value.item())


def within(name: str, value: float, low: float, high: float) -> None:
    """Raise ConfigError unless low <= value <= high."""
    if not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"{name} is {value!r}; it must lie in {low:g}..{high:g}")
