"""A free-running recogniser, quoted: what it writes proves nothing, because it writes sentences for noise too."""

from pathlib import Path

import numpy as np

from clearline.errors import ClearlineError


def quote(voice: np.ndarray, folder: Path) -> str:
    """What faster-whisper with the model in `folder` writes for voice float32 [n] at 16 kHz, with the warning it needs.

    Raises ClearlineError where the package or the model is not there; nothing is downloaded.
    """
    if not folder.is_dir():
        raise ClearlineError(f"{folder} is not a folder with a faster-whisper model (nothing is downloaded here)")
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise ClearlineError("faster-whisper is not installed: pip install faster-whisper") from error
    try:
        model = WhisperModel(str(folder), device="cpu", compute_type="float32", local_files_only=True)
    except (RuntimeError, ValueError, OSError) as error:
        raise ClearlineError(f"{folder} cannot be read as a faster-whisper model: {error}") from error
    said = " ".join(part.text.strip() for part in model.transcribe(voice, beam_size=5)[0])
    return f"a free-running recogniser writes {said!r}, which proves nothing: it writes sentences for noise too"
