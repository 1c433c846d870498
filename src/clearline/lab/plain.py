"""Importing plain arrays: codes as .npy, .safetensors or .json, and recordings as the sound of a trace."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from clearline.audio import read_audio, to_mono
from clearline.errors import ClearlineError
from clearline.trace import BOUNDARIES, Trace

MAX_CODEBOOKS = 64  # the released codec has 32
RATE, FRAME_SIZE = 24_000, 1920


def read_plain(path: Path) -> Trace:
    """Codes [codebooks, frames] (also with a batch axis of 1 before, or transposed), or tensors named as boundaries.

    A single array becomes codes_out; of several, those are taken that have the name of a boundary, one row a step.
    """
    try:
        if path.suffix == ".npy":
            found: Any = np.load(path, allow_pickle=False)
        elif path.suffix == ".safetensors":
            found = load_file(path)
        else:
            found = json.loads(path.read_text())
    except (SafetensorError, ValueError, OSError, EOFError, RecursionError) as error:
        raise ClearlineError(f"{path} cannot be read: {error}") from error
    facts = {"imported_from": path.suffix.removeprefix(".")}
    if not isinstance(found, dict):
        return Trace({"codes_out": _codes(path, "codes", found)}, facts)
    columns = {name: _column(path, name, found[name]) for name in BOUNDARIES if name in found}
    if "codes" in found:
        columns["codes_out"] = _codes(path, "codes", found["codes"])
    if not columns:
        raise ClearlineError(
            f"{path} holds neither 'codes' nor a boundary ({', '.join(BOUNDARIES)}), but {', '.join(sorted(found)) or 'nothing'}"
        )
    return Trace(columns, facts)


def read_sound(path: Path) -> Trace:
    """A recording as pcm_out [frames, 1920] at 24 kHz, the last frame filled up with zeros."""
    recording = read_audio(path)
    pcm = to_mono(recording.samples, recording.rate, RATE)
    frames = np.pad(pcm, (0, -len(pcm) % FRAME_SIZE)).reshape(-1, FRAME_SIZE)
    return Trace({"pcm_out": frames}, {"imported_from": "recording", "rate": recording.rate})


def _codes(path: Path, name: str, found: Any) -> np.ndarray:
    """Any layout of codes as [frames, codebooks]."""
    codes = _array(path, name, found)
    if codes.ndim == 3 and codes.shape[0] == 1:
        codes = codes[0]
    if codes.ndim != 2 or codes.dtype.kind not in "iu" or codes.size == 0:
        raise ClearlineError(f"{path}: codes must be whole numbers [codebooks, frames], got {codes.dtype} {list(codes.shape)}")
    transposed = codes.shape[0] > MAX_CODEBOOKS >= codes.shape[1]
    return (codes if transposed else codes.T).astype(np.int64)


def _column(path: Path, name: str, found: Any) -> np.ndarray:
    column = _array(path, name, found)
    kinds = "iu" if BOUNDARIES[name].tokens else "f"
    if column.ndim == 0 or column.dtype.kind not in kinds:
        raise ClearlineError(f"{path}: {name} must be {BOUNDARIES[name].shape} a step, got {column.dtype} {list(column.shape)}")
    return column.astype(np.int64) if BOUNDARIES[name].tokens else column


def _array(path: Path, name: str, found: Any) -> np.ndarray:
    try:
        return np.asarray(found)
    except ValueError as error:
        raise ClearlineError(f"{path}: {name} has rows of different lengths") from error
