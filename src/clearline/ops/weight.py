"""Weights: named arrays, dense or quantised, and the specification a model definition asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
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

    Dense: `data` is the array in its stored dtype (float32, float16 or bfloat16). Quantised, `bits` 4 or 8: `data` holds
    unsigned codes as uint8 [out, in * bits / 8], two 4-bit codes a byte with the even one low, and with groups of
    `group` along `in` the value is code * scale + bias, with `scale` and `bias` [out, in / group] of any float dtype; without
    a bias the groups are symmetric: (code - 2^(bits-1)) * scale.
    """

    name: str
    data: np.ndarray
    scale: np.ndarray | None = None
    bits: int = 0
    group: int = 0
    bias: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape, [out, in] when quantised."""
        if not self.bits:
            return tuple(self.data.shape)
        return (self.data.shape[0], self.data.shape[1] * 8 // self.bits)

    def codes(self) -> np.ndarray:
        """The unsigned codes [out, in], one a byte."""
        if self.bits == 8:
            return self.data
        pairs = np.stack([self.data & 15, self.data >> 4], -1)
        return pairs.reshape(self.data.shape[0], 2 * self.data.shape[1])

    def dense(self, dtype: Any) -> np.ndarray:
        """The values as an array of `dtype`, dequantised where needed."""
        if self.scale is None:
            return np.asarray(self.data).astype(dtype, copy=False)
        groups = self.codes().reshape(self.data.shape[0], -1, self.group).astype(dtype)
        scale = self.scale[..., None].astype(dtype)
        values: np.ndarray
        values = (groups - self.zero) * scale if self.bias is None else groups * scale + self.bias[..., None].astype(dtype)
        return values.reshape(self.shape)

    @property
    def narrow(self) -> bool:
        """Whether bfloat16 holds the scales and the biases exactly."""
        return all(_is_bfloat16(array) for array in (self.scale, self.bias) if array is not None)

    @property
    def nbytes(self) -> int:
        """The fewest bytes that hold it exactly: of a quantised one, codes, scales, and zero points or biases."""
        if self.scale is None:
            return self.data.nbytes
        width = 2 if self.narrow else 4
        if self.bias is None:
            offsets = 0
        elif self.zero_points() is not None:
            offsets = self.scale.size * self.bits // 8
        else:
            offsets = self.scale.size * width
        return self.data.nbytes + self.scale.size * width + offsets

    @property
    def zero(self) -> int:
        """The code that stands for 0 in symmetric groups."""
        return 1 << (self.bits - 1)

    def zero_points(self) -> np.ndarray | None:
        """The code that stands for 0 in every group with a bias, uint8 [out, in / group]; None when one of them is no code."""
        assert self.scale is not None and self.bias is not None
        scale, bias = self.scale.astype(np.float32), self.bias.astype(np.float32)
        zero = np.rint(np.divide(-bias, scale, out=np.zeros_like(scale), where=scale != 0))
        whole = (zero >= 0) & (zero < 1 << self.bits) & (zero * scale == -bias)
        return zero.astype(np.uint8) if whole.all() else None

    def rows(self, start: int, stop: int) -> "Weight":
        """The rows start..stop, dense or quantised, without copying."""
        scale = None if self.scale is None else self.scale[start:stop]
        bias = None if self.bias is None else self.bias[start:stop]
        return replace(self, data=self.data[start:stop], scale=scale, bias=bias)


def _is_bfloat16(array: np.ndarray) -> bool:
    return array.dtype == ml_dtypes.bfloat16 or bool((array.astype(ml_dtypes.bfloat16) == array).all())


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned codes [out, in], one a byte, as `Weight.data` holds them."""
    if bits == 8:
        return np.ascontiguousarray(codes, np.uint8)
    packed: np.ndarray = codes[:, 0::2] | (codes[:, 1::2] << 4)
    return packed.astype(np.uint8, copy=False)


def quantise(weight: Weight, bits: int, group: int = 32, scale_dtype: Any = np.float32) -> Weight:
    """Symmetric groups along the input axis: scale = max|w| / (2^(bits-1) - 1), code = round(w / scale) + zero.

    For 4 bits the largest magnitude maps to -8 with its own sign, which uses all sixteen codes (as GGUF's Q4_0 does).
    Scales are rounded to `scale_dtype` before codes are chosen for them, and kept as float32. Raises ConfigError when the
    input axis is not a multiple of `group`.
    """
    if len(weight.shape) != 2 or weight.shape[1] % group:
        raise ConfigError(f"{weight.name} {weight.shape} cannot be quantised in groups of {group}")
    # A block of rows at a time: the float32 copies of a large matrix would cost several times its quantised size.
    step = max(1, (1 << 20) // weight.shape[1])
    parts = [_quantise_rows(weight.rows(i, i + step), bits, group, scale_dtype) for i in range(0, weight.shape[0], step)]
    codes, scale = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Weight(weight.name, codes, scale, bits, group)


def _quantise_rows(weight: Weight, bits: int, group: int, scale_dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    values = weight.dense(np.float32)
    groups = values.reshape(values.shape[0], -1, group)
    zero = 1 << (bits - 1)
    if bits == 4:
        extreme = np.take_along_axis(groups, np.abs(groups).argmax(-1, keepdims=True), -1)[..., 0]
        scale = -extreme / zero
    else:
        scale = np.abs(groups).max(-1) / (zero - 1)
    scale = scale.astype(scale_dtype).astype(np.float32)
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)
    codes = np.clip(np.rint(groups * inverse[..., None]) + zero, 0, 2 * zero - 1).astype(np.uint8)
    return pack(codes.reshape(values.shape), bits), scale


class Weights:
    """The weights of one module: a view of the checkpoint below a dotted path."""

    def __init__(self, items: Mapping[str, Weight], path: str = "") -> None:
        self._items = items
        self._path = path

    def __getitem__(self, name: str) -> Weight:
        return self._items[self._path + name]

    def at(self, path: str) -> "Weights":
        return Weights(self._items, f"{self._path}{path}.")
