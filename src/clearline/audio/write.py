"""Writing files that are either whole or not there."""

import io
import os
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from clearline.errors import ClearlineError


def wav_bytes(pcm: np.ndarray, rate: int) -> bytes:
    """A 16-bit mono WAV of pcm [n]; samples outside -1..1 are clipped."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(pcm, -1.0, 1.0), rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def clipped_samples(pcm: np.ndarray) -> int:
    """How many samples of pcm [n] lie outside -1..1, where a 16-bit file cannot follow."""
    return int(np.count_nonzero(np.abs(pcm) > 1.0))


def check_writable(path: Path) -> None:
    """Raise ClearlineError when `path` cannot be written: better before an hour of work than after it."""
    if path.is_dir():
        raise ClearlineError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise ClearlineError(f"cannot write {path}: the folder {path.parent} does not exist")
    if path.exists() and not path.is_file():
        return  # a device or a pipe: written directly
    try:
        handle, name = _beside(path)
    except OSError as error:
        raise ClearlineError(f"cannot write {path}: {error.strerror}") from error
    os.close(handle)
    Path(name).unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write aside, then rename: a full disk or a kill leaves no half-written file. Raises ClearlineError.

    A device or a pipe (/dev/null, /dev/stdout) is written directly: renaming onto it would replace it.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        _write_directly(path, data)
        return
    path = Path(os.path.realpath(path))  # a link stays a link: the file it names is replaced
    try:
        handle, name = _beside(path)
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


def _beside(path: Path) -> tuple[int, str]:
    """An open temporary file in the folder of `path`: only within one file system is a rename atomic."""
    return tempfile.mkstemp(dir=path.parent, prefix=".clearline-", suffix=".part")


def _write_directly(path: Path, data: bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(data)
    except OSError as error:
        raise ClearlineError(f"cannot write {path}: {error.strerror}") from error
