"""Reading any common audio file, and writing files that are either whole or not there."""

import io
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from clearline.errors import AudioError, ClearlineError

FORMATS = "WAV, FLAC, Ogg Vorbis or Opus, MP3, AIFF, CAF"
# Programs that stream a WAV out write a size they do not know yet as one of these.
_UNKNOWN_SIZES = (0, 0x7FFFFFFF, 0xFFFFFFFF)


@dataclass(frozen=True)
class Recording:
    """Samples float32 [n, channels] in -1..1, and their rate in Hz."""

    samples: np.ndarray
    rate: int


def read_audio(path: Path, max_seconds: float | None = None) -> Recording:
    """Decode a whole file.

    Raises AudioError when it is missing, not audio, cut short, empty, contains NaN, or is longer than `max_seconds`
    (which is checked before anything is decoded).
    """
    if not path.exists():
        raise AudioError(f"{path} does not exist")
    if path.is_dir():
        raise AudioError(f"{path} is a folder, not an audio file")
    if path.stat().st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes)")
    try:
        with soundfile.SoundFile(path) as file:
            rate, declared = file.samplerate, file.frames
            if max_seconds is not None and declared > max_seconds * rate:
                raise AudioError(
                    f"{path} is {declared / rate / 60:.0f} minutes long; the limit is {max_seconds / 60:.0f} minutes "
                    "(raise it with --max-minutes)"
                )
            _check_size(path, str(file.extra_info))
            samples = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path} cannot be read as audio ({_reason(error)}); readable formats: {FORMATS}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise AudioError(f"{path} cannot be read: {error}") from error
    # MP3 headers only estimate the length; every other format knows it.
    if len(samples) < declared and path.suffix.lower() != ".mp3":
        raise AudioError(f"{path} is cut short: its header promises {declared} samples, it holds {len(samples)}")
    if samples.size == 0:
        raise AudioError(f"{path} holds no samples")
    if not np.isfinite(samples).all():
        raise AudioError(f"{path} contains NaN or infinite samples, first at {_first_bad(samples) / rate:.3f} s")
    return Recording(samples, rate)


def wav_bytes(pcm: np.ndarray, rate: int) -> bytes:
    """A 16-bit mono WAV of pcm [n]; samples outside -1..1 are clipped."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(pcm, -1.0, 1.0), rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def write_atomically(path: Path, data: bytes) -> None:
    """Write aside, then rename: a full disk or a kill leaves no half-written file. Raises ClearlineError."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent or Path(), prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise ClearlineError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; the result gets the permissions any new file would.
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)
        Path(name).replace(path)
    except OSError as error:
        raise ClearlineError(f"cannot write {path}: {error.strerror}; nothing was written there") from error
    finally:
        Path(name).unlink(missing_ok=True)


def _check_size(path: Path, log: str) -> None:
    """libsndfile reads a cut WAV or AIFF without complaint; its log says what the header promised."""
    found = re.search(r"^ ?(?:data|SSND) : (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    if found and int(found[1]) > int(found[2]) and int(found[1]) not in _UNKNOWN_SIZES:
        raise AudioError(f"{path} is cut short: its header promises {found[1]} bytes of samples, it holds {found[2]}")


def _reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.strip().rstrip(".") or "it is damaged or cut short"


def _first_bad(samples: np.ndarray) -> int:
    return int(np.flatnonzero(~np.isfinite(samples).all(1))[0])
