"""Codes or sound alone, of a program nobody can look into: garbled or clear, and if possible why."""

from dataclasses import dataclass

import numpy as np

from clearline.audio import Recording, to_mono
from clearline.generate import Codec
from clearline.lab.align import ALPHA, FEWEST
from clearline.lab.consistency import (
    BY_CHANCE,
    SILENCE_DB,
    Consistency,
    consistency,
    loudness,
    own_consistency,
    reference_consistency,
)
from clearline.lab.doctor.alignment import DELAY_REMEDY
from clearline.lab.doctor.finding import LIKELY, POSSIBLE, Chart, Finding
from clearline.lab.doctor.shifts import sweep_codes
from clearline.lab.order import order_p
from clearline.lab.stats import sign_test

# Share of semantic codes that come back from which on codes are beyond doubt; a codec that gives less of its own, of this sound
# and of clear speech, proves nothing. (nano's codec: 71% to 83% of its replies' come back, 9% to 32% of what it encodes of others.)
SURE, TRAINED = 0.6, 0.15
# From this p on, frames that sound are in no order: at most 0.002 of 16 intact sequences of 40 to 110 such frames.
DISORDERLY = 0.05
# Share of the sounding frames that differ from each other below which they stand still; speech has 90% and more.
STILL = 0.1


@dataclass(frozen=True)
class Guise:
    """One way in which codes may have been changed: undo [K, T] -> [K, T]."""

    name: str
    what: str
    remedy: str
    codes: np.ndarray


def look_at_codes(codec: Codec, codes: np.ndarray, chart: Chart) -> None:
    """Codes [K, T] of one speaker as they were decoded: do they belong together, and if not, as what would they?"""
    bins = codec.cfg.bins
    codes = codes[: codec.cfg.n_q]
    good: np.ndarray = np.all((codes >= 0) & (codes < bins), axis=0)
    if not good.all():
        bad = codes[:, ~good]
        chart.found(
            Finding(
                "codes-out-of-range",
                "wrong tokens",
                "codes_out",
                "codes are decoded that the codec does not have",
                f"{int((~good).sum())} of {len(good)} frames hold codes outside 0..{bins - 1} (from {int(bad.min())} to "
                f"{int(bad.max())})",
                "drop frames with initial tokens before decoding; audio tokens have no offset",
                LIKELY,
            )
        )
        codes = codes[:, good]
    if len(codes) < 2 or codes.shape[1] < FEWEST + 4:
        chart.unknown("codes", f"{codes.shape[0]} codebooks of {codes.shape[1]} frames are too few to tell")
        return
    pcm = codec.decode(codes).astype(np.float32)
    sounding = codes[:, loudness(pcm.reshape(-1, codec.frame_size)) > SILENCE_DB]
    different = len(np.unique(sounding, axis=1).T)
    if sounding.shape[1] >= FEWEST and different < STILL * sounding.shape[1]:
        chart.found(
            Finding(
                "codes-stuck",
                "wrong tokens",
                "codes_out",
                "the codes stand still while they sound",
                f"{sounding.shape[1]} frames with sound hold {different} different ones",
                "look at the sampling of the audio tokens, and whether each step's own are decoded",
                LIKELY,
            )
        )
        return
    if sweep_codes(codec, codes, chart) is False:
        return
    plain = consistency(codec, codes, pcm)
    if plain.frames < FEWEST:
        return
    if plain.first >= SURE:
        chart.passed("codes", f"{plain.first:.0%} of the semantic codes come back from the decoded sound")
        return
    tried = [
        (guise, consistency(codec, guise.codes, codec.decode(guise.codes).astype(np.float32))) for guise in guises(codes, bins)
    ]
    guise, found = max(tried, key=lambda pair: np.nan_to_num(pair[1].first))
    if found.frames >= FEWEST and found.first > max(TRAINED, 2 * plain.first) and _better(found, plain) < ALPHA:
        chart.found(
            Finding(
                guise.name,
                "wrong tokens",
                "codes_out",
                guise.what,
                f"undone, {found.first:.0%} of the semantic codes come back from the decoded sound, {plain.first:.0%} as they are",
                guise.remedy,
                LIKELY,
            )
        )
        return
    own = own_consistency(codec, pcm, len(codes))
    trained = max(own.beyond_chance, reference_consistency(codec, len(codes)).beyond_chance)
    order = order_p(codec, codes)
    if trained < TRAINED:
        chart.unknown("codes", f"this codec gives {trained:.0%} of its own sound's codes back: it proves nothing")
    elif plain.evidence < BY_CHANCE:
        chart.found(
            Finding(
                "unexplained-tokens",
                "wrong tokens",
                "codes_out",
                "the codes of a frame do not belong together, or the frames not beside each other: what is decoded is garbled",
                f"{plain.first:.0%} of the semantic codes come back from the decoded sound, as by chance ({plain.chance:.1%}); "
                f"{trained:.0%} of the codec's own do; no shift, offset, order or reversal mends it",
                "record the tokens as they are sampled and the rows fed (a trace), and ask again",
                POSSIBLE,
            )
        )
    elif order is not None and order > DISORDERLY:
        chart.found(
            Finding(
                "frames-out-of-order",
                "wrong tokens",
                "codes_out",
                "the frames are in no order: neighbours are no more alike than any two",
                f"a permutation test of the frames' latents (p {order:.2f}, where clear speech has 0.02 at most)",
                "decode frames in the order of time, each once",
                LIKELY,
            )
        )
    else:
        chart.passed("codes", f"{plain.first:.0%} of the semantic codes come back (this codec's own share: {own.first:.0%})")


