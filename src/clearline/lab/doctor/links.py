"""Lags and offsets between streams of tokens, measured: which step of one is which step of the other."""

from dataclasses import dataclass

import numpy as np

LAGS = range(-2, 9)
OFFSETS = (0, 1, -1)
# Share of steps in which a stream must equal its source for a lag to be believed.
BELIEVED = 0.9
_FEWEST = 10


@dataclass(frozen=True)
class Link:
    """target[t] = source[t - lag] + offset in `share` of the steps."""

    lag: int
    offset: int
    share: float

    @property
    def believed(self) -> bool:
        return self.share >= BELIEVED


def link(target: np.ndarray, source: np.ndarray, initial: int, expected: int = 0) -> Link:
    """The best lag and offset between two streams [T]; steps that hold no token or the initial one do not count. Of lags that
    fit equally well, as all do where a stream stands still, the expected one."""
    best = Link(expected, 0, 0.0)
    for offset in OFFSETS:
        for lag in sorted(LAGS, key=lambda lag: abs(lag - expected)):
            share = _share(target, source, initial, lag, offset)
            if share > best.share + 1e-9:
                best = Link(lag, offset, share)
    return best


def _share(target: np.ndarray, source: np.ndarray, initial: int, lag: int, offset: int) -> float:
    """Share of steps in which target[t] = source[t - lag] + offset; 0 where too few steps tell."""
    length = min(len(target) - max(0, lag), len(source) - max(0, -lag))
    if length < _FEWEST:
        return 0.0
    x, y = target[max(0, lag) :][:length], source[max(0, -lag) :][:length]
    # A token that an offset pushes out of the vocabulary may have become anything.
    there = (x >= 0) & (y >= 0) & (x != initial) & (y + offset >= 0) & (y + offset < initial)
    return float((x[there] == y[there] + offset).mean()) if there.sum() >= _FEWEST else 0.0
