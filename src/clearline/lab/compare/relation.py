"""Is one set of codes the other in disguise: shifted in time, permuted, offset, reversed or cut?"""

from dataclasses import dataclass

import numpy as np

MAX_SHIFT = 3
OFFSETS = (0, 1, -1)
# A match must be this much better than leaving the stream as it is, and this share of its tokens must agree.
GAIN, LEAST = 0.2, 0.5
# Standard deviations above what two unrelated streams with the same token frequencies would give.
SIGNIFICANT = 5.0
_FEWEST = 5


@dataclass(frozen=True)
class Match:
    """How stream `codebook` of B is best had from A: B[codebook, t] = A[source, t - shift] + offset (A reversed in time
    first where `reverse`). agreement is the share of equal tokens then, `unchanged` that of A's own stream as it is.
    """

    codebook: int
    source: int
    shift: int
    offset: int
    reverse: bool
    agreement: float
    unchanged: float

    @property
    def identity(self) -> bool:
        return self.source == self.codebook and self.shift == 0 and self.offset == 0 and not self.reverse


@dataclass(frozen=True)
class Relation:
    """The matches of every stream of B, and in words what they mean together."""

    matches: tuple[Match, ...]
    findings: tuple[str, ...]

    @property
    def cut(self) -> int | None:
        """How many frames of A's beginning B lacks, where that is all there is to it and more than a shift would be."""
        plain = [m for m in self.matches if m.source == m.codebook and not m.offset and not m.reverse and m.agreement == 1]
        shifts = {match.shift for match in plain}
        return -min(shifts) if len(plain) == len(self.matches) and len(shifts) == 1 and min(shifts) < -MAX_SHIFT else None

    @property
    def disguised(self) -> bool:
        """Whether B is A changed in a way that could be named."""
        return any(not match.identity for match in self.matches)


def relate(a: np.ndarray, b: np.ndarray, noun: str = "codebook") -> Relation:
    """Compare codes [K, T] of any two sizes; every entry must be a token (no gaps).

    noun: what a stream is called; only of codebooks is the first one semantic and the others acoustic.
    """
    far = {reverse: _far_shift(a[:, ::-1] if reverse else a, b) for reverse in (False, True)}
    matches = tuple(_best(a, b[k], k, far) for k in range(len(b)))
    return Relation(matches, (*_findings(matches, noun), *_sizes(a, b, noun)))


