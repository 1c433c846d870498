"""Sound as it travels: 16-bit samples at the codec's rate, or a telephone's 8 kHz with 8-bit companded samples (G.711)."""

import io
import typing

import numpy as np
import soundfile

from clearline.errors import ConfigError
from clearline.server.protocols.base import ProtocolError

_FULL_SCALE = 32768.0
TELEPHONE_RATE = 8000
_FACTOR = 3
TELEPHONE_CODEC_RATE = _FACTOR * TELEPHONE_RATE
# A 4 kHz low pass that is 2 ms late: 70 dB down from 4.6 kHz. soxr is better, but hands its samples out in blocks, of 60 ms for
# this pair of rates, and a telephone call has no such time to give away.
_TAPS = 96


class Samples(typing.Protocol):
    """One direction of one stream: bytes that follow each other, and float32 samples [n] at the codec's rate."""

    def decode(self, data: bytes) -> np.ndarray: ...
    def encode(self, pcm: np.ndarray) -> bytes: ...


class Linear16:
    """16-bit little endian."""

    def decode(self, data: bytes) -> np.ndarray:
        """Raises ProtocolError for half a sample."""
        if len(data) % 2:
            raise ProtocolError(f"sound comes as 16-bit samples, so it cannot have {len(data)} bytes")
        return np.frombuffer(data, "<i2").astype(np.float32) / _FULL_SCALE

    def encode(self, pcm: np.ndarray) -> bytes:
        return np.clip(np.rint(pcm * _FULL_SCALE), -32768, 32767).astype("<i2").tobytes()


class G711:
    """8 kHz, one byte a sample; `law` is ULAW or ALAW, as libsndfile, which does the companding, calls them."""

    def __init__(self, law: typing.Literal["ULAW", "ALAW"], codec_rate: int) -> None:
        if codec_rate != TELEPHONE_CODEC_RATE:
            raise ConfigError(f"telephone sound goes with a codec of {TELEPHONE_CODEC_RATE} Hz; this one works at {codec_rate} Hz")
        self._law = law
        self._up, self._down = Upsampler(), Downsampler()

    def decode(self, data: bytes) -> np.ndarray:
        samples, _ = soundfile.read(
            io.BytesIO(data), format="RAW", subtype=self._law, samplerate=TELEPHONE_RATE, channels=1, dtype="int16"
        )
        return self._up(samples.astype(np.float32) / _FULL_SCALE)

    def encode(self, pcm: np.ndarray) -> bytes:
        samples = self._down(pcm)
        if not samples.size:
            return b""
        file = io.BytesIO()
        whole = np.clip(np.rint(samples * _FULL_SCALE), -32768, 32767).astype(np.int16)
        soundfile.write(file, whole, TELEPHONE_RATE, format="RAW", subtype=self._law)
        return file.getvalue()


def _low_pass() -> np.ndarray:
    """Windowed sinc in its three phases, float32 [3, _TAPS / 3], sum 1."""
    taps = np.sinc((np.arange(_TAPS) - (_TAPS - 1) / 2) / _FACTOR) * np.kaiser(_TAPS, 7.0)
    return (taps / taps.sum()).astype(np.float32).reshape(-1, _FACTOR).T


class Upsampler:
    """8 kHz -> 24 kHz, float32 [n] -> [3 n], 2 ms late."""

    def __init__(self) -> None:
        # Every third tap meets a sample, the others the zeros between them.
        self._phases = _low_pass() * _FACTOR
        self._past = np.zeros(self._phases.shape[1] - 1, np.float32)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        if not samples.size:
            return np.zeros(0, np.float32)
        line = np.concatenate([self._past, samples])
        self._past = line[len(line) - len(self._past) :]
        return np.stack([np.convolve(line, phase, "valid") for phase in self._phases], 1).reshape(-1)


class Downsampler:
    """24 kHz -> 8 kHz, float32 [n] -> about [n / 3], 2 ms late; what does not make a sample yet waits."""

    def __init__(self) -> None:
        self._phases = _low_pass()
        self._past = np.zeros(_TAPS - 1, np.float32)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        line = np.concatenate([self._past, samples])
        count = max(0, (len(line) - _TAPS + _FACTOR) // _FACTOR)
        self._past = line[count * _FACTOR :]
        if not count:
            return np.zeros(0, np.float32)
        # Only every third sum is wanted: each tap of a phase meets every third sample of its own.
        used = line[: (count - 1) * _FACTOR + _TAPS].reshape(-1, _FACTOR).T
        return np.sum([np.convolve(part, phase[::-1], "valid") for part, phase in zip(used, self._phases, strict=True)], 0)
