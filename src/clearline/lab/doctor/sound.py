"""Comparing two sounds as a chain of known operations would relate them: how much of one is left unexplained by the other."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from clearline.audio import to_mono
from clearline.lab.compare.sound import relate_sound

RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
FRAME = 1920
# Correlations: the same sound but for rounding and a good resampler's edge; the same sound in its main part.
SAME, AKIN = 0.999, 0.98


@dataclass(frozen=True)
class Fit:
    """b = gain * a, `lag` samples later, after `transform` (relate_sound's words): correlation, 1 when that is all."""

    correlation: float
    lag: int = 0
    gain: float = 1.0
    transform: str = ""

    @property
    def unexplained_db(self) -> float:
        """Power of b that a does not explain, in dB of b's."""
        return float(10 * np.log10(max(1 - self.correlation**2, 1e-12)))

    @property
    def plain(self) -> bool:
        """The same samples at the same place and level."""
        return not self.transform and self.correlation >= SAME and self.lag == 0 and abs(self.gain - 1) < 0.02


def frames(pcm: np.ndarray, size: int = FRAME) -> np.ndarray:
    """[n] as [frames, size], the last one filled up with zeros."""
    pcm = np.asarray(pcm, np.float32).reshape(-1)
    return np.pad(pcm, (0, -len(pcm) % size)).reshape(-1, size)


def fit(a: np.ndarray, b: np.ndarray, size: int = FRAME) -> Fit:
    """The best simple relation of b [m] to a [n]; correlation 0 where either is silent."""
    if straight(a, b) > 0.99999:
        length = min(len(a), len(b))
        x, y = (np.asarray(s[:length], np.float64) for s in (a, b))
        return Fit(straight(a, b), 0, float(x @ y / (x @ x)))
    found = relate_sound(frames(a, size), frames(b, size)) if len(a) and len(b) else None
    if found is None:
        return Fit(0.0)
    return Fit(found.correlation, found.lag, found.gain, found.transform)


def straight(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of a and b sample by sample, over the shorter; 0 where either is silent."""
    length = min(len(a), len(b))
    x, y = (np.asarray(s[:length], np.float64) for s in (a, b))
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else 0.0


def linear(pcm: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Resampling by linear interpolation, as it is often written by hand: sample n lies at n * rate / target."""
    count = int(len(pcm) * target / rate)
    at = np.arange(count) * (rate / target)
    return np.interp(at, np.arange(len(pcm)), pcm).astype(np.float32)


def nearest(pcm: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Resampling by taking the nearest earlier sample."""
    count = int(len(pcm) * target / rate)
    return np.asarray(pcm)[np.minimum((np.arange(count) * (rate / target)).astype(int), len(pcm) - 1)].astype(np.float32)


@dataclass(frozen=True)
class Route:
    """One way from samples in a file to samples at 24 kHz: `name` of the mistake ("" for the right way)."""

    name: str
    what: str
    make: Callable[[], np.ndarray]


def routes(samples: np.ndarray, rate: int, target: int) -> Iterator[Route]:
    """Ways in which samples [n] or [n, channels] at `rate` may have become mono at `target`, the right one first."""
    yield Route("", "resampled well", lambda: to_mono(samples, rate, target))
    mono = to_mono(samples, rate, rate)
    if rate != target:
        yield Route(
            "linear-resampling", f"resampled from {rate} to {target} Hz by linear interpolation", lambda: linear(mono, rate, target)
        )
        yield Route(
            "linear-resampling",
            f"resampled from {rate} to {target} Hz by repeating or dropping samples",
            lambda: nearest(mono, rate, target),
        )
        yield Route("wrong-rate", f"samples at {rate} Hz taken as if they were at {target} Hz", lambda: mono)
    for other in RATES:
        if other not in (rate, target):
            yield Route(
                "wrong-rate",
                f"samples at {rate} Hz taken as if they were at {other} Hz",
                lambda other=other: to_mono(mono, other, target),  # type: ignore[misc]
            )
    if samples.ndim == 2 and samples.shape[1] > 1:
        flat = np.ascontiguousarray(samples).reshape(-1)
        yield Route(
            "interleaved-channels", "channels one after the other taken as one channel", lambda: to_mono(flat, rate, target)
        )
        first = np.ascontiguousarray(samples[:, 0])
        yield Route("", "the first channel alone, resampled well", lambda: to_mono(first, rate, target))
