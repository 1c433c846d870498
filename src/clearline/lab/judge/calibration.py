"""From measures to probabilities: logistic curves fitted on recordings whose truth is known (benchmarks/judge).

calibration.json holds, for each witness, a curve over its measures; for each set of witnesses that may be at hand, how
their log odds are weighed together; and how often verdicts made so were wrong on recordings and kinds of damage that were
not used for fitting.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from math import exp
from typing import Any

import numpy as np

from clearline.lab.judge.judgement import Rates

# Log odds are held within what the number of recordings can support.
STRONGEST = 5.0


@dataclass(frozen=True)
class Curve:
    """log odds = bias + sum of weight * (measure - mean) / scale, by the name of the measure."""

    measures: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def odds(self, values: Mapping[str, float]) -> float:
        """Log odds, within +-STRONGEST. A measure that is far from all that was seen counts as the farthest seen (4 scales)."""
        x = (np.array([values[name] for name in self.measures]) - self.mean) / self.scale
        return float(np.clip(self.bias + np.clip(x, -4, 4) @ np.array(self.weights), -STRONGEST, STRONGEST))


@cache
def calibration() -> Mapping[str, Any]:
    return json.loads((resources.files("clearline.lab.judge") / "calibration.json").read_text())


def curve(of: str, witness: str) -> Curve:
    """of: "garbled" or "degraded". KeyError where this witness has no opinion on that."""
    found = calibration()[of]["witnesses"][witness]
    return Curve(
        tuple(found["measures"]), tuple(found["mean"]), tuple(found["scale"]), tuple(found["weights"]), found["bias"]
    )  # fmt: skip


def has_curve(of: str, witness: str) -> bool:
    return witness in calibration()[of]["witnesses"]


def together(of: str, odds: Mapping[str, float]) -> float:
    """The probability that all these witnesses' log odds amount to."""
    found = calibration()[of]["together"][key(odds)]
    total = found["bias"] + sum(found["weights"][name] * value for name, value in odds.items())
    return probability(float(np.clip(total, -STRONGEST, STRONGEST)))


def rates(witnesses: Iterable[str], verdict: str) -> Rates | None:
    """How often this verdict of these witnesses was wrong; None where it never occurred."""
    found = calibration()["rates"].get(key(witnesses), {}).get(verdict)
    return None if found is None else Rates(found["verdicts"], found["wrong"])


def key(witnesses: Iterable[str]) -> str:
    return "+".join(sorted(witnesses))


def probability(odds: float) -> float:
    return 1 / (1 + exp(-odds))
