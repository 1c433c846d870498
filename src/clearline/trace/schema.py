"""The boundaries of a step, in the order in which a frame crosses them, and what a trace is in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clearline.config.lm import UNGENERATED


@dataclass(frozen=True)
class Boundary:
    """One place where numbers pass from one part to the next. `shape` is that of one step; `tokens` or else floats.

    `clock`: not of the computation but of the machine, and so never the same twice.
    """

    name: str
    shape: str
    tokens: bool
    meaning: str
    clock: bool = False

    @property
    def missing(self) -> float:
        """What stands in a step that has no value here: -2 for tokens, NaN for numbers."""
        return UNGENERATED if self.tokens else np.nan


_ORDER = (
    Boundary("pcm_in", "[frame_size]", False, "the user's samples at the codec's rate"),
    Boundary("codes_in", "[n_user]", True, "the user's codes of this frame"),
    Boundary("row", "[1 + n_q]", True, "the tokens fed to the temporal transformer: text, own codebooks, the user's"),
    Boundary("hidden", "[dim]", False, "the temporal transformer's output after its norm"),
    Boundary("text_logits", "[text_card_out]", False, "before sampling"),
    Boundary("text_token", "[]", True, "sampled or forced at this step"),
    Boundary("audio_logits", "[dep_q, card]", False, "before sampling; NaN where the depformer did not run"),
    Boundary("audio_tokens", "[dep_q]", True, "sampled or forced at this step, not yet aligned"),
    Boundary("codes_out", "[dep_q]", True, "the codes that belong together after the delays are undone"),
    Boundary("pcm_out", "[frame_size]", False, "what is heard"),
    Boundary("seconds", "[]", False, "how long the step took", clock=True),
)
BOUNDARIES: dict[str, Boundary] = {boundary.name: boundary for boundary in _ORDER}
TOKENS = frozenset(name for name, boundary in BOUNDARIES.items() if boundary.tokens)
LOGITS = frozenset(("hidden", "text_logits", "audio_logits"))
PCM = frozenset(("pcm_in", "pcm_out"))
CLOCK = frozenset(name for name, boundary in BOUNDARIES.items() if boundary.clock)


@dataclass(frozen=True)
class Trace:
    """Columns [steps, ...] by boundary name, tokens as int64; the facts of the run; whether the run came to its end."""

    columns: Mapping[str, np.ndarray]
    facts: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = True

    @property
    def steps(self) -> int:
        return max((len(column) for column in self.columns.values()), default=0)

    def frames(self, name: str) -> np.ndarray:
        """The steps of a column that have a value: codes_out [T, dep_q] without the first rows of -2, say."""
        column = self.columns[name]
        flat = column.reshape(len(column), -1)
        absent = (flat == UNGENERATED).any(1) if BOUNDARIES[name].tokens else np.isnan(flat).any(1)
        return column[~absent]
