"""Resampling and mixing down, by soxr at its highest quality; never by linear interpolation."""

import numpy as np
import soxr

from clearline.errors import AudioError

MIN_RATE, MAX_RATE = 1_000, 768_000


def to_mono(samples: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Samples [n] or [n, channels] at `rate` Hz -> mono float32 [m] at `target` Hz; channels are averaged.

    Raises AudioError for another shape or dtype, NaN, no samples or no channels, or an impossible rate.
    """
    samples = np.asarray(samples)
    if samples.dtype.kind == "i" and samples.dtype.itemsize <= 4:
        samples = samples / float(1 << (8 * samples.dtype.itemsize - 1))
    if samples.dtype.kind != "f" or samples.ndim not in (1, 2):
        raise AudioError(f"audio must be floats or signed integers [n] or [n, channels], got {samples.dtype} {list(samples.shape)}")
    if samples.size == 0:
        raise AudioError(f"the audio holds no samples: its shape is {list(samples.shape)}")
    if isinstance(rate, bool) or not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"a sample rate of {rate} Hz is not usable; it must lie in {MIN_RATE}..{MAX_RATE}")
    if not np.isfinite(samples).all():
        raise AudioError("the audio contains NaN or infinite samples")
    mono = samples if samples.ndim == 1 else samples.mean(1, dtype=np.float64)
    mono = mono.astype(np.float32)
    return mono if rate == target else soxr.resample(mono, rate, target, quality="VHQ")
