"""The shift sweep: do the semantic and the acoustic codebooks of a frame belong together?

The acoustic codebooks are moved by -2..+2 frames against the first one, each version is decoded, and each sound is asked
whether it encodes back to the codes it was made from (`consistency`). Codes that belong together come back; others do not.
Then the judge listens to each, without the codes: a second opinion that shares nothing with the first, and the only one where
the codec says nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clearline.errors import ClearlineError
from clearline.generate import Codec
from clearline.lab.consistency import Consistency, consistency
from clearline.lab.judge import Judgement, judge
from clearline.lab.judge.verdict import UNDECIDED
from clearline.lab.stats import sign_test

SHIFTS = (-2, -1, 0, 1, 2)
# Frames that a sweep needs, those of them with sound, and the largest p of the sign test between the best shift and any other.
FEWEST, SOUNDING, ALPHA = 25, 16, 0.01
# Random codes of a trained codec came back at most this often (in the first codebook, measured on nano's codec).
BARELY = 0.05


@dataclass(frozen=True)
class Shifted:
    """One version: the acoustic codebooks moved `shift` frames later. pcm float32 is its sound.

    p: exact sign test over frames, this version's first codes that came back against those of the best version. judgement:
    what the judge heard, None where it was not asked.
    """

    shift: int
    consistency: Consistency
    pcm: np.ndarray
    p: float = 1.0
    judgement: Judgement | None = None

    @property
    def garbled(self) -> float:
        """The judge's probability; one half where it was not asked or heard nothing."""
        return 0.5 if self.judgement is None or self.judgement.garbled is None else self.judgement.garbled


@dataclass(frozen=True)
class Alignment:
    """The versions, best first. shift: the best one, or None where the evidence does not decide; verdict says it."""

    versions: list[Shifted]
    shift: int | None
    verdict: str


def shifted(codes: np.ndarray, shift: int, reach: int = max(SHIFTS)) -> np.ndarray:
    """Codes [K, T] with all codebooks but the first moved `shift` frames later, cut to the T - 2 reach frames that every
    shift up to `reach` has: out[0, t] = codes[0, t + reach], out[k, t] = codes[k, t + reach - shift]."""
    length = codes.shape[1] - 2 * reach
    return np.concatenate([codes[:1, reach : reach + length], codes[1:, reach - shift : reach - shift + length]])


def align(
    codec: Codec,
    codes: np.ndarray,
    on_step: Callable[[int, int], None] | None = None,
    *,
    text: str | None = None,
    listen: Callable[..., Judgement] | None = judge,
) -> Alignment:
    """Sweep codes [K, T] of one speaker. text: what they should say, for the judge; listen: the judge, None to ask the codec
    alone. Raises ClearlineError when there are too few codebooks, frames, or no sound."""
    codes = np.asarray(codes)
    if codes.shape[1] < FEWEST + 2 * max(SHIFTS):
        raise ClearlineError(f"{codes.shape[1]} frames are too few to compare alignments; at least {FEWEST + 4} are needed")
    steps = len(SHIFTS) * (1 if listen is None else 2)
    versions = sweep(codec, codes, SHIFTS, None if on_step is None else lambda number, _: on_step(number, steps))
    if listen is not None:
        for number, version in enumerate(versions):
            versions[number] = replace(version, judgement=listen(version.pcm, codec.sample_rate, text=text))
            if on_step is not None:
                on_step(len(SHIFTS) + number, steps)
    return _judged(versions)


def sweep(
    codec: Codec, codes: np.ndarray, shifts: Sequence[int], on_step: Callable[[int, int], None] | None = None
) -> list[Shifted]:
    """Every version of codes [K, T], the one whose codes come back most often first, each tested against it."""
    if codes.shape[0] < 2:
        raise ClearlineError("an alignment needs a semantic and an acoustic codebook; there is only one")
    versions = []
    for number, shift in enumerate(shifts):
        moved = shifted(codes, shift, max(shifts))
        pcm = codec.decode(moved).astype(np.float32)
        versions.append(Shifted(shift, consistency(codec, moved, pcm), pcm))
        if on_step is not None:
            on_step(number, len(shifts))
    versions.sort(key=lambda version: (-np.nan_to_num(version.consistency.first, nan=-1.0), abs(version.shift)))
    best = versions[0]
    return [best] + [Shifted(v.shift, v.consistency, v.pcm, _against(best, v)) for v in versions[1:]]


def _against(best: Shifted, other: Shifted) -> float:
    pairs = [(a, b) for a, b in zip(best.consistency.hits, other.consistency.hits, strict=True) if a is not None and b is not None]
    return sign_test(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))


def _judged(versions: list[Shifted]) -> Alignment:
    """By the codes that come back; by ear where those do not decide. Where the two contradict each other, nothing is decided."""
    best, rivals = versions[0], versions[1:]
    by_codes = _by_codes(versions)
    ears = sorted(versions, key=lambda version: version.garbled)
    clear = ears[0].garbled < UNDECIDED[0] and ears[1].garbled > UNDECIDED[1]
    if by_codes.shift is None:
        if not clear:
            return by_codes
        order = [ears[0], *(version for version in versions if version is not ears[0])]
        evidence = f"by ear alone, one version can be understood and no other: {_heard(ears[0])} ({by_codes.verdict})"
        return Alignment(order, ears[0].shift, f"{_named(ears[0].shift)}: {evidence}")
    if best.judgement is None:
        return by_codes
    if clear and ears[0] is not best:
        contradiction = f"by ear the version at {ears[0].shift:+d} is the clear one ({_heard(ears[0])})"
        return Alignment(versions, None, f"undecided: {by_codes.verdict}, but {contradiction}")
    lesser = min(version.garbled for version in rivals)
    heard = f"by ear: garbled with {best.garbled:.0%} there, with {lesser:.0%} at least otherwise"
    return Alignment(versions, by_codes.shift, f"{by_codes.verdict}; {heard}")


def _by_codes(versions: list[Shifted]) -> Alignment:
    best, rivals = versions[0], versions[1:]
    if best.consistency.frames < SOUNDING:
        return Alignment(versions, None, f"only {best.consistency.frames} frames are not silent: too few to tell")
    worst = max(version.p for version in rivals)
    close = [version for version in rivals if version.p > ALPHA]
    evidence = f"{best.consistency.first:.0%} of the semantic codes come back, at most {rivals[0].consistency.first:.0%} otherwise"
    if best.consistency.first < BARELY:
        return Alignment(versions, None, f"no version gives its codes back ({evidence}): other codes, or another codec")
    if close:
        tied = ", ".join(f"{version.shift:+d}" for version in sorted(close, key=lambda v: v.shift))
        return Alignment(versions, None, f"undecided: {best.shift:+d} is best, but {tied} cannot be told from it ({evidence})")
    return Alignment(versions, best.shift, f"{_named(best.shift)}: {evidence} (p {worst:.1e})")


def _named(shift: int) -> str:
    """What a best shift means."""
    if shift == 0:
        return "aligned"
    way, size = ("later", "large") if shift > 0 else ("earlier", "small")
    return (
        f"MISALIGNED: right when the acoustic codebooks are moved {abs(shift)} frame{'s' * (abs(shift) > 1)} {way}: the acoustic "
        f"delay that was undone is {abs(shift)} too {size}"
    )


def _heard(version: Shifted) -> str:
    return "nothing" if version.judgement is None else version.judgement.evidence.rstrip(".")
