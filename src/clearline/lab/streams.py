"""One stream of tokens by itself: how varied it is, over time; whether it is stuck, collapsed, or out of range."""

from dataclasses import dataclass

import numpy as np

WINDOW = 50  # frames: 4 s at 12.5 Hz


@dataclass(frozen=True)
class Stream:
    """Statistics of tokens [T].

    entropy: of the whole stream in bits, H = -sum f log2 f over token frequencies f (at most log2 of T, so short streams
    have little). windows: the same per window of 50 frames. common, common_share: the most frequent token.
    run, run_start: longest stretch of one token, in frames. invalid: steps whose token is no token of the vocabulary.
    """

    name: str
    steps: int
    distinct: int
    entropy: float
    windows: tuple[float, ...]
    common: int
    common_share: float
    run: int
    run_start: int
    invalid: int
    first_invalid: int | None


def stream(name: str, tokens: np.ndarray, card: int | None) -> Stream:
    """Measure tokens [T], T > 0; `card` None: any token from 0 on is valid."""
    values, counts = np.unique(tokens, return_counts=True)
    bad = np.flatnonzero((tokens < 0) | (tokens >= card if card is not None else False))
    edges = np.flatnonzero(np.concatenate([[True], tokens[1:] != tokens[:-1], [True]]))
    lengths = np.diff(edges)
    longest = int(lengths.argmax())
    windows = [entropy(tokens[i : i + WINDOW]) for i in range(0, len(tokens) - WINDOW + 1, WINDOW)]
    return Stream(
        name, len(tokens), len(values), entropy(tokens), tuple(windows), int(values[counts.argmax()]),
        float(counts.max() / len(tokens)), int(lengths[longest]), int(edges[longest]), len(bad),
        int(bad[0]) if len(bad) else None,
    )  # fmt: skip


def entropy(tokens: np.ndarray) -> float:
    """Bits per token of the observed frequencies."""
    counts = np.unique(tokens, return_counts=True)[1]
    f = counts / counts.sum()
    return float(-(f * np.log2(f)).sum()) + 0.0


@dataclass(frozen=True)
class Loop:
    """Whole frames repeat: from step `start` for `length` steps, each frame equals the one `period` steps earlier.

    chance: how many such stretches unrelated frames with the same token frequencies would give, at most
    T * periods * q^length, where q is the product over codebooks of sum f^2.
    """

    period: int
    start: int
    length: int
    chance: float


def longest_loop(codes: np.ndarray, longest_period: int = 250) -> Loop | None:
    """The longest stretch of codes [T, K] that repeats what was `period` frames before; None where nothing repeats."""
    periods = range(1, min(longest_period, len(codes) // 2) + 1)
    best: tuple[int, int, int] | None = None
    for period in periods:
        same = np.concatenate([[False], (codes[period:] == codes[:-period]).all(1), [False]])
        edges = np.flatnonzero(same[1:] != same[:-1]).reshape(-1, 2)
        if len(edges):
            lengths = edges[:, 1] - edges[:, 0]
            at = int(lengths.argmax())
            if best is None or lengths[at] > best[2]:
                best = period, int(edges[at, 0]) + period, int(lengths[at])
    if best is None:
        return None
    q = 1.0
    for column in codes.T:
        f = np.unique(column, return_counts=True)[1] / len(column)
        q *= float(f @ f)
    return Loop(*best, chance=float(len(codes) * len(periods) * q ** best[2]))
