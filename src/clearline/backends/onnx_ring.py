"""Rings in memory that ONNX Runtime reads and writes where it is: in float32, or in int8 with scales."""

from typing import Any

import numpy as np
import onnxruntime as ort

from clearline.backends.native import SCALED
from clearline.ops import Ring, StateSpec

# Rings shorter than this stay float32: they are not what takes the time.
_INT8_FROM_ROWS = 64


class OrtRing(Ring):
    """A ring whose arrays ONNX Runtime reads and writes where they are."""

    def _resize(self, slots: int) -> None:
        super()._resize(slots)
        self.values = {".k": ort.OrtValue.ortvalue_from_numpy(self.k), ".v": ort.OrtValue.ortvalue_from_numpy(self.v)}


class Int8Ring(OrtRing):
    """Every 32 channels of a row by their own largest magnitude:

        scale = max|x| / 127        code = round(x / scale)        x = scale * code

    The arrays hold the codes, `scales` the scales of keys and values, [B, heads, slots, D / 32]. There is no NaN among
    int8: what was never written is 0 with the scale NaN.
    """

    def __init__(self, spec: StateSpec, dtype: Any) -> None:
        batch, heads, _, dim = spec.shape
        self.scales = [np.zeros((batch, heads, 0, dim // SCALED), np.float32) for _ in range(2)]
        super().__init__(spec, np.int8)

    def _resize(self, slots: int) -> None:
        super()._resize(slots)
        pad = ((0, 0), (0, 0), (0, self.k.shape[2] - self.scales[0].shape[2]), (0, 0))
        self.scales = [np.pad(scale, pad, constant_values=np.nan) for scale in self.scales]
        for name, scale in zip((".k.scale", ".v.scale"), self.scales, strict=True):
            self.values[name] = ort.OrtValue.ortvalue_from_numpy(scale)

    def arrays(self) -> list[np.ndarray]:
        return [*super().arrays(), *self.scales]


def ring_class(spec: StateSpec, int8: bool) -> type[OrtRing]:
    """The kind of ring that holds `spec` in a backend whose cache is int8, or not."""
    return Int8Ring if int8 and spec.kind == "ring" and spec.shape[2] >= _INT8_FROM_ROWS else OrtRing
