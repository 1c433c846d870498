"""Weights: named arrays, dense or quantised, and the specification a model definition asks for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clearline.errors import ConfigError


@dataclass(frozen=True)
class WeightSpec:
    """A tensor the model definition needs: its name, and its shape in Kyutai's layout."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """One named tensor as the checkpoint holds it.

    Dense: `data` is the array in its stored dtype (float32, float16 or bfloat16). Quantised: `data` holds unsigned codes
    [out, in] as uint8 and the value is (code - zero) * scale, with one `scale` [out, in/group] per group along `in` and
    the zero point 2^(bits-1) of symmetric groups.
    """

    name: str
    data: np.ndarray
    scale: np.ndarray | None = None
    bits: int = 0
    group: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    def dense(self, dtype: Any) -> np.ndarray:
        """The values as an array of `dtype`, dequantised where needed."""
        if self.scale is None:
            return np.asarray(self.data).astype(dtype, copy=False)
        zero = 1 << (self.bits - 1)
        groups = self.data.reshape(self.data.shape[0], -1, self.group).astype(dtype) - zero
        values: np.ndarray = (groups * self.scale[..., None].astype(dtype)).reshape(self.data.shape)
        return values


def quantise(weight: Weight, bits: int, group: int = 32) -> Weight:
    """Symmetric groups along the input axis: scale = max|w| / (2^(bits-1) - 1), code = round(w / scale) + zero.

    For 4 bits the largest magnitude maps to -8 with its own sign, which uses all sixteen codes (as GGUF's Q4_0 does).
    Raises ConfigError when the input axis is not a multiple of `group`.
    """
    values = weight.dense(np.float32)
    if values.ndim != 2 or values.shape[1] % group:
        raise ConfigError(f"{weight.name} {values.shape} cannot be quantised in groups of {group}")
    groups = values.reshape(values.shape[0], -1, group)
    zero = 1 << (bits - 1)
    if bits == 4:
        extreme = np.take_along_axis(groups, np.abs(groups).argmax(-1, keepdims=True), -1)[..., 0]
        scale = -extreme / zero
    else:
        scale = np.abs(groups).max(-1) / (zero - 1)
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)
    codes = np.clip(np.rint(groups * inverse[..., None]) + zero, 0, 2 * zero - 1).astype(np.uint8)
    return Weight(weight.name, codes.reshape(values.shape), scale.astype(np.float32), bits, group)


class Weights:
    """The weights of one module: a view of the checkpoint below a dotted path."""

    def __init__(self, items: Mapping[str, Weight], path: str = "") -> None:
        self._items = items
        self._path = path

    def __getitem__(self, name: str) -> Weight:
        return self._items[self._path + name]

    def at(self, path: str) -> "Weights":
        return Weights(self._items, f"{self._path}{path}.")
