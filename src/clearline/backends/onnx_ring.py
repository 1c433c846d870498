"""Rings in memory that ONNX Runtime reads and writes where it is: in float32, or in int8 with a scale for every channel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from clearline.ops import Ring, StateSpec

# Room above the largest value seen, and the least a channel gets of its head's: with less, the first seconds of a
# session would widen one channel or another at every step. A 7B has 260 000 channels: with 1.5 it ran each step twice.
_MARGIN = 2.0
_SHARE = 0.5
# A row that exceeds its scale by more is worth a second run of the step.
_TOLERATED = 1.3
_STEPS = 127
# Rings shorter than this stay float32: they are not what takes the time.
_INT8_FROM_ROWS = 64


class OrtRing(Ring):
    """A ring whose arrays ONNX Runtime reads and writes where they are."""

    def _resize(self, slots: int) -> None:
        super()._resize(slots)
        self.values = (ort.OrtValue.ortvalue_from_numpy(self.k), ort.OrtValue.ortvalue_from_numpy(self.v))

    def feeds(self, path: str) -> dict[str, np.ndarray]:
        """What a step takes besides the arrays."""
        return {}


class Int8Ring(OrtRing):
    """x = scale[channel] * code. A row that does not fit widens the scales of its channels, and the past's codes shrink with them:

        scale' = 2 max|x| / 127        code' = round(code scale / scale')

    The cache then holds the row as it is. The step that met it attended to its own newest row clipped, by at most 30 %
    in those channels; beyond that it is run again. (There is no NaN among int8: what was never written is 0, and only
    the number of rows given to the operation keeps it unread.)
    """

    def __init__(self, spec: StateSpec, dtype: Any) -> None:
        _, heads, _, dim = spec.shape
        # Tiny but not 0, which the operation divides by: the first row sets them.
        self.scales = [np.full(heads * dim, 1e-20, np.float32) for _ in range(2)]
        super().__init__(spec, np.int8)

    def feeds(self, path: str) -> dict[str, np.ndarray]:
        return {f"{path}.k.scale": self.scales[0], f"{path}.v.scale": self.scales[1]}

    def widen(self, rows: Sequence[np.ndarray], position: int) -> bool:
        """Make the new keys and values [1, T, heads * D] at `position` fit; whether the step must be run again for them."""
        again = False
        for i, (row, array) in enumerate(zip(rows, (self.k, self.v), strict=True)):
            peak, old = np.abs(row[0]).max(0), self.scales[i]
            excess = float((peak / (_STEPS * old)).max())
            if excess <= 1:
                continue
            again = again or excess > _TOLERATED
            heads = peak.reshape(array.shape[1], -1)
            enough = np.maximum(heads, _SHARE * heads.max(1, keepdims=True)).reshape(-1) * np.float32(_MARGIN / _STEPS)
            new = np.maximum(old, enough)
            channels = np.flatnonzero(new > old)
            self.scales[i] = new
            head, dim = np.divmod(channels, array.shape[3])
            codes = np.rint(array[0, head, :, dim] * (old / new)[channels, None])
            start = min(position, self.capacity)
            codes[:, start : start + len(row[0])] = np.rint(row[0].T[channels] / new[channels, None])
            array[0, head, :, dim] = codes.astype(np.int8)
        return again


def ring_class(spec: StateSpec, int8: bool) -> type[OrtRing]:
    """The kind of ring that holds `spec` in a backend whose cache is int8, or not."""
    return Int8Ring if int8 and spec.kind == "ring" and spec.shape[2] >= _INT8_FROM_ROWS else OrtRing
