"""Boundary by boundary: where two traces first differ, and how much of the rest agrees."""

from dataclasses import dataclass

import numpy as np

from clearline.config.lm import UNGENERATED
from clearline.trace import BOUNDARIES, Trace

# Largest relative difference that rounding alone explains: the bar of the golden files for float32. A lower precision
# needs a wider one (bfloat16 keeps 8 bits: 0.03 or so after some layers).
ROUNDING = 1e-4


@dataclass(frozen=True)
class Difference:
    """One boundary of two traces, over the `compared` steps in which both have a value.

    frame: the first step that differs (for numbers: by more than rounding), or None. differing: how many steps do.
    rounding: numbers only, the largest |a - b| / max|a| before `frame`; largest: the same over all steps.
    """

    boundary: str
    compared: int
    frame: int | None
    differing: int
    rounding: float | None = None
    largest: float | None = None
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None


def differences(a: Trace, b: Trace, tolerance: float = ROUNDING) -> list[Difference]:
    """Every boundary that both traces have, in the order in which a frame crosses them."""
    return [
        _difference(name, a.columns[name], b.columns[name], tolerance)
        for name in BOUNDARIES
        if name in a.columns.keys() & b.columns and not BOUNDARIES[name].clock
    ]


def first_difference(found: list[Difference]) -> Difference | None:
    """The earliest frame; within it, the boundary that is crossed first."""
    differing = [difference for difference in found if difference.frame is not None]
    return min(differing, key=lambda difference: difference.frame or 0, default=None)


def agreement(a: np.ndarray, b: np.ndarray) -> list[float]:
    """Share of equal tokens per stream of two columns [T, K]; over the shorter one, steps without a value left out."""
    length, width = min(len(a), len(b)), min(a.shape[1], b.shape[1])
    a, b = a[:length, :width], b[:length, :width]
    both = (a != UNGENERATED) & (b != UNGENERATED)
    return [float((a[both[:, k], k] == b[both[:, k], k]).mean()) if both[:, k].any() else float("nan") for k in range(width)]


def relative_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """max|a_t - b_t| / max|a| per step [T] of two columns [T, ...] of one shape; NaN where either has no value."""
    a, b = (column.reshape(len(column), -1).astype(np.float64) for column in (a, b))
    scale = np.nanmax(np.abs(a), initial=1e-30)
    error: np.ndarray = np.abs(a - b).max(1) / scale
    return error


def _difference(name: str, a: np.ndarray, b: np.ndarray, tolerance: float) -> Difference:
    if a.shape[1:] != b.shape[1:]:
        return Difference(name, 0, 0, min(len(a), len(b)), shapes=(a.shape[1:], b.shape[1:]))
    length = min(len(a), len(b))
    a, b = a[:length], b[:length]
    if BOUNDARIES[name].tokens:
        flat_a, flat_b = a.reshape(length, -1), b.reshape(length, -1)
        both = ((flat_a != UNGENERATED) & (flat_b != UNGENERATED)).all(1)
        steps = np.flatnonzero(both & (flat_a != flat_b).any(1))
        return Difference(name, int(both.sum()), _first(steps), len(steps))
    error = relative_error(a, b)
    both = ~np.isnan(error)
    steps = np.flatnonzero(both & (error > tolerance))
    before = error[: steps[0]] if len(steps) else error
    rounding, largest = (float(np.nanmax(part, initial=0.0)) for part in (before, error))
    return Difference(name, int(both.sum()), _first(steps), len(steps), rounding, largest)


def _first(steps: np.ndarray) -> int | None:
    return int(steps[0]) if len(steps) else None
