"""The GGUF container (versions 2 and 3): tensors described in a header that is read within strict bounds, then mapped."""

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from clearline.checkpoint.blocks import BLOCK_TYPES
from clearline.checkpoint.lazy import Lazy, map_file
from clearline.checkpoint.safetensors import DTYPES
from clearline.errors import CheckpointError
from clearline.ops import Weight

_MAX_TENSORS = 1 << 16
_MAX_ENTRIES = 1 << 12
_MAX_TEXT = 1 << 16
_MAX_HEADER = 64 << 20
_DENSE = {0: "F32", 1: "F16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16"}
# Bytes of a metadata value of each scalar type; 8 is a string, 9 an array.
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def open_tensors(path: Path) -> dict[str, Lazy]:
    """Every tensor of a file, by its own name, shapes in row-major order. Raises CheckpointError for anything unsound."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is not a file")
    try:
        with path.open("rb") as file:
            entries, start = _Header(path, file).read()
    except (struct.error, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not a readable GGUF file: {error}") from error
    size = path.stat().st_size
    if not entries:
        return {}
    mapped = map_file(path)
    out: dict[str, Lazy] = {}
    end = 0
    for name, (shape, kind, offset) in sorted(entries.items(), key=lambda item: item[1][2]):
        tensor, nbytes = _lazy(path, mapped, name, shape, kind, start + offset)
        if offset < end or start + offset + nbytes > size:
            raise CheckpointError(
                f"{path}: {name} lies at bytes {offset}..{offset + nbytes}, outside the file or in another tensor"
            )
        end = offset + nbytes
        out[name] = tensor
    return out


def _lazy(path: Path, mapped: np.ndarray, name: str, shape: tuple[int, ...], kind: int, begin: int) -> tuple[Lazy, int]:
    if kind in _DENSE:
        dtype = DTYPES[_DENSE[kind]]
        nbytes = math.prod(shape) * dtype.itemsize

        def read() -> Weight:
            return Weight("", mapped[begin : begin + nbytes].view(dtype).reshape(shape))

        return Lazy(shape, _DENSE[kind], nbytes, read, zero_copy=True), nbytes
    block = BLOCK_TYPES.get(kind)
    if block is None:
        known = ", ".join([*_DENSE.values(), *(b.name for b in BLOCK_TYPES.values())])
        raise CheckpointError(f"{path}: {name} has the GGML type {kind}, which is not supported; known: {known}")
    if len(shape) != 2 or shape[1] % block.size:
        raise CheckpointError(f"{path}: {name} {list(shape)} cannot be {block.name}: rows must be multiples of {block.size}")
    rows, count = shape[0], shape[1] // block.size
    nbytes = rows * count * block.nbytes

    def read_blocks() -> Weight:
        return block.decode(mapped[begin : begin + nbytes].reshape(rows, count, block.nbytes))

    return Lazy(shape, block.name if block.exact else f"{block.name}, dequantised", nbytes, read_blocks), nbytes


class _Header:
    """Reads the header of one file; every count is bounded before anything is allocated for it."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file

    def read(self) -> tuple[dict[str, tuple[tuple[int, ...], int, int]], int]:
        """{name: (shape, type, offset)} and where the data begins."""
        if self._bytes(4) != b"GGUF":
            raise CheckpointError(f"{self._path} is not a GGUF file")
        version = self._number("I")
        if version not in (2, 3):
            raise CheckpointError(f"{self._path}: GGUF version {version} is not supported; known: 2 and 3")
        tensors, entries = self._number("Q"), self._number("Q")
        if tensors > _MAX_TENSORS or entries > _MAX_ENTRIES:
            raise CheckpointError(f"{self._path}: {tensors} tensors and {entries} metadata entries are refused as implausible")
        alignment = 32
        for _ in range(entries):
            key, value = self._text(), self._value(self._number("I"))
            if key == "general.alignment":
                alignment = value
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 16:
            raise CheckpointError(f"{self._path}: an alignment of {alignment!r} is refused")
        out: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(tensors):
            name, dims = self._text(), self._number("I")
            if dims > 4 or name in out:
                raise CheckpointError(f"{self._path}: {name} has {dims} dimensions or occurs twice")
            # GGML counts dimensions from the fastest.
            shape = tuple(reversed([self._number("Q") for _ in range(dims)]))
            out[name] = (shape, self._number("I"), self._number("Q"))
        return out, -(-self._file.tell() // alignment) * alignment

    def _value(self, kind: int, depth: int = 0) -> Any:
        """A metadata value; only whole numbers are kept, everything else is skipped over."""
        if kind == 8:
            return self._text()
        if kind == 9:
            inner, count = self._number("I"), self._number("Q")
            if inner in _SCALARS:
                self._skip(count * _SCALARS[inner])
                return None
            if depth > 4 or count > _MAX_TEXT * 4:
                raise CheckpointError(f"{self._path}: a metadata array of {count} entries is refused")
            for _ in range(count):
                self._value(inner, depth + 1)
            return None
        if kind not in _SCALARS:
            raise CheckpointError(f"{self._path}: unknown metadata type {kind}")
        raw = self._bytes(_SCALARS[kind])
        return int.from_bytes(raw, "little") if kind in (0, 2, 4, 10) else None

    def _skip(self, count: int) -> None:
        if count > _MAX_HEADER:
            raise CheckpointError(f"{self._path}: {count} bytes of metadata are refused")
        self._file.seek(count, 1)

    def _bytes(self, count: int) -> bytes:
        if self._file.tell() > _MAX_HEADER:
            raise CheckpointError(f"{self._path}: a header of more than {_MAX_HEADER} bytes is refused")
        raw = self._file.read(count)
        if len(raw) != count:
            raise CheckpointError(f"{self._path} is cut short in its header")
        return raw

    def _number(self, code: str) -> int:
        value: int = struct.unpack(f"<{code}", self._bytes(struct.calcsize(f"<{code}")))[0]
        return value

    def _text(self) -> str:
        length = self._number("Q")
        if length > _MAX_TEXT:
            raise CheckpointError(f"{self._path}: a name of {length} bytes is refused")
        return self._bytes(length).decode("utf-8")
