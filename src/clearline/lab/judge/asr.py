"""A free-running recogniser, quoted: what it writes proves nothing, because it writes sentences for noise too."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from clearline.errors import ClearlineError


def check_folder(folder: Path) -> None:
    """Raise ClearlineError when `quote` could not even begin: looked at before the witnesses take their time."""
    if not folder.is_dir():
        raise ClearlineError(f"{folder} is not a folder with a faster-whisper model (nothing is downloaded here)")
    if find_spec("faster_whisper") is None:
        raise ClearlineError("faster-whisper is not installed: pip install faster-whisper")


def quote(voice: np.ndarray, folder: Path) -> str:
    """What faster-whisper with the model in `folder` writes for voice float32 [n] at 16 kHz, with the warning it needs.

    Raises ClearlineError where the package or the model is not there; nothing is downloaded.
    """
    check_folder(folder)
    from faster_whisper import WhisperModel

    try:
        model = WhisperModel(str(folder), device="cpu", compute_type="float32", local_files_only=True)
    except (RuntimeError, ValueError, OSError) as error:
        raise ClearlineError(f"{folder} cannot be read as a faster-whisper model: {error}") from error
    said = " ".join(part.text.strip() for part in model.transcribe(voice, beam_size=5)[0])
    return f"a free-running recogniser writes {said!r}, which proves nothing: it writes sentences for noise too"
