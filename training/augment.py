"""Waveform augmentation of the user's voice: speed, colour, room, noise, level."""

import numpy as np
import scipy.fft as fft
import soxr
from common import RATE

TRAIN_NOISE = ["white", "pink", "brown", "hum", "babble", "hiss", "wobble", "wobble", "taps", "taps"]
HELDOUT_NOISE = ["blue", "clicks", "surf"]


def coloured(n, slope, rng):
    """Noise whose power falls with frequency to the given power (0 white, 1 pink, 2 brown)."""
    spec = fft.rfft(rng.standard_normal(n, dtype=np.float32))
    f = np.maximum(np.arange(len(spec)), 10 * n / RATE) / n
    x = fft.irfft(spec * f ** np.float32(-slope / 2), n)
    return (x / (x.std() + 1e-9)).astype(np.float32)


def noise(kind, n, rng, voices=None):
    """n samples of unit power."""
    t = np.arange(n, dtype=np.float32) / RATE
    if kind == "hum":
        base = rng.choice([50, 60]) * rng.uniform(0.98, 1.02)
        x = sum(np.sin(2 * np.pi * (k * base * t + rng.random())) * rng.random() / k for k in range(1, 9))
        x = x + 0.05 * coloured(n, 1, rng)
    elif kind == "babble" and voices is not None:
        x = np.zeros(n, np.float32)
        for _ in range(rng.integers(3, 7)):
            other = voices(rng)
            other = np.tile(other, 1 + n // len(other))[:n]
            x += np.roll(other, rng.integers(n)) * rng.uniform(0.3, 1)
    elif kind == "clicks":
        x = np.zeros(n, np.float32)
        x[rng.integers(0, n, max(1, n // 3000))] = rng.standard_normal(max(1, n // 3000)) * 8
        x = np.convolve(x, np.exp(-np.arange(240) / 40) * rng.standard_normal(240), "same")
    elif kind == "wobble":  # swells and fades at random
        points = rng.uniform(0, 1, max(4, int(n / RATE * rng.uniform(1, 12)))) ** 2
        swell = np.interp(np.arange(n), np.linspace(0, n, len(points)), points)
        x = coloured(n, rng.uniform(-0.5, 2), rng) * (swell + rng.uniform(0, 0.5))
    elif kind == "taps":  # knocks of something resonant
        x = 0.02 * coloured(n, 1, rng)
        for _ in range(rng.integers(2, max(4, 6 * n // RATE))):
            m = int(rng.uniform(0.005, 0.15) * RATE)
            at, k = int(rng.integers(max(1, n - m))), np.arange(m)
            ring = np.sin(2 * np.pi * rng.uniform(150, 6000) / RATE * k) + rng.standard_normal(m)
            x[at : at + m] += (ring * np.exp(-5 * k / m) * rng.uniform(0.2, 1))[: n - at]
    elif kind == "surf":
        x = coloured(n, 1, rng) * (0.3 + np.abs(np.sin(2 * np.pi * (rng.uniform(0.3, 1.5) * t + rng.random()))))
    else:
        slope = {"white": 0, "pink": 1, "brown": 2, "blue": -1, "hiss": -0.5}.get(kind, 1)
        x = coloured(n, slope, rng)
    return (x / (np.sqrt(np.mean(x * x)) + 1e-9)).astype(np.float32)


def respeed(wav, rng):
    """Plays faster or slower: another pitch, another vocal tract, another pace."""
    r = float(np.exp(rng.uniform(np.log(0.84), np.log(1.2))))
    return soxr.resample(wav, RATE * r, RATE, "LQ").astype(np.float32)


def colour(wav, rng, room=True):
    """One filter for microphone colour, band limits and the room."""
    n = fft.next_fast_len(len(wav) + RATE // 3, real=True)
    f = np.arange(n // 2 + 1, dtype=np.float32) * RATE / n
    gain = np.interp(np.log(f + 30), np.log([30, 150, 400, 1000, 2500, 5000, 12000]), rng.uniform(-7, 7, 7)).astype(np.float32)
    kind = rng.random()
    if kind < 0.15:  # telephone
        gain -= 60 * ((f < 300) | (f > 3500))
    elif kind < 0.4:  # recorded at a lower rate
        gain -= 60 * (f > rng.choice([3900, 5400, 7800]))
    spec = fft.rfft(wav, n) * (10 ** (gain / 20))
    if room and rng.random() < 0.5:
        decay = rng.uniform(0.02, 0.12)  # RT60 of 0.14 .. 0.8 s
        m = int(RATE * min(0.33, 4 * decay))
        ir = rng.standard_normal(m).astype(np.float32) * np.exp(-np.arange(m) / (decay * RATE))
        ir *= 10 ** (-rng.uniform(3, 20) / 20) / np.sqrt(np.sum(ir * ir))
        ir[0] += 1
        spec = spec * fft.rfft(ir.astype(np.float32), n)
    return fft.irfft(spec, n)[: len(wav)].astype(np.float32)


def level(peak_db, wav):
    return wav * (10 ** (peak_db / 20) / (np.abs(wav).max() + 1e-9))


def random_level(rng):
    """Peak in dBFS: mostly ordinary levels, sometimes very soft."""
    return rng.uniform(-24, 0) if rng.random() < 0.75 else rng.uniform(-40, -24)


def add_noise(wav, speech_rms, rng, kinds=TRAIN_NOISE, voices=None, snr=None, rate=0.8):
    """Adds noise at 5..40 dB below the speech, more often loud than soft, over the whole of wav."""
    if rng.random() > rate:
        return wav
    snr = 5 + 35 * rng.random() ** 1.4 if snr is None else snr
    return wav + noise(str(rng.choice(kinds)), len(wav), rng, voices) * (speech_rms * 10 ** (-snr / 20))
