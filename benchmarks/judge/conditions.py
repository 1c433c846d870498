"""What is done to a clean recording before the judge hears it, and what then ought to be said of it.

Each condition is a function (pcm float32 [n] at 24 kHz, random generator) -> (pcm, rate in Hz), with the truth that it makes:
"intelligible" sound may be clear or degraded. Whether listeners would agree was checked with word error rates of an
independent recogniser against the known text (`check_truth.py`), never with its transcripts alone.
"""

import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.signal
import soundfile
import soxr

RATE, FRAME = 24_000, 1920
Change = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, int]]


@dataclass(frozen=True)
class Condition:
    """truth: clear, degraded, garbled. family: conditions that are held out together."""

    name: str
    truth: str
    family: str
    change: Change


CONDITIONS: dict[str, Condition] = {}


def condition(truth: str, family: str) -> Callable[[Change], Change]:
    def add(change: Change) -> Change:
        name = change.__name__.replace("_", " ")
        CONDITIONS[name] = Condition(name, truth, family, change)
        return change

    return add


def noise(rng: np.random.Generator, count: int, colour: float = 0.0) -> np.ndarray:
    """Gaussian noise of unit power whose spectrum falls as f^-colour."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    spectrum /= np.maximum(np.fft.rfftfreq(count, 1 / RATE), 50.0) ** (colour / 2)
    out = np.fft.irfft(spectrum, count)
    return out / np.sqrt((out**2).mean())


def music(count: int, rng: np.random.Generator) -> np.ndarray:
    """Chords with a beat: three decaying tones with overtones every 0.2 to 0.5 s, and a knock with each."""
    out, beat, t = np.zeros(count + RATE), int(rng.uniform(0.2, 0.5) * RATE), np.arange(RATE) / RATE
    root = rng.uniform(110, 260)
    for start in range(0, count, beat):
        for step in rng.choice([0, 3, 4, 7, 9, 12, 16], 3, replace=False):
            pitch = root * 2 ** (step / 12)
            out[start : start + RATE] += np.exp(-4 * t) * sum(np.sin(2 * np.pi * pitch * k * t) / k for k in (1, 2, 3, 4))
        out[start : start + 600] += rng.standard_normal(600) * np.exp(-np.arange(600) / 150)
    return out[:count] / np.abs(out[:count]).max()


def power(pcm: np.ndarray) -> float:
    """Mean power of the loud part."""
    frames = pcm[: len(pcm) // 480 * 480].reshape(-1, 480) ** 2
    level = frames.mean(1)
    return float(level[level > level.max() / 1000].mean())


def with_noise(pcm: np.ndarray, rng: np.random.Generator, decibels: float, colour: float) -> np.ndarray:
    return pcm + noise(rng, len(pcm), colour) * np.sqrt(power(pcm) * 10 ** (-decibels / 10))


# ---- clear


@condition("clear", "clean")
def clean(pcm, rng):
    return pcm, RATE


@condition("clear", "clean")
def quiet(pcm, rng):
    return pcm * 10 ** (-rng.uniform(20, 32) / 20), RATE


@condition("clear", "clean")
def between_silences(pcm, rng):
    front, back = (np.zeros(int(rng.uniform(0.5, 4) * RATE), np.float32) for _ in range(2))
    return np.concatenate([front, pcm, back]), RATE


@condition("clear", "clean")
def light_noise(pcm, rng):
    return with_noise(pcm, rng, rng.uniform(28, 38), rng.uniform(0, 1)), RATE


@condition("clear", "clean")
def rate_48000(pcm, rng):
    return soxr.resample(pcm, RATE, 48_000), 48_000


@condition("clear", "clean")
def rate_16000(pcm, rng):
    return soxr.resample(pcm, RATE, 16_000), 16_000


# ---- degraded


@condition("degraded", "noise")
def noisy(pcm, rng):
    return with_noise(pcm, rng, rng.uniform(7, 16), rng.uniform(0, 1.2)), RATE


@condition("degraded", "clipping")
def clipped(pcm, rng):
    return np.clip(pcm / np.abs(pcm).max() * 10 ** (rng.uniform(12, 24) / 20), -1, 1), RATE


@condition("degraded", "clicks")
def frame_clicks(pcm, rng):
    """Every frame begins with a jump, as with a codec whose state is lost or a callback that is under-filled."""
    out = pcm.copy()
    depth = rng.uniform(0.15, 0.5) * np.abs(pcm).max()
    for start in range(0, len(out), FRAME):
        n = min(len(out) - start, 48)
        out[start : start + n] += depth * rng.choice([-1, 1]) * np.exp(-np.arange(n) / rng.uniform(4, 16))
    return out, RATE


@condition("degraded", "dropouts")
def underruns(pcm, rng):
    """A fifth of the frames begin with 10 to 30 ms of silence."""
    out = pcm.copy()
    for start in range(0, len(out), FRAME):
        if rng.random() < 0.25:
            out[start : start + int(rng.uniform(0.01, 0.03) * RATE)] = 0
    return out, RATE


@condition("degraded", "rate")
def slow(pcm, rng):
    """Played at the wrong rate: 22.05 kHz sound called 16 kHz, and the like."""
    return pcm, int(RATE * rng.uniform(0.66, 0.78))


@condition("degraded", "rate")
def fast(pcm, rng):
    return pcm, int(RATE * rng.uniform(1.3, 1.5))


@condition("degraded", "loop")
def repeated(pcm, rng):
    """A piece in the middle is said again and again, then it goes on."""
    start, size = int(rng.uniform(0.2, 0.5) * len(pcm)), int(rng.uniform(0.25, 0.5) * RATE)
    return np.concatenate([pcm[: start + size], *[pcm[start : start + size]] * int(rng.integers(2, 5)), pcm[start + size :]]), RATE


@condition("degraded", "telephone")
def telephone(pcm, rng):
    low = soxr.resample(pcm, RATE, 8_000)
    law = np.sign(low) * np.log1p(255 * np.abs(np.clip(low, -1, 1))) / np.log(256)
    law = np.round(law * 127) / 127
    return np.sign(law) * (256 ** np.abs(law) - 1) / 255, 8_000


@condition("degraded", "coding")
def opus_low(pcm, rng):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(pcm, -1, 1), RATE, format="OGG", subtype="OPUS", compression_level=0.99)
    buffer.seek(0)
    return soundfile.read(buffer, dtype="float32")[0], RATE


@condition("degraded", "room")
def room(pcm, rng):
    seconds = rng.uniform(0.25, 0.6)
    tail = rng.standard_normal(int(seconds * RATE)) * 10 ** (-3 * np.arange(int(seconds * RATE)) / (seconds * RATE))
    tail *= rng.uniform(0.3, 0.7) / np.sqrt((tail**2).sum())
    tail[0] = 1
    return scipy.signal.fftconvolve(pcm, tail), RATE


@condition("degraded", "frames lost")
def frames_dropped(pcm, rng):
    """One to three of a hundred frames of 80 ms are missing."""
    frames = np.pad(pcm, (0, -len(pcm) % FRAME)).reshape(-1, FRAME)
    kept = rng.random(len(frames)) > rng.uniform(0.01, 0.03)
    kept[len(frames) // 2] = False
    return frames[kept].reshape(-1), RATE


@condition("degraded", "frames lost")
def frames_doubled(pcm, rng):
    """Some frames are played twice."""
    frames = np.pad(pcm, (0, -len(pcm) % FRAME)).reshape(-1, FRAME)
    times = 1 + (rng.random(len(frames)) < rng.uniform(0.05, 0.1))
    times[len(frames) // 2] = 2
    return np.repeat(frames, times, 0).reshape(-1), RATE


@condition("degraded", "offset")
def constant_offset(pcm, rng):
    return pcm * 0.7 + rng.choice([-1, 1]) * rng.uniform(0.05, 0.25), RATE


@condition("degraded", "music")
def music_behind(pcm, rng):
    played = music(len(pcm), rng)
    return pcm + played * np.sqrt(power(pcm) / power(played) * 10 ** (-rng.uniform(12, 22) / 10)), RATE


@condition("degraded", "bits")
def few_bits(pcm, rng):
    steps = 2 ** int(rng.integers(5, 7))
    return np.round(pcm / np.abs(pcm).max() * steps) / steps, RATE


@condition("degraded", "bits")
def law_misread(pcm, rng):
    """Logarithmic (mu-law like) samples taken as linear ones: everything soft is loud."""
    loud = pcm / np.abs(pcm).max()
    return 0.5 * np.sign(loud) * np.log1p(255 * np.abs(loud)) / np.log(256), RATE


# ---- garbled, done to the sound


@condition("garbled", "reversed")
def backwards(pcm, rng):
    return pcm[::-1].copy(), RATE


@condition("garbled", "reversed")
def frames_backwards(pcm, rng):
    """Every frame of 80 ms by itself played backwards."""
    padded = np.pad(pcm, (0, -len(pcm) % FRAME)).reshape(-1, FRAME)
    return padded[:, ::-1].reshape(-1).copy(), RATE


@condition("garbled", "shuffled")
def frames_shuffled(pcm, rng):
    padded = np.pad(pcm, (0, -len(pcm) % FRAME)).reshape(-1, FRAME)
    return padded[rng.permutation(len(padded))].reshape(-1), RATE


@condition("garbled", "shuffled")
def milliseconds_shuffled(pcm, rng):
    size = int(rng.uniform(0.008, 0.03) * RATE)
    padded = np.pad(pcm, (0, -len(pcm) % size)).reshape(-1, size)
    return padded[rng.permutation(len(padded))].reshape(-1), RATE


@condition("garbled", "bands")
def bands_scattered(pcm, rng):
    """Eight bands, each moved in time by 0.24 s or more against the others: what wrong codebooks do, with any voice."""
    _, _, z = scipy.signal.stft(pcm, RATE, nperseg=960, noverlap=720)
    edges = np.linspace(0, 1, 9) ** 1.6 * z.shape[0]
    order = rng.permutation(8) - 3.5
    for band in range(8):
        rows = slice(int(edges[band]), int(edges[band + 1]))
        z[rows] = np.roll(z[rows], int(order[band] * rng.uniform(24, 30)), 1)
    return scipy.signal.istft(z, RATE, nperseg=960, noverlap=720)[1].astype(np.float32), RATE


@condition("garbled", "bands")
def patches_shuffled(pcm, rng):
    """Eight bands, the frames of each shuffled by themselves."""
    _, _, z = scipy.signal.stft(pcm, RATE, nperseg=960, noverlap=480)
    columns = z.shape[1] // 4 * 4
    edges = (np.linspace(0, 1, 9) ** 1.6 * z.shape[0]).astype(int)
    for low, high in itertools.pairwise(edges):
        blocks = z[low:high, :columns].reshape(high - low, -1, 4)
        z[low:high, :columns] = blocks[:, rng.permutation(blocks.shape[1])].reshape(high - low, -1)
    return scipy.signal.istft(z, RATE, nperseg=960, noverlap=480)[1].astype(np.float32), RATE


@condition("garbled", "spectrum")
def spectrum_inverted(pcm, rng):
    """Frequencies turned over below 5 kHz: scrambler speech."""
    low = soxr.resample(pcm, RATE, 10_000)
    return soxr.resample(low * (-1.0) ** np.arange(len(low)), 10_000, RATE), RATE


@condition("garbled", "spectrum")
def envelope_noise(pcm, rng):
    """Noise with the loudness of the speech: its rhythm and nothing else."""
    envelope = scipy.signal.filtfilt(*scipy.signal.butter(2, 20 / (RATE / 2)), np.abs(pcm))
    return np.maximum(envelope, 0) * noise(rng, len(pcm), rng.uniform(0, 1)), RATE


@condition("garbled", "noise alone")
def drowned(pcm, rng):
    return with_noise(pcm, rng, rng.uniform(-20, -14), rng.uniform(0, 1)), RATE


@condition("garbled", "noise alone")
def noise_alone(pcm, rng):
    return noise(rng, len(pcm), rng.uniform(0, 2)) * 10 ** (rng.uniform(-35, -10) / 20), RATE


@condition("garbled", "noise alone")
def tones(pcm, rng):
    t = np.arange(len(pcm)) / RATE
    melody = np.repeat(rng.uniform(100, 900, len(pcm) // 6000 + 1), 6000)[: len(pcm)]
    return sum(np.sin(2 * np.pi * np.cumsum(melody * k) / RATE) / k for k in range(1, 6)) * 0.1 + 0 * t, RATE


@condition("garbled", "music")
def music_alone(pcm, rng):
    return 0.5 * music(max(len(pcm), 2 * RATE), rng), RATE


@condition("garbled", "buzz")
def buzz(pcm, rng):
    """A row of pulses, of one pitch or gliding, at one level or swelling: the pitch of a voice and nothing else of it."""
    t = np.arange(len(pcm)) / RATE
    pitch = rng.uniform(60, 250) * (1 + rng.choice([0, 0.2]) * np.sin(2 * np.pi * rng.uniform(0.3, 2) * t))
    pulses = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0)
    return 0.8 * pulses * (1 - rng.choice([0, 0.9]) * (np.sin(2 * np.pi * rng.uniform(1, 4) * t) > 0)), RATE


@condition("garbled", "bytes")
def floats_as_integers(pcm, rng):
    """32-bit floats read as 16-bit integers: every second sample is noise, at half the speed."""
    return np.frombuffer(pcm.astype("<f4").tobytes(), "<i2").astype(np.float32) / 32768, RATE


@condition("garbled", "bytes")
def misaligned_bytes(pcm, rng):
    """16-bit samples read from the middle of one: high bytes of one with low bytes of the next."""
    raw = np.round(np.clip(pcm, -1, 1) * 32767).astype("<i2").tobytes()[1:-1]
    return np.frombuffer(raw, "<i2").astype(np.float32) / 32768, RATE


@condition("garbled", "bytes")
def bytes_swapped(pcm, rng):
    whole = np.round(np.clip(pcm, -1, 1) * 32767).astype("<i2")
    return whole.view(">i2").astype(np.float32) / 32768, RATE


@condition("garbled", "loop")
def stuck(pcm, rng):
    """One stretch of 80 to 240 ms for ever."""
    size = FRAME * int(rng.integers(1, 4))
    loud = int(np.argmax(np.convolve(pcm**2, np.ones(size), "valid")[:: FRAME // 4])) * (FRAME // 4)
    piece = pcm[loud : loud + size]
    return np.tile(piece, len(pcm) // len(piece) + 1)[: len(pcm)], RATE


@condition("garbled", "smeared")
def smeared(pcm, rng):
    """An echo of three seconds louder than the voice."""
    tail = noise(rng, 3 * RATE) * 10 ** (-2 * np.arange(3 * RATE) / (3 * RATE))
    out = scipy.signal.fftconvolve(pcm, tail)
    return out / np.abs(out).max() * 0.5, RATE
