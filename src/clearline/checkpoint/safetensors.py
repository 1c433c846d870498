"""The safetensors container: its header checked entry by entry before anything is believed, its data memory-mapped."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from clearline.checkpoint.lazy import Lazy, map_file
from clearline.errors import CheckpointError
from clearline.ops import Weight

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip

# The released 7B's header has 60 KB. Far beyond any real one, and small enough that parsing it takes no time.
_MAX_HEADER = 16 << 20


def spelling(dtype: np.dtype[Any]) -> str:
    """What a file calls it."""
    return next(name for name, known in DTYPES.items() if known == dtype)


def open_tensors(path: Path) -> dict[str, Lazy]:
    """Every tensor of a file, by its own name. Raises CheckpointError with what is wrong with the header."""
    header, start = read_header(path)
    mapped = map_file(path)
    return {name: _lazy(mapped, start, entry) for name, entry in header.items()}


def read_header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """The checked entries {name: dtype, shape, data_offsets} of a file, and where its data begins."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is not a file")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise CheckpointError(f"{path} is not a safetensors file, or is cut short: a header of {length} bytes in {size}")
        if length > _MAX_HEADER:
            raise CheckpointError(f"{path}: a header of {length} bytes is refused; real ones have less than {_MAX_HEADER}")
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: its header is broken: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is a {type(header).__name__}, not an object")
    header.pop("__metadata__", None)
    end = 0
    for name, entry in sorted(header.items(), key=_offset):
        begin, stop = _checked(path, name, entry)
        if begin != end:
            raise CheckpointError(f"{path}: {name} begins at byte {begin}, but the tensor before it ends at {end}")
        end = stop
    if 8 + length + end != size:
        raise CheckpointError(
            f"{path} has {size} bytes, but its header describes {8 + length + end}: the file is cut short or damaged"
        )
    return header, 8 + length


def file_hash(path: Path) -> str:
    """sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _lazy(mapped: np.ndarray, start: int, entry: dict[str, Any]) -> Lazy:
    dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
    begin, end = (start + offset for offset in entry["data_offsets"])

    def read() -> Weight:
        data = mapped[begin:end]
        if begin % dtype.itemsize:
            data = data.copy()  # an unaligned view is slow everywhere and not allowed in ONNX Runtime
        return Weight("", data.view(dtype).reshape(shape))

    return Lazy(shape, entry["dtype"], end - begin, read, zero_copy=True)


def _checked(path: Path, name: str, entry: Any) -> tuple[int, int]:
    """First and last byte of an entry whose every field has been looked at."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise CheckpointError(f"{path}: the header entry of {name} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in DTYPES:
        raise CheckpointError(f"{path}: {name} has the dtype {dtype!r}; known: {', '.join(DTYPES)}")
    if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{path}: {name} has shape {shape!r} and offsets {offsets!r}, which are not whole numbers")
    begin, end = offsets
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != needed:
        raise CheckpointError(f"{path}: {name} {shape} of {dtype} needs {needed} bytes, but has {end - begin}")
    return begin, end


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _offset(item: tuple[str, Any]) -> tuple[int, int]:
    offsets: Any = item[1].get("data_offsets") if isinstance(item[1], dict) else None
    return (offsets[0], offsets[1]) if _whole_numbers(offsets) and len(offsets) == 2 else (-1, -1)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key occurs twice")
    return out
