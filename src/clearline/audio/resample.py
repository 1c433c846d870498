"""Resampling and mixing down, by soxr at its highest quality; never by linear interpolation."""

import numpy as np
import soxr

from clearline.errors import AudioError

MIN_RATE, MAX_RATE = 1_000, 768_000
MAX_CHANNELS = 64
# Floats this large are whole-number samples that nobody scaled: 8-bit ones reach 127.
MAX_PEAK = 100.0


def as_floats(samples: np.ndarray) -> np.ndarray:
    """int8, int16 and int32 scaled by their range to -1..1; anything else as it is."""
    if samples.dtype.kind == "i" and samples.dtype.itemsize <= 4:
        return samples / float(1 << (8 * samples.dtype.itemsize - 1))
    return samples


def to_mono(samples: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Samples [n] or [n, channels] at `rate` Hz -> mono float32 [m] at `target` Hz; channels are averaged.

    Floats are nominally in -1..1; int8, int16 and int32 are scaled by their range. Raises AudioError for another shape
    or dtype, NaN, no samples or no channels, floats that were never scaled, or an impossible rate.
    """
    try:
        samples = np.asarray(samples)
    except ValueError as error:
        raise AudioError(f"audio must be one array [n] or [n, channels]: {error}") from error
    samples = as_floats(samples)
    if samples.dtype.kind != "f" or samples.ndim not in (1, 2):
        raise AudioError(
            f"audio must be floats in -1..1, or int8, int16 or int32, of the shape [n] or [n, channels]; "
            f"got {samples.dtype} {list(samples.shape)}"
        )
    if samples.ndim == 2 and samples.shape[1] == 0:
        raise AudioError(f"the audio has no channels: its shape is {list(samples.shape)}")
    if samples.size == 0:
        raise AudioError(f"the audio holds no samples: its shape is {list(samples.shape)}")
    if samples.ndim == 2 and samples.shape[1] > MAX_CHANNELS:
        raise AudioError(
            f"the audio has the shape {list(samples.shape)}, which is {samples.shape[1]} channels; "
            "expected [n, channels]: transpose it?"
        )
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.number) or not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"a sample rate of {rate!r} Hz is not usable; it must lie in {MIN_RATE}..{MAX_RATE}")
    if not np.isfinite(samples).all():
        raise AudioError("the audio contains NaN or infinite samples")
    peak = max(float(samples.max()), -float(samples.min()))
    if peak > MAX_PEAK:
        raise AudioError(
            f"the audio reaches {peak:g}; floats must lie in -1..1 (whole-number samples: pass them as int16 or int32)"
        )
    mono = samples if samples.ndim == 1 else samples.mean(1, dtype=np.float64)
    mono = mono.astype(np.float32)
    return mono if rate == target else soxr.resample(mono, rate, target, quality="VHQ")