def guises(codes: np.ndarray, bins: int) -> list[Guise]:
    """Codes with one suspected change undone."""
    order = "keep the order in which the depformer wrote them"
    offset = "audio tokens are 0..card-1: no offset between model and codec"
    # Beyond what the shift sweep moves. The few frames that come round from the other end do not decide.
    far = [
        Guise(
            "acoustic-delay",
            f"the acoustic delay that was undone is {abs(by)} too {'large' if by > 0 else 'small'}",
            DELAY_REMEDY,
            np.concatenate([codes[:1], np.roll(codes[1:], by, 1)]),
        )
        for by in (-5, -4, -3, 3, 4, 5)
    ]
    return [
        *far,
        Guise("audio-vocabulary-offset", "every code is one too large", offset, np.clip(codes - 1, 0, bins - 1)),
        Guise("audio-vocabulary-offset", "every code is one too small", offset, np.clip(codes + 1, 0, bins - 1)),
        Guise("buffer-reversed", "the frames are in reverse order", "decode frames in the order of time", codes[:, ::-1].copy()),
        Guise("codebooks-permuted", "the codebooks are in reverse order", order, codes[::-1].copy()),
        Guise(
            "codebooks-permuted", "the acoustic codebooks are in reverse order", order, np.concatenate([codes[:1], codes[:0:-1]])
        ),
        Guise("codebooks-permuted", "the codebooks are rotated by one", order, np.roll(codes, -1, 0)),
        Guise("codebooks-permuted", "the codebooks are rotated by one", order, np.roll(codes, 1, 0)),
    ]


def _better(a: Consistency, b: Consistency) -> float:
    """Exact sign test over frames of which both know whether their code came back; where the frames are others (reversed),
    over counts."""
    pairs = [(x, y) for x, y in zip(a.hits, b.hits, strict=False) if x is not None and y is not None]
    if len(pairs) < FEWEST:
        return sign_test(round(a.first * a.frames), round(b.first * b.frames))
    return sign_test(sum(x and not y for x, y in pairs), sum(y and not x for x, y in pairs))


def look_at_signal(output: Recording, chart: Chart, what: str = "speaker") -> None:
    """What a recording says by itself: level, clipping, holes."""
    pcm = to_mono(output.samples, output.rate, output.rate)
    peak = float(np.abs(pcm).max())
    if peak < 1e-3:
        chart.found(
            Finding(
                "silent", "note", what, "the recording is silent", f"its peak is {peak:.1e}", "nothing can be said about it", LIKELY
            )
        )
        return
    at_peak = np.abs(pcm) >= 0.999 * peak
    runs = float((at_peak[1:] & at_peak[:-1]).mean())
    if runs > 0.002:
        chart.found(
            Finding(
                "output-level",
                "wrong audio path",
                what,
                "the recording is clipped",
                f"{runs:.1%} of its samples lie at its peak, one after the other",
                "lower the level before the samples are written; floats belong in -1..1",
                LIKELY,
            )
        )
    holes = _holes(pcm, output.rate)
    if holes >= 5:
        chart.found(
            Finding(
                "callback-underfilled",
                "wrong audio path",
                what,
                f"the sound is cut by {holes} gaps of exact silence with hard edges (clicks)",
                "exact zeros of 0.5 to 70 ms, with loud samples right before or after",
                "fill the whole buffer from a queue of decoded samples; look at the times of the frames too",
                LIKELY,
            )
        )


def _holes(pcm: np.ndarray, rate: int) -> int:
    """Gaps of exact zeros, 0.5 to 70 ms long, that begin or end with a jump."""
    zero = np.concatenate([[False], pcm == 0, [False]])
    edges = np.flatnonzero(zero[1:] != zero[:-1]).reshape(-1, 2)
    level = float(np.sqrt(np.mean(pcm.astype(np.float64) ** 2)))
    count = 0
    for begin, end in edges:
        inside = begin > 0 and end < len(pcm) and 0.0005 * rate <= end - begin <= 0.07 * rate
        if inside and max(abs(float(pcm[begin - 1])), abs(float(pcm[end]))) > 0.3 * level:
            count += 1
    return count
