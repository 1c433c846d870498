"""The few transforms of the judge: loudness, mel bands, pitch, every 10 ms of sound at 16 kHz."""

import numpy as np

from clearline.lab.judge.hearing import RATE

HOP, SIZE, BANDS = 160, 512, 24


def _frames(pcm: np.ndarray, size: int) -> np.ndarray:
    padded = np.pad(pcm.astype(np.float64), (size // 2, size // 2 + HOP))
    return np.lib.stride_tricks.sliding_window_view(padded, size)[::HOP][: len(pcm) // HOP + 1]


def envelope(pcm: np.ndarray) -> np.ndarray:
    """Loudness [T] in dB, over 20 ms."""
    level: np.ndarray = 10 * np.log10((_frames(pcm, 320) ** 2).mean(1) + 1e-9)
    return level


def log_mel(pcm: np.ndarray) -> np.ndarray:
    """Power in 24 mel bands from 60 to 7600 Hz, [T, 24] in dB."""
    power = np.abs(np.fft.rfft(_frames(pcm, SIZE) * np.hanning(SIZE), axis=1)) ** 2
    bands: np.ndarray = 10 * np.log10(power @ _filters() + 1e-7)
    return bands


def _filters() -> np.ndarray:
    """Triangles [SIZE/2 + 1, BANDS], equally spaced in mel = 2595 log10(1 + f/700)."""
    top, bottom = (2595 * np.log10(1 + f / 700) for f in (7600, 60))
    corners = 700 * (10 ** (np.linspace(bottom, top, BANDS + 2) / 2595) - 1)
    f = np.fft.rfftfreq(SIZE, 1 / RATE)[:, None]
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    return np.clip(np.minimum((f - low) / (middle - low), (high - f) / (high - middle)), 0, None)


def pitch(pcm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fundamental frequency [T] in Hz (60..400) and its strength [T] in 0..1: the highest normalised autocorrelation."""
    frames = _frames(pcm, 640)
    frames = frames - frames.mean(1, keepdims=True)
    spectrum = np.fft.rfft(frames, 2048, axis=1)
    lags = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)
    window = 1 - np.arange(640) / 640  # what a periodic signal loses by the frame's end
    shortest, longest = RATE // 400, RATE // 60
    scaled = lags[:, shortest:longest] / (window[shortest:longest] * (lags[:, :1] + 1e-6))
    best = scaled.argmax(1)
    return RATE / (best + shortest), scaled[np.arange(len(best)), best].clip(0, 1)
