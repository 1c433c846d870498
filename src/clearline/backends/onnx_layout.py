"""How ONNX Runtime's nodes want their weights laid out."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from clearline.backends.onnx_panels import matrix, panel_shape, panel_type, panels
from clearline.ops import Weight
from clearline.ops.weight import pack

# "as stored", "transposed", "vector", "half norm", "codes", "scales", "zeros", "offsets", "taps", "spread", "channelwise", and
# those of `onnx_panels`.
Layout = str


def layout_type(weight: Weight, layout: Layout) -> Any:
    """Element type of the array `arrange` makes."""
    if layout.startswith("panel"):
        return panel_type(weight, layout)
    return np.uint8 if layout in ("codes", "zeros") else np.float32


def arrange(weight: Weight, layout: Layout, empty: Callable[[tuple[int, ...], Any], np.ndarray] = np.empty) -> np.ndarray:
    """The array an initializer of this layout holds, contiguous; `empty(shape, dtype)` makes those of panels."""
    if layout.startswith("panel"):
        return panels(weight, layout, empty)
    if layout == "codes":
        # MatMulNBits wants [out, groups, bytes], two 4-bit codes a byte with the even one low: as Weight holds them.
        return np.ascontiguousarray(weight.data, np.uint8).reshape(layout_shape(weight, layout))
    if layout == "scales":
        assert weight.scale is not None
        return np.ascontiguousarray(weight.scale, np.float32).reshape(-1)
    if layout == "zeros":  # a row's zero points packed like codes, its last byte filled up
        zeros = weight.zero_points()
        assert zeros is not None
        return pack(np.pad(zeros, ((0, 0), (0, zeros.shape[1] * weight.bits // 4 % 2))), weight.bits)
    if layout == "offsets":  # [out, groups] -> [groups, out]
        assert weight.bias is not None and weight.scale is not None
        return np.ascontiguousarray((weight.bias + np.float32(weight.zero) * weight.scale).T, np.float32)
    values = weight.dense(np.float32)
    if layout == "transposed":
        values = values.T
    elif layout == "vector":
        values = values.reshape(-1)
    elif layout in ("taps", "spread"):
        values = matrix(weight, layout).T
    elif layout == "channelwise":  # [c, 1, k] -> [k, c]
        values = values[:, 0].T
    elif layout == "half norm":
        values = 0.5 * np.sum(values.astype(np.float64) ** 2, -1).astype(np.float32)
    return np.ascontiguousarray(values, np.float32)


def layout_shape(weight: Weight, layout: Layout) -> tuple[int, ...]:
    """Shape of the array `arrange` makes."""
    if layout.startswith("panel"):
        return panel_shape(weight, layout)
    out, *rest = weight.shape
    match layout:
        case "transposed":
            return (*rest, out)
        case "vector":
            return (math.prod(weight.shape),)
        case "half norm":
            return (out,)
        case "taps":
            return (rest[0] * rest[1], out)
        case "spread":
            return (out, rest[0] * rest[1])
        case "channelwise":
            return (rest[1], out)
        case "codes":
            return (out, rest[0] // weight.group, weight.group * weight.bits // 8)
        case "scales":
            return (out * rest[0] // weight.group,)
        case "zeros":
            return (out, -(-rest[0] // weight.group * weight.bits // 8))
        case "offsets":
            return (rest[0] // weight.group, out)
    return weight.shape