def _far_shift(a: np.ndarray, b: np.ndarray) -> tuple[int, ...]:
    """The shift beyond MAX_SHIFT at which most tokens of all streams agree, where at least half of the shorter one overlaps.

    Every token becomes a random number of variance 1, so that the cross-correlation counts equal tokens, give or take noise.
    """
    low, high = int(min(a.min(), b.min())), int(max(a.max(), b.max()))
    values = np.random.default_rng(0).standard_normal(high - low + 1)
    size = 1 << int(np.ceil(np.log2(a.shape[1] + b.shape[1])))
    spectra = [np.fft.rfft(values[codes[: min(len(a), len(b))] - low], size) for codes in (a, b)]
    counts = np.fft.irfft((np.conj(spectra[0]) * spectra[1]).sum(0), size)
    shorter = min(a.shape[1], b.shape[1])
    shifts = np.arange(shorter // 2 - a.shape[1], b.shape[1] - shorter // 2 + 1)
    shifts = shifts[np.abs(shifts) > MAX_SHIFT]
    return (int(shifts[counts[shifts].argmax()]),) if len(shifts) else ()


def _best(a: np.ndarray, stream: np.ndarray, k: int, far: dict[bool, tuple[int, ...]]) -> Match:
    """The best way to have `stream`; the unchanged one unless another is clearly better, the simplest of equals."""
    unchanged = _agreement(a[k], stream, 0, 0)[0] if k < len(a) else 0.0
    best = Match(k, k, 0, 0, False, unchanged, unchanged)
    reached = unchanged + GAIN
    for reverse in (False, True):
        for source in [k, *(j for j in range(len(a)) if j != k)] if k < len(a) else range(len(a)):
            row = a[source, ::-1] if reverse else a[source]
            for offset in OFFSETS:
                for shift in sorted((*range(-MAX_SHIFT, MAX_SHIFT + 1), *far[reverse]), key=abs):
                    share, surprise = _agreement(row, stream, shift, offset)
                    if share >= LEAST and surprise > SIGNIFICANT and share > reached:
                        best = Match(k, source, shift, offset, reverse, share, unchanged)
                        reached = share + 1e-9
    return best


def _agreement(a: np.ndarray, b: np.ndarray, shift: int, offset: int) -> tuple[float, float]:
    """Share of t with b[t] = a[t - shift] + offset, and by how many standard deviations that exceeds chance.

    Chance is asked of the steps in which either stream moves on to another token: two silences look alike at any shift. There,
    p = sum over tokens of freq_a * freq_b, and the count of equal tokens is taken as binomial(n, p); 0 where fewer than half of
    them are equal.
    """
    length = min(len(a) - max(0, -shift), len(b) - max(0, shift))
    if length < _FEWEST:
        return 0.0, 0.0
    left = a[max(0, -shift) :][:length] + offset
    right = b[max(0, shift) :][:length]
    share = float((left == right).mean())
    moves = np.concatenate([[True], (left[1:] != left[:-1]) | (right[1:] != right[:-1])])
    left, right = left[moves], right[moves]
    equal = float((left == right).mean())
    if len(left) < _FEWEST or equal < LEAST:
        return share, 0.0
    low = int(min(left.min(), right.min()))
    size = int(max(left.max(), right.max())) - low + 1
    frequencies = [np.bincount(stream - low, minlength=size) / len(left) for stream in (left, right)]
    chance = float(frequencies[0] @ frequencies[1])
    return share, (equal - chance) * np.sqrt(len(left) / max(chance * (1 - chance), 1e-12))


def _findings(matches: tuple[Match, ...], noun: str) -> list[str]:
    moved = [match for match in matches if not match.identity]
    total = len(matches)
    found = []
    reverse = [match.codebook for match in moved if match.reverse]
    if reverse:
        found.append(f"{_streams(reverse, total, noun)} backwards in time")
    for offset in OFFSETS[1:]:
        which = [match.codebook for match in moved if match.offset == offset]
        if which:
            found.append(f"every token of B's {_list(which, noun)} is {offset:+d}")
    permuted = [match for match in moved if match.source != match.codebook]
    if permuted:
        pairs = ", ".join(f"{match.codebook} is A's {match.source}" for match in permuted)
        found.append(f"{noun}s are permuted: B's {pairs}")
    return found + _shifts(matches, noun)


def _shifts(matches: tuple[Match, ...], noun: str) -> list[str]:
    """Shifts in time; the semantic codebook against the acoustic ones is the case that garbles audio."""
    shifts = {match.codebook: match.shift for match in matches if match.agreement >= LEAST}
    if not any(shifts.values()):
        return []
    acoustic = {shift for codebook, shift in shifts.items() if codebook > 0}
    if noun == "codebook" and 0 in shifts and len(acoustic) == 1 and acoustic != {shifts[0]}:
        apart = acoustic.pop() - shifts[0]
        lines = [f"the acoustic codebooks of B are {_frames(apart)} against the semantic one than in A: this garbles audio"]
        return lines + ([f"the semantic codebook is itself {_frames(shifts[0])}"] if shifts[0] else [])
    groups = {by: [k for k, shift in shifts.items() if shift == by] for by in sorted(set(shifts.values()) - {0})}
    return [f"{_streams(which, len(matches), noun)} {_frames(by)} than in A" for by, which in groups.items()]


def _frames(shift: int) -> str:
    return f"{abs(shift)} frame{'s' if abs(shift) > 1 else ''} {'later' if shift > 0 else 'earlier'}"


def _streams(which: list[int], total: int, noun: str) -> str:
    if len(which) == total:
        return f"every {noun} of B is"
    return f"{_list(which, noun)} of B {'are' if len(which) > 1 else 'is'}"


def _list(which: list[int], noun: str) -> str:
    return f"{noun}{'s' if len(which) > 1 else ''} {', '.join(map(str, which))}"


def _sizes(a: np.ndarray, b: np.ndarray, noun: str) -> list[str]:
    lines = []
    if len(a) != len(b):
        lines.append(f"A has {len(a)} {noun}s, B has {len(b)}")
    if a.shape[1] != b.shape[1]:
        lines.append(f"A has {a.shape[1]} frames, B has {b.shape[1]}")
    return lines
