"""Reading a trace file, whole or torn, and writing one from memory."""

from pathlib import Path
from typing import Any

import numpy as np

from clearline.errors import ClearlineError
from clearline.trace.container import chunks
from clearline.trace.record import FileRecorder
from clearline.trace.schema import BOUNDARIES, Trace


def read_trace(path: Path) -> Trace:
    """A trace from its file; `complete` is False when the run died or is still going on.

    Raises ClearlineError when the file is no trace, is damaged before its end, or is of another version.
    """
    parts: list[tuple[int, dict[str, np.ndarray]]] = []
    facts: dict[str, Any] = {}
    complete = False
    for columns, note in chunks(path):
        facts |= note.get("facts", {})
        complete = bool(note.get("end"))
        parts.append((note.get("rows", 0), columns))
    unknown = sorted({name for _, columns in parts for name in columns} - BOUNDARIES.keys())
    if unknown:
        raise ClearlineError(f"{path} holds the boundary {unknown[0]!r}, which this version does not know")
    names = [name for name in BOUNDARIES if any(name in columns for _, columns in parts)]
    try:
        return Trace({name: _joined(name, parts) for name in names}, facts, complete)
    except ValueError as error:
        raise ClearlineError(f"{path} is damaged: chunks of different shapes: {error}") from error


def write_trace(path: Path, trace: Trace) -> None:
    """Write a trace that lies in memory, whole or not at all."""
    with FileRecorder(path, trace.columns) as recorder:
        recorder.begin(trace.facts)
        for step in range(trace.steps):
            recorder.add({name: column[step] for name, column in trace.columns.items()})


def _joined(name: str, parts: list[tuple[int, dict[str, np.ndarray]]]) -> np.ndarray:
    like = next(columns[name] for _, columns in parts if name in columns)
    missing = BOUNDARIES[name].missing
    rows = [columns.get(name, np.full((count, *like.shape[1:]), missing, like.dtype)) for count, columns in parts]
    return np.concatenate(rows)
