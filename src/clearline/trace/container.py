"""The file of a trace: a mark, then chunks. Each chunk is a whole safetensors file behind its length and checksum.

    16 bytes   "clearline-trace2"
    a chunk:   u64 length of the body, u32 CRC-32 of the body (both little-endian), the body

A body's metadata has one key, "clearline", whose JSON may hold `facts` (merged over those of earlier chunks), `rows` (how
many steps the chunk's tensors have, each [rows, ...]) and `end` (true in the last chunk of a run that finished). A
boundary that no step of a chunk has is left out of it. Tokens are stored as the smallest of int16, int32 and int64 that
holds the chunk. Chunks are only ever appended: a reader may follow a file that grows, and a file whose last chunk is
torn (a crash, kill -9) is read up to the chunk before.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from clearline.errors import ClearlineError

MAGIC = b"clearline-trace2"
_HEAD = 12
_KEY = "clearline"


def chunk(columns: Mapping[str, np.ndarray], note: Mapping[str, Any]) -> bytes:
    """One chunk of columns [rows, ...] and its note. The same content gives the same bytes."""
    packed = {name: _packed(column) for name, column in columns.items()}
    body = save(packed, {_KEY: json.dumps(note, sort_keys=True)})
    return len(body).to_bytes(8, "little") + zlib.crc32(body).to_bytes(4, "little") + body


def chunks(path: Path) -> Iterator[tuple[dict[str, np.ndarray], dict[str, Any]]]:
    """The whole chunks of a file, in order; a torn last one is left out. Raises ClearlineError for anything else."""
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise ClearlineError(f"{path} is not a readable trace: {error.strerror or error}") from error
    if data[: len(MAGIC)] != MAGIC:
        raise ClearlineError(f"{path} is not a Clearline trace of version 2")
    at = len(MAGIC)
    while at + _HEAD <= len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        crc = int.from_bytes(data[at + 8 : at + _HEAD], "little")
        body = data[at + _HEAD : at + _HEAD + length]
        end = at + _HEAD + length
        if end > len(data) or (zlib.crc32(body) != crc and end == len(data)):
            return
        if zlib.crc32(body) != crc:
            raise ClearlineError(f"{path} is damaged: the chunk at byte {at} does not have the checksum that was written with it")
        yield _unpacked(path, at, bytes(body))
        at = end


def _packed(column: np.ndarray) -> np.ndarray:
    if column.dtype.kind not in "iu":
        return np.ascontiguousarray(column)
    low, high = int(column.min(initial=0)), int(column.max(initial=0))
    for dtype in (np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.ascontiguousarray(column, dtype)
    return np.ascontiguousarray(column, np.int64)


def _unpacked(path: Path, at: int, body: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
        note = json.loads(header["__metadata__"][_KEY])
        columns = {name: a.astype(np.int64) if a.dtype.kind in "iu" else a for name, a in load(body).items()}
        if not isinstance(note, dict) or any(len(column) != note.get("rows") for column in columns.values()):
            raise ValueError("its columns are not of the length it says")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ClearlineError(f"{path} is damaged: the chunk at byte {at}: {error}") from error
    return columns, note
