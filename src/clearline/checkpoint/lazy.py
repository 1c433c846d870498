"""Tensors of a checkpoint that are not read yet: their shapes, how they are stored, and what reading them takes.

A renaming table says how tensors of one naming become those of another; the cuts and joins it asks for are described
here and happen tensor by tensor, when a tensor is read, so that no checkpoint is ever in memory twice.
"""

import mmap
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clearline.ops import Weight

_MAPPED: "weakref.WeakSet[mmap.mmap]" = weakref.WeakSet()

FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Lazy:
    """One tensor: its logical shape, `kind` ("BF16", "Q8_0", "4 bits, groups of 32"), its bytes on disk, how to read it.

    `zero_copy` says that reading it gives views of the mapped file.
    """

    shape: tuple[int, ...]
    kind: str
    nbytes: int
    read: Callable[[], Weight]
    zero_copy: bool = False

    @property
    def floating(self) -> bool:
        """Whether it holds numbers to compute with: dense floats, or quantised ones."""
        return self.kind in FLOATS or self.quantised

    @property
    def quantised(self) -> bool:
        return not (self.kind in FLOATS or self.kind.startswith(("I", "U", "BOOL", "F8")))

    def reshaped(self, shape: tuple[int, ...]) -> "Lazy":
        """The same elements under another shape. Dense tensors only."""
        return replace(self, shape=shape, read=lambda: _dense(self.read(), lambda data: data.reshape(shape)))

    def part(self, index: int, count: int) -> "Lazy":
        """Part `index` of `count` equal parts along the first axis."""
        size = self.shape[0] // count
        shape = (size, *self.shape[1:])
        read = lambda: self.read().rows(index * size, (index + 1) * size)  # noqa: E731
        return replace(self, shape=shape, nbytes=self.nbytes // count, read=read)

    def unrotated(self, heads: int) -> "Lazy":
        """Rows of a query or key projection from split halves (transformers) to neighbouring pairs (Kyutai)."""

        def pairs(data: np.ndarray) -> np.ndarray:
            rows, dim = data.shape
            return data.reshape(heads, 2, rows // heads // 2, dim).transpose(0, 2, 1, 3).reshape(rows, dim)

        return replace(self, zero_copy=False, read=lambda: _dense(self.read(), pairs))


def join(parts: Sequence[Lazy]) -> Lazy:
    """Dense tensors one after the other along the first axis."""
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])

    def read() -> Weight:
        return Weight("", np.concatenate([part.read().data for part in parts]))

    return Lazy(shape, parts[0].kind, sum(part.nbytes for part in parts), read)


class LazyWeights(Mapping[str, Weight]):
    """Weights by name, read when asked for; reading one twice reads the file twice."""

    def __init__(self, tensors: Mapping[str, Lazy]) -> None:
        self.tensors = dict(tensors)

    def __getitem__(self, name: str) -> Weight:
        return replace(self.tensors[name].read(), name=name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def _dense(weight: Weight, change: Callable[[np.ndarray], np.ndarray]) -> Weight:
    return Weight(weight.name, change(weight.data if not weight.bits else weight.dense(np.float32)))


def map_file(path: Path) -> np.ndarray:
    """A file's bytes, mapped into memory and read as they are touched."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _MAPPED.add(mapped)
    return np.frombuffer(mapped, np.uint8)


def release_pages() -> None:
    """Let the system take back what was read of mapped files, as a streaming conversion does after every tensor."""
    if hasattr(mmap, "MADV_DONTNEED"):
        for mapped in list(_MAPPED):
            if not mapped.closed:
                mapped.madvise(mmap.MADV_DONTNEED)
