"""Memory by the page: huge ones for weights, whose streams then miss no page table, and ones that cost nothing until written."""

import math
import mmap
import threading
from typing import Any

import numpy as np

_PAGE = 2 << 20
_CHUNK = 32 * _PAGE
_LINE = 64


class HugeMemory:
    """Hands out arrays from chunks of huge pages; a chunk lives as long as its arrays."""

    def __init__(self) -> None:
        self._chunk = np.empty(0, np.uint8)
        self._used = 0
        self._lock = threading.Lock()  # sessions compile what they need when they first need it

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An uninitialised array, aligned to a cache line."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with self._lock:
            if self._used + size > self._chunk.size:
                self._chunk, self._used = _chunk(max(size, _CHUNK)), 0
            array = self._chunk[self._used : self._used + size]
            self._used = -(-(self._used + size) // _LINE) * _LINE
        return array.view(dtype).reshape(shape)


def lazy_zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros that take memory only where something else is written."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, max(size, 1)), np.uint8)[:size].view(dtype).reshape(shape)


def _chunk(size: int) -> np.ndarray:
    memory = mmap.mmap(-1, size + _PAGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    chunk = np.frombuffer(memory, np.uint8)
    start = -chunk.ctypes.data % _PAGE
    return chunk[start : start + size]
