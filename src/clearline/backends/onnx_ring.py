"""Rings in memory that ONNX Runtime reads and writes where it is: in float32, or in int8 with scales."""

from typing import Any

import numpy as np
import onnxruntime as ort

from clearline.backends.native import SCALED
from clearline.backends.pages import lazy_zeros
from clearline.ops import Ring, StateSpec

# Rings shorter than this stay float32: they are not what takes the time.
_INT8_FROM_ROWS = 64
# Rows marked as not written at a time.
_AHEAD = 64


class OrtRing(Ring):
    """A ring whose arrays ONNX Runtime reads and writes where they are.

    They have their full length from the beginning, in memory that is taken as it is written: growing would copy them, and a
    session would stall for it (0.1 to 0.7 s for the 1B shape). What was never written is NaN in the keys for some rows
    behind the newest, and 0 further on.
    """

    values: dict[str, Any]

    def _resize(self, slots: int) -> None:
        self.slots, self._marked, self.values = self.capacity, 0, {}
        self._allocate(self.capacity + self.rows, self.k.shape[3])
        self.reserve(0)

    def _allocate(self, size: int, dim: int) -> None:
        self.k, self.v = (self._array(name, (size, dim), self.k.dtype) for name in ("k", "v"))

    def _array(self, name: str, shape: tuple[int, int], dtype: Any) -> np.ndarray:
        """An array of every head, which the graph's input `.name` is to be."""
        array = lazy_zeros((*self.k.shape[:2], *shape), dtype)
        self.values[f".{name}"] = ort.OrtValue.ortvalue_from_numpy(array)
        return array

    def reserve(self, end: int) -> None:
        size = self.capacity + self.rows
        if self._marked < min(end + self.rows, size):
            first, self._marked = self._marked, min(end + self.rows + _AHEAD, size)
            for array in self._unwritten():
                array[:, :, first : self._marked] = np.nan

    def settle(self, position: int) -> None:
        if position + 2 * self.rows > self._marked or position + self.rows > self.capacity:
            super().settle(position)  # else everything is where it belongs

    def _unwritten(self) -> list[np.ndarray]:
        """The arrays that are NaN where nothing was written."""
        return [self.k]


class Int8Ring(OrtRing):
    """Every 32 channels of a row by their own largest magnitude:

        scale = max|x| / 127        code = round(x / scale)        x = scale * code

    `k` and `v` are the codes, `k_scale` and `v_scale` [B, heads, slots, D / 32] float32; in memory, and in the graph, those of 32
    channels lie together, slot after slot. There is no NaN among int8: where nothing was written, scales are.
    """

    k_scale: np.ndarray
    v_scale: np.ndarray

    def __init__(self, spec: StateSpec, dtype: Any) -> None:
        super().__init__(spec, np.int8)

    def _allocate(self, size: int, dim: int) -> None:
        super()._allocate(size, dim)
        scales = (self._array(f"{name}_scale", (dim // SCALED, size), np.float32) for name in ("k", "v"))
        self.k_scale, self.v_scale = (array.swapaxes(2, 3) for array in scales)

    def _unwritten(self) -> list[np.ndarray]:
        return [self.k_scale, self.v_scale]

    def arrays(self) -> list[np.ndarray]:
        return [self.k, self.v, self.k_scale, self.v_scale]


def ring_class(spec: StateSpec, int8: bool) -> type[OrtRing]:
    """The kind of ring that holds `spec` in a backend whose cache is int8, or not."""
    return Int8Ring if int8 and spec.kind == "ring" and spec.shape[2] >= _INT8_FROM_ROWS else OrtRing
