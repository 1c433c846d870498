"""Writing a large safetensors or GGUF file piece by piece: resumable after a kill, verified, and never seen half-written."""

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from clearline.checkpoint.gguf_blocks import BLOCK, BLOCK_BYTES, TYPES
from clearline.checkpoint.safetensors import DTYPES, file_hash
from clearline.errors import CheckpointError

_SYNC_BYTES = 64 << 20
_BLOCK = 1 << 20
GGUF_ALIGNMENT = 32


@dataclass(frozen=True)
class Entry:
    """One tensor of a file to be: name, dtype as safetensors spells it or a GGUF block type, logical shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def stored(self) -> tuple[int, ...]:
        """The shape of the array that is written: blocks are bytes, row by row."""
        if self.dtype in BLOCK_BYTES:
            return (self.shape[0], self.shape[1] // BLOCK * BLOCK_BYTES[self.dtype])
        return self.shape

    @property
    def nbytes(self) -> int:
        return math.prod(self.stored) * (1 if self.dtype in BLOCK_BYTES else DTYPES[self.dtype].itemsize)


@dataclass(frozen=True)
class Unit:
    """Tensors that are made together, and the function that makes them, in the order of `entries`."""

    entries: tuple[Entry, ...]
    make: Callable[[], Sequence[np.ndarray]]
    alignment: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes in the file, every entry filled up to the alignment."""
        return sum(-(-entry.nbytes // self.alignment) * self.alignment for entry in self.entries)


def write(
    path: Path,
    units: Sequence[Unit],
    key: str,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Write the units into `path`, GGUF if that is its suffix, else safetensors; returns the sha256 of the file.

    What is done lies in PATH.part, with a journal beside it; called again with the same `key` after a kill, it goes on
    after the last piece whose bytes are still what the journal says. The finished file is read back and compared before it
    takes its name.
    """
    header = gguf_header(units) if path.suffix == ".gguf" else safetensors_header(units)
    total = len(header) + sum(unit.nbytes for unit in units)
    part, journal = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.journal")
    digest = hashlib.sha256()
    try:
        done = _resume(part, journal, key, header, units, digest)
        with part.open("r+b" if done else "wb") as file, journal.open("a" if done else "w", encoding="utf-8") as log:
            if not done:
                log.write(json.dumps({"key": key}) + "\n")
                _put(file, log, digest, header)
                _sync(file, log)
                done = 1
            file.seek(0, os.SEEK_END)
            unsynced = 0
            for unit in units[done - 1 :]:
                data = b"".join(_bytes(unit))
                _put(file, log, digest, data)
                unsynced += len(data)
                if unsynced >= _SYNC_BYTES:
                    _sync(file, log)
                    unsynced = 0
                on_progress(file.tell(), total)
            _sync(file, log)
        if file_hash(part) != digest.hexdigest():
            part.unlink()
            raise CheckpointError(f"{part} does not read back as it was written: the disk is failing")
        part.replace(path)
        journal.unlink()
        sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error}. What is done is kept; the same command goes on from there") from error
    return digest.hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock file `path`, waiting for whoever has it. Yields whether there was a wait. Released even by kill -9."""
    with path.open("a+b") as file:
        waited = _lock(file)
        yield waited


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """A small file, complete or not there."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path}: {error}") from error


def _lock(file: IO[bytes]) -> bool:
    if os.name != "posix":  # pragma: no cover - Windows
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined]
        return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        fcntl.flock(file, fcntl.LOCK_EX)
        return True


def gguf_header(units: Sequence[Unit]) -> bytes:
    """Version 3: one word of metadata, then name, dimensions from the fastest, type and offset of every tensor."""
    entries = [entry for unit in units for entry in unit.entries]
    out = [b"GGUF", struct.pack("<IQQ", 3, len(entries), 1), _text("general.architecture"), struct.pack("<I", 8), _text("moshi")]
    at = 0
    for entry in entries:
        shape = entry.shape
        out += [_text(entry.name), struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))]
        out.append(struct.pack("<IQ", TYPES[entry.dtype], at))
        at += -(-entry.nbytes // GGUF_ALIGNMENT) * GGUF_ALIGNMENT
    header = b"".join(out)
    return header + bytes(-len(header) % GGUF_ALIGNMENT)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def safetensors_header(units: Sequence[Unit]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for entry in (entry for unit in units for entry in unit.entries):
        if entry.name in entries:
            raise CheckpointError(f"two tensors would be called {entry.name}")
        entries[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [at, at + entry.nbytes]}
        at += entry.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 64)  # so that the data is aligned when the file is mapped
    text += b" " * 56
    return len(text).to_bytes(8, "little") + text


def _bytes(unit: Unit) -> Iterator[memoryview | bytes]:
    for entry, array in zip(unit.entries, unit.make(), strict=True):
        if array.nbytes != entry.nbytes or array.shape != entry.stored:
            raise CheckpointError(f"{entry.name}: made {array.dtype} {array.shape}, announced {entry.dtype} {entry.stored}")
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        yield bytes(-entry.nbytes % unit.alignment)


def _put(file: IO[bytes], log: IO[str], digest: "hashlib._Hash", data: bytes) -> None:
    file.write(data)
    digest.update(data)
    log.write(json.dumps({"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}) + "\n")
    for stream in (file, log):  # what the system has outlives a kill of this process; syncing is for power cuts
        stream.flush()


def _sync(file: IO[bytes], log: IO[str]) -> None:
    for stream in (file, log):
        stream.flush()
        os.fsync(stream.fileno())


def _resume(part: Path, journal: Path, key: str, header: bytes, units: Sequence[Unit], digest: "hashlib._Hash") -> int:
    """How many pieces (the header is the first) are done; the part file is cut after them, and `digest` fed with them."""
    try:
        lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    except (OSError, ValueError):
        return 0
    if not lines or lines[0].get("key") != key or not part.is_file():
        return 0
    sizes = [len(header), *(unit.nbytes for unit in units)]
    done, end = 0, 0
    with part.open("rb") as file:
        for line, size in zip(lines[1:], sizes, strict=False):
            piece = hashlib.sha256()
            left = size if line.get("bytes") == size else 0
            blocks: list[bytes] = []
            while left and (block := file.read(min(_BLOCK, left))):
                piece.update(block)
                blocks.append(block)
                left -= len(block)
            if left or piece.hexdigest() != line.get("sha256"):
                break
            for block in blocks:
                digest.update(block)
            done, end = done + 1, end + size
    if not done:
        return 0
    os.truncate(part, end)
    kept = [json.dumps(line) for line in lines[: done + 1]]
    write_text(journal, "\n".join(kept) + "\n")
    return done
