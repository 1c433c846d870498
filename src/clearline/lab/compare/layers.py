"""Layer by layer: which operation inside a step is the first to differ, where both sides can be looked into."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from clearline.app import Model
from clearline.errors import ClearlineError
from clearline.lab.compare.boundaries import ROUNDING
from clearline.lab.compare.forced import forcible
from clearline.lab.probes import probe_decoder, probe_encoder, probe_lm
from clearline.trace import Trace

Part = Literal["encoder", "language model", "decoder"]
# Which part of the model is between a boundary and the one before it.
PARTS: dict[str, Part] = {
    "codes_in": "encoder",
    "hidden": "language model",
    "text_logits": "language model",
    "audio_logits": "language model",
    "pcm_out": "decoder",
}


@dataclass(frozen=True)
class Layers:
    """One step of one part on both sides, fed the same: every layer that both have, in the order in which it runs.

    errors: largest |a - b| / max|a| of each layer's output. first: the first beyond the tolerance, None if there is none.
    missing: layers that only one side has, which says that the two are not built alike.
    """

    part: Part
    frame: int
    errors: dict[str, float]
    first: str | None
    missing: tuple[str, ...] = ()

    @property
    def finding(self) -> str:
        """The answer in one sentence."""
        names = list(self.errors)
        where = f"{self.part}, frame {self.frame}"
        if self.first is None:
            worst = max(names, key=lambda name: self.errors[name], default="")
            largest = f"the largest difference is {self.errors[worst]:.1e}, in {worst}" if names else "no layer could be compared"
            return f"{where}: all {len(names)} layers agree; {largest}"
        before = names[: names.index(self.first)]
        agreed = f"{len(before)} layers before it agree within {max(self.errors[name] for name in before):.1e}" if before else (
            "it is the first there is"
        )  # fmt: skip
        return f"{where}: the first layer that differs is {self.first}, by {self.errors[self.first]:.1e}; {agreed}"


def compare_layers(
    part: Part, frame: int, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], tolerance: float = ROUNDING
) -> Layers:
    """Two probed steps: each layer's output, flat, by name. Raises ClearlineError where they have no layer in common."""
    common = [name for name in a if name in b and a[name].shape == b[name].shape]
    if not common:
        raise ClearlineError(f"the {part} of the two sides has no layer in common")
    errors = {name: _error(a[name], b[name]) for name in common}
    first = next((name for name, error in errors.items() if not error <= tolerance), None)
    missing = tuple(name for name in (*a, *b) if name not in errors)
    return Layers(part, frame, errors, first, missing)


def probe_model(model: Model, trace: Trace, part: Part, frame: int) -> dict[str, np.ndarray]:
    """Every layer of one part of `model` at one step of a trace, fed what the trace was fed. Raises ClearlineError where the
    trace does not say what that was."""
    if part == "language model":
        rows, text, audio = forcible(model, trace)
        step = frame - (len(trace.columns["row"]) - len(rows))  # steps without all tokens come first
        if step < 0:
            raise ClearlineError(f"step {frame} has no tokens to be fed")
        fed = rows[: step + 1]
        if not np.array_equal(fed[0], model.config.initial_row):
            fed = np.concatenate([np.asarray(model.config.initial_row)[None], fed])
        return probe_lm(model, fed, int(text[step]), None if audio is None else audio[step])
    if part == "encoder":
        restart = trace.facts.get("alignment", {}).get("first_frame") == "restart"
        pcm, codebooks = _column(trace, "pcm_in"), _column(trace, "codes_in").shape[1]
        return probe_encoder(model.mimi, pcm[: frame + 1], codebooks, restart)
    codes = _column(trace, "codes_out")[: frame + 1]
    return probe_decoder(model.mimi, codes[((codes >= 0) & (codes < model.mimi.cfg.bins)).all(1)])


def _column(trace: Trace, name: str) -> np.ndarray:
    if name not in trace.columns:
        raise ClearlineError(f"the trace lacks {name}, which is needed to feed the codec")
    return trace.columns[name]


def _error(a: np.ndarray, b: np.ndarray) -> float:
    scale = max(float(np.abs(a).max(initial=0.0)), 1e-30)
    return float(np.abs(a.astype(np.float64) - b).max(initial=0.0)) / scale
