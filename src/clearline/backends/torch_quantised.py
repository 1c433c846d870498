"""Products with quantised matrices: PyTorch's own kernels where their format holds ours exactly, else dequantised as it goes.

Ours: code * scale + bias in groups along the input, or (code - zero) * scale. `_weight_int4pack_mm` computes
(code - 8) * scale + offset with the same groups, so scale = scale and offset = bias + 8 scale (0 when symmetric). On the CPU its
scales are of the activations' type, on CUDA bfloat16. `_weight_int8pack_mm` has one scale for a whole row and no offset.
"""

from collections.abc import Callable
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from clearline.ops import Weight

_INT4_GROUPS = (32, 64, 128, 256)
_aten = torch.ops.aten


class Linear(Protocol):
    """y = x W^T + b; `own` are the tensors it holds, `kernel` says what computes it."""

    own: tuple[Tensor, ...]
    kernel: str

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor: ...


def linear(weight: Weight, dense: Callable[[Weight], Tensor], device: torch.device, dtype: torch.dtype) -> Linear:
    """What multiplies by this weight on this device."""
    if not weight.bits:
        return Dense(dense(weight))
    if dtype != torch.float64:
        if weight.bits == 4 and weight.group in _INT4_GROUPS:
            if device.type == "cpu":
                return Int4Cpu(weight, dtype)
            if device.type == "cuda" and dtype == torch.bfloat16 and weight.shape[0] % 8 == 0 and weight.shape[1] % 32 == 0:
                return Int4Cuda(weight, device)
        # On CUDA that kernel goes along a row with a single thread in many versions of PyTorch (read, not measured).
        rows = weight.bits == 8 and weight.bias is None and weight.group == weight.shape[1] and device.type != "cuda"
        if rows and _multiplies_int8(device, dtype):
            return Int8Rows(weight, device, dtype)
    return Dequantised(weight, device, dtype)


class Dense:
    """The matrix itself, which `TorchWeights` holds."""

    kernel = "dense"

    def __init__(self, matrix: Tensor) -> None:
        self.own: tuple[Tensor, ...] = ()
        self._matrix = matrix

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(x, self._matrix, bias)


class Dequantised:
    """The values are made anew for each product: memory of the codes, the time of a dense matrix and more. Fits every format."""

    kernel = "dequantised at each use"

    def __init__(self, weight: Weight, device: torch.device, dtype: torch.dtype) -> None:
        assert weight.scale is not None
        self._shape, self._group, self._bits = weight.shape, weight.group, weight.bits
        self._dtype = dtype
        # Scales and offsets in float32 at least: a bfloat16 sum of two of them would move every value of a group.
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        codes = torch.from_numpy(np.ascontiguousarray(weight.data))
        self._scale = torch.from_numpy(_wide(weight.scale)).to(wide).to(device)[..., None]
        self._bias = None if weight.bias is None else torch.from_numpy(_wide(weight.bias)).to(wide).to(device)[..., None]
        self._zero = 0 if weight.bias is not None else weight.zero
        if self._bits == 8 and self._zero:
            codes, self._zero = (codes - self._zero).view(torch.int8), 0  # which wraps around
        self._codes = codes.to(device)
        self.own = (self._codes, self._scale, *(() if self._bias is None else (self._bias,)))

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        codes = self._codes
        if self._bits == 4:
            codes = torch.stack([codes & 15, codes >> 4], -1)
        if self._zero:
            codes = (codes - self._zero).view(torch.int8)
        groups = codes.reshape(self._shape[0], -1, self._group)
        if x.device.type == "mps":  # where operands share a type
            groups = groups.to(self._scale.dtype)
            values = groups * self._scale if self._bias is None else torch.addcmul(self._bias, groups, self._scale)
            values = values.to(self._dtype)
        else:  # read as codes, computed in float32, written as what is multiplied
            values = torch.empty(groups.shape, dtype=self._dtype, device=x.device)
            if self._bias is None:
                torch.mul(groups, self._scale, out=values)
            else:
                torch.addcmul(self._bias, groups, self._scale, out=values)
        return functional.linear(x, values.reshape(self._shape), bias)


class Int4Cpu:
    """`_weight_int4pack_mm_for_cpu`. It takes rows in sixteens: missing ones are made up and cut off."""

    kernel = "int4pack"

    def __init__(self, weight: Weight, dtype: torch.dtype) -> None:
        self._out, self._group = weight.shape[0], weight.group
        missing = -self._out % 16
        codes = np.pad(weight.codes(), ((0, missing), (0, 0))).astype(np.int32)
        self._packed = _aten._convert_weight_to_int4pack_for_cpu(torch.from_numpy(codes), 1)
        self._scales = functional.pad(_scales_and_offsets(weight, dtype), (0, 0, 0, missing))
        self.own = (self._packed, self._scales)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = _aten._weight_int4pack_mm_for_cpu(flat, self._packed, self._group, self._scales)[:, : self._out]
        y = y.reshape(*x.shape[:-1], self._out)
        return y if bias is None else y + bias


class Int4Cuda:
    """`_weight_int4pack_mm`, bfloat16: tensor-core tiles of 8 rows by 16 columns, `inner` of them together."""

    kernel = "int4pack"

    def __init__(self, weight: Weight, device: torch.device) -> None:
        self._out, self._group = weight.shape[0], weight.group
        inner = next(tiles for tiles in (8, 4, 2) if weight.shape[1] % (16 * tiles) == 0)
        codes = weight.codes()
        pairs = torch.from_numpy((codes[:, 0::2] << 4) | codes[:, 1::2]).to(device)  # here the even code is the high one
        self._packed = _aten._convert_weight_to_int4pack(pairs, inner)
        self._scales = _scales_and_offsets(weight, torch.bfloat16).to(device)
        self.own = (self._packed, self._scales)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = _aten._weight_int4pack_mm(flat, self._packed, self._group, self._scales).reshape(*x.shape[:-1], self._out)
        return y if bias is None else y + bias


class Int8Rows:
    """`_weight_int8pack_mm`: symmetric, one group a row, as bitsandbytes writes them."""

    kernel = "int8pack"

    def __init__(self, weight: Weight, device: torch.device, dtype: torch.dtype) -> None:
        assert weight.scale is not None
        self._out = weight.shape[0]
        codes = (weight.data.astype(np.int16) - weight.zero).astype(np.int8)
        self._codes = torch.from_numpy(codes).to(device)
        self._scale = torch.from_numpy(_wide(weight.scale)[:, 0]).to(device, dtype)
        self.own = (self._codes, self._scale)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = _aten._weight_int8pack_mm(flat, self._codes, self._scale).reshape(*x.shape[:-1], self._out)
        return y if bias is None else y + bias


@cache
def _multiplies_int8(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this PyTorch has the int8 kernel for this device and type, and it is right: not every version has."""
    codes, one = torch.ones(16, 32, dtype=torch.int8, device=device), torch.ones(16, dtype=dtype, device=device)
    try:
        return bool((_aten._weight_int8pack_mm(torch.ones(2, 32, dtype=dtype, device=device), codes, one) == 32).all())
    except (RuntimeError, NotImplementedError):
        return False


def _scales_and_offsets(weight: Weight, dtype: torch.dtype) -> Tensor:
    """[in / group, out, 2] of scale and offset, the offset that of code 8."""
    assert weight.scale is not None
    scale = _wide(weight.scale)
    offset = np.zeros_like(scale) if weight.bias is None else _wide(weight.bias) + 8 * scale
    return torch.from_numpy(np.stack([scale.T, offset.T], -1)).to(dtype).contiguous()


def _wide(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, np.float64)
