"""What every witness listens to: the stretches with sound, one after the other, at 16 kHz."""

from dataclasses import dataclass

import numpy as np

from clearline.audio import to_mono

RATE = 16_000
# A frame counts as sound when it is louder than this (dB of full scale), and not this much quieter than the loudest.
QUIETEST_DB, BELOW_LOUDEST_DB = -60.0, 35.0
# Pauses longer than this are cut down to it (seconds); this much is kept around a stretch of sound.
_PAUSE, _KEPT = 0.5, 0.2
_FRAME = 320  # 20 ms


@dataclass(frozen=True)
class Heard:
    """pcm float32 [n] mono at `rate` Hz, as it came; `voice` float32 [m] at 16 kHz: its stretches with sound, pauses cut
    short; loudest: level of the loudest 20 ms in dB of full scale; active: seconds of `voice` above the threshold;
    start, end: of the sound, in seconds of pcm."""

    pcm: np.ndarray
    rate: int
    voice: np.ndarray
    loudest: float
    active: float
    start: float
    end: float


def hear(pcm: np.ndarray, rate: int) -> Heard:
    """Samples [n] or [n, channels] as `to_mono` takes them; none at all is silence. Raises AudioError."""
    samples = np.asarray(pcm)
    if samples.size == 0 and samples.ndim in (1, 2):
        return Heard(np.zeros(0, np.float32), rate, np.zeros(0, np.float32), -np.inf, 0.0, 0.0, 0.0)
    mono = to_mono(samples, rate, rate)
    voice = to_mono(mono, rate, RATE)
    level = levels(voice)
    loudest = float(level.max(initial=-np.inf))
    sounding = level > max(QUIETEST_DB, loudest - BELOW_LOUDEST_DB)
    if not sounding.any():
        return Heard(mono, rate, voice[:0], loudest, 0.0, 0.0, 0.0)
    at = np.flatnonzero(sounding)
    kept = _kept(sounding)
    frames = np.pad(voice, (0, -len(voice) % _FRAME)).reshape(-1, _FRAME)
    return Heard(
        mono, rate, frames[kept].reshape(-1), loudest, float(sounding.sum()) * 0.02, float(at[0]) * 0.02, float(at[-1] + 1) * 0.02
    )


def levels(pcm: np.ndarray) -> np.ndarray:
    """Level of each 20 ms of pcm [n] at 16 kHz, in dB of full scale; the last frame filled up with zeros."""
    frames = np.pad(pcm, (0, -len(pcm) % _FRAME)).reshape(-1, _FRAME).astype(np.float64)
    level: np.ndarray = 10 * np.log10((frames**2).mean(1) + 1e-12)
    return level


def _kept(sounding: np.ndarray) -> np.ndarray:
    """Which 20 ms frames bool [n] to listen to: the sounding ones, a margin around them, and the beginning of pauses."""
    margin = round(_KEPT / 0.02)
    near = np.convolve(sounding, np.ones(2 * margin + 1))[margin : margin + len(sounding)] > 0
    longest = round(_PAUSE / 0.02)
    kept, gap = near.copy(), 0
    for n, sound in enumerate(near):
        gap = 0 if sound else gap + 1
        kept[n] = gap <= longest - 2 * margin
    first, last = np.flatnonzero(near)[[0, -1]]
    kept[:first], kept[last + 1 :] = False, False
    return kept
