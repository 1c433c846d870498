"""Reading any common audio file."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from clearline.errors import AudioError

FORMATS = "WAV, FLAC, Ogg Vorbis or Opus, MP3, AIFF, CAF"
# Programs that stream a WAV out write a size they do not know yet as one of these.
_UNKNOWN_SIZES = (0, 0x7FFFFFFF, 0xFFFFFFFF)
# libsndfile's length of a stream whose header does not say how long it is.
_UNKNOWN_FRAMES = 2**63 - 1


@dataclass(frozen=True)
class Recording:
    """Samples float32 [n, channels], nominally in -1..1, and their rate in Hz."""

    samples: np.ndarray
    rate: int


def read_audio(path: Path, max_seconds: float | None = None) -> Recording:
    """Decode a whole file.

    Raises AudioError when it is missing, not audio, cut short, empty, contains NaN, or is longer than `max_seconds`
    (which is checked before anything is decoded).
    """
    _check_file(path)
    try:
        with soundfile.SoundFile(path) as file:
            rate, declared = file.samplerate, file.frames
            if declared == _UNKNOWN_FRAMES:
                raise AudioError(f"{path} does not say in its header how long it is; encode it again, to a file and not to a pipe")
            if max_seconds is not None and declared > max_seconds * rate:
                raise AudioError(
                    f"{path} is {declared / rate / 60:.1f} minutes long; the limit is {max_seconds / 60:g} minutes "
                    "(raise it with --max-minutes, or max_seconds in Python)"
                )
            _check_size(path, str(file.extra_info))
            samples = file.read(declared, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path} cannot be read as audio ({_reason(error)}); readable formats: {FORMATS}") from error
    except TypeError as error:  # soundfile's way of saying that a headerless file tells it nothing
        raise AudioError(f"{path} is raw samples without a header; readable formats: {FORMATS}") from error
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        raise AudioError(f"{path} cannot be read: {error}") from error
    # MP3 headers only estimate the length; every other format knows it.
    if len(samples) < declared and path.suffix.lower() != ".mp3":
        raise AudioError(f"{path} is cut short: its header promises {declared} samples, it holds {len(samples)}")
    if samples.size == 0:
        raise AudioError(f"{path} holds no samples")
    if not np.isfinite(samples).all():
        raise AudioError(f"{path} contains NaN or infinite samples, first at {_first_bad(samples) / rate:.3f} s")
    return Recording(samples, rate)


def _check_file(path: Path) -> None:
    try:
        if not path.exists():
            raise AudioError(f"{path} does not exist")
        if path.is_dir():
            raise AudioError(f"{path} is a folder, not an audio file")
        if not path.is_file():
            raise AudioError(f"{path} is a pipe or a device, not a file; save the recording to a file first")
        if path.stat().st_size == 0:
            raise AudioError(f"{path} is empty (0 bytes)")
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        raise AudioError(f"{path} cannot be read: {error}") from error


def _check_size(path: Path, log: str) -> None:
    """libsndfile reads a cut WAV, AIFF, AU, W64 or RF64 without complaint; its log says what the header promised."""
    for promised, found in re.findall(
        r"^ *(?:data|SSND|Data Size|riff|Riff size) +: (\d+) \(should be (\d+)\)", log, re.MULTILINE
    ):  # fmt: skip
        if int(promised) > int(found) and int(promised) not in _UNKNOWN_SIZES:
            raise AudioError(f"{path} is cut short: its header promises {promised} bytes, it holds {found}")


def _reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.strip().rstrip(".") or "it is damaged or cut short"


def _first_bad(samples: np.ndarray) -> int:
    return int(np.flatnonzero(~np.isfinite(samples).all(1))[0])
