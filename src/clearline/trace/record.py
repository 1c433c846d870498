"""Recording what crosses the boundaries of a session: into a file while it runs, or into memory."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import numpy as np

from clearline.audio import check_writable
from clearline.errors import ClearlineError
from clearline.trace.container import MAGIC, chunk
from clearline.trace.schema import BOUNDARIES, TOKENS, Trace

# What a kill -9 may cost: 4 s of frames, or the megabytes of a few frames of logits.
CHUNK_ROWS = 50
CHUNK_BYTES = 4 << 20

Value = np.ndarray | np.floating | int | None


class Recorder(Protocol):
    """What `Model.run` records into: `begin` once with the facts of the run, then `add` once a frame."""

    boundaries: frozenset[str]

    def begin(self, facts: Mapping[str, Any]) -> None: ...
    def add(self, values: Mapping[str, Value]) -> None: ...


class MemoryRecorder:
    """Collects a `Trace`, for looking at a run right away."""

    def __init__(self, boundaries: Iterable[str] = TOKENS) -> None:
        self.boundaries = checked_boundaries(boundaries)
        self._facts: dict[str, Any] = {}
        self._rows = _Rows(self.boundaries)

    def begin(self, facts: Mapping[str, Any]) -> None:
        self._facts |= facts

    def add(self, values: Mapping[str, Value]) -> None:
        self._rows.add(values)

    def trace(self) -> Trace:
        """What was recorded so far."""
        return Trace(self._rows.columns(), dict(self._facts))


class FileRecorder:
    """Writes a trace file in chunks as the run goes on; use it in a `with` block.

    The file grows as PATH.part and takes its name when the block ends. A run that dies leaves PATH.part, which
    `read_trace` reads up to its last whole chunk. Raises ClearlineError when the file cannot be written.
    """

    def __init__(self, path: Path, boundaries: Iterable[str] = TOKENS, chunk_rows: int = CHUNK_ROWS) -> None:
        check_writable(path)
        self.boundaries = checked_boundaries(boundaries)
        self._path = path
        # A device or a pipe is written directly: there is nothing to rename.
        direct = path.exists() and not path.is_file()
        self._part = path if direct else path.with_name(path.name + ".part")
        self._chunk_rows = chunk_rows
        self._rows = _Rows(self.boundaries)
        self._file: BinaryIO | None = None

    def __enter__(self) -> "FileRecorder":
        try:
            self._file = self._part.open("wb", buffering=0)
        except OSError as error:
            raise ClearlineError(f"cannot write {self._part}: {error.strerror}") from error
        self._write(MAGIC)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._flush({"end": True})
        if self._file is not None:
            self._file.close()
        if kind is None and self._part != self._path:
            try:
                self._part.replace(self._path.resolve())
            except OSError as broken:
                raise ClearlineError(f"cannot write {self._path}: {broken.strerror}; the trace is in {self._part}") from broken

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Facts of the run; may be called again for those known only at its end, which come on top."""
        self._flush({"facts": dict(facts)})

    def add(self, values: Mapping[str, Value]) -> None:
        """One step: boundary name to value; None where this step has none."""
        self._rows.add(values)
        if self._rows.count >= self._chunk_rows or self._rows.nbytes >= CHUNK_BYTES:
            self._flush({})

    def _flush(self, note: dict[str, Any]) -> None:
        columns = self._rows.columns()
        self._write(chunk(columns, {"rows": self._rows.count} | note))
        self._rows = _Rows(self.boundaries)

    def _write(self, data: bytes) -> None:
        if self._file is None:
            raise ClearlineError(f"the recorder of {self._path} is used outside its `with` block")
        try:
            written = 0
            while written < len(data):  # an unbuffered write may take less than it is given
                written += self._file.write(data[written:])
        except OSError as error:
            raise ClearlineError(f"cannot write {self._part}: {error.strerror}; it holds the trace up to there") from error


class _Rows:
    """Steps not yet written: each boundary's values and the steps they belong to."""

    def __init__(self, boundaries: frozenset[str]) -> None:
        self._values: dict[str, tuple[list[int], list[np.ndarray]]] = {name: ([], []) for name in boundaries}
        self.count = 0
        self.nbytes = 0

    def add(self, values: Mapping[str, Value]) -> None:
        for name, (steps, rows) in self._values.items():
            value = values.get(name)
            if value is not None:
                array = np.array(value)  # a copy: the caller may use the memory again
                steps.append(self.count)
                rows.append(array)
                self.nbytes += array.nbytes
        self.count += 1

    def columns(self) -> dict[str, np.ndarray]:
        out = {}
        for name in BOUNDARIES:
            steps, rows = self._values.get(name, ([], []))
            if rows:
                out[name] = np.full((self.count, *rows[0].shape), BOUNDARIES[name].missing, rows[0].dtype)
                out[name][steps] = rows
        return out


def checked_boundaries(names: Iterable[str]) -> frozenset[str]:
    """The names as a set. Raises ClearlineError for a boundary that does not exist."""
    chosen = frozenset(names)
    unknown = sorted(chosen - BOUNDARIES.keys())
    if unknown:
        raise ClearlineError(f"there is no boundary {unknown[0]!r}; known: {', '.join(BOUNDARIES)}")
    return chosen
