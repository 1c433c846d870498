"""Matrices in panels of 16 rows, as the native product reads them (`native/kernels.h`): one stream from end to end.

Layouts: of a quantised weight "panel codes", "panel scales", "panel zeros", "panel biases"; of a dense one "panel linear",
"panel taps", "panel spread" or "panel overlap", by the matrix it is in a product, as floats; with " int16" or " int8" after it in
so many bits, and with " int16 scales" or " int8 scales" the scales of those.
"""

from collections.abc import Callable
from typing import Any, Literal

import ml_dtypes
import numpy as np

from clearline.ops import Weight
from clearline.ops.weight import quantise

PANEL = 16
# Columns of a dense matrix in fewer bits with one scale, and the largest code of 16 bits.
GROUP, TOP16 = 32, 32767
Kind = Literal["linear", "taps", "spread", "overlap"]


def matrix(weight: Weight, kind: str) -> np.ndarray:
    """The matrix [out, in] of a dense weight: a linear's own; "taps": a convolution's [out, in, k] as [out, k in]; "spread": a
    transposed one's [in, out, k] as [k out, in]; "overlap": one of k = 2 stride, as [stride out, 2 in], for the input before and
    the input at a block of outputs."""
    values = weight.dense(np.float32)
    if kind == "taps":
        return values.transpose(0, 2, 1).reshape(values.shape[0], -1)
    if kind == "spread":
        return values.transpose(2, 1, 0).reshape(-1, values.shape[0])
    if kind == "overlap":
        halves = values.reshape(*values.shape[:2], 2, -1)[:, :, ::-1]  # [in, out, input before or at, stride]
        return halves.transpose(3, 1, 2, 0).reshape(-1, 2 * values.shape[0])
    return values


def matrix_shape(weight: Weight, kind: str) -> tuple[int, int]:
    """The shape of `matrix`."""
    first, *rest = weight.shape
    if kind == "linear":
        return first, rest[0]
    if kind == "overlap":
        return rest[0] * rest[1] // 2, 2 * first
    return (first, rest[0] * rest[1]) if kind == "taps" else (rest[0] * rest[1], first)


def panel_shape(weight: Weight, layout: str) -> tuple[int, ...]:
    """Shape of the array of this layout: [panels, column or group, row]; codes in bytes a panel, zeros in bytes a group."""
    _, part, *rest = layout.split()
    if not weight.bits:
        rows, columns = matrix_shape(weight, part)
        if rest == ["int8"]:
            return (-(-rows // PANEL), columns * PANEL)
        return (-(-rows // PANEL), columns // GROUP if "scales" in rest else columns, PANEL)
    panels, groups = -(-weight.shape[0] // PANEL), weight.shape[1] // weight.group
    if part == "codes":
        return (panels, weight.shape[1] * weight.bits // 8 * PANEL)
    return (panels, groups, PANEL * weight.bits // 8 if part == "zeros" else PANEL)


def panel_type(weight: Weight, layout: str) -> Any:
    """Element type of an array of this layout; bfloat16 as its bits."""
    if layout in ("panel codes", "panel zeros") or layout.endswith("int8"):
        return np.uint8
    if layout.endswith("int16"):
        return np.int16
    return np.uint16 if weight.bits and weight.narrow else np.float32


def panels(weight: Weight, layout: str, empty: Callable[[tuple[int, ...], Any], np.ndarray]) -> np.ndarray:
    """The array of this layout, in memory from `empty(shape, dtype)`."""
    into = empty(panel_shape(weight, layout), panel_type(weight, layout))
    _, part, *rest = layout.split()
    if not weight.bits:
        values = matrix(weight, part)
        if not rest:
            np.copyto(into, _rows_together(values))
            return into
        codes, scales = _in_16_bits(values) if rest[0] == "int16" else _in_8_bits(values)
        if "scales" in rest:
            np.copyto(into, _rows_together(scales))
        elif rest[0] == "int16":
            np.copyto(into, _rows_together(codes))
        else:
            _copy_words(codes, into)
    elif part == "codes":
        _copy_words(weight.data, into)
    elif part == "zeros":
        zeros = weight.zero_points()
        assert zeros is not None
        rows = _rows_together(zeros)
        np.copyto(into, rows if weight.bits == 8 else rows[..., 0::2] | rows[..., 1::2] << 4)
    else:
        array = weight.scale if part == "scales" else weight.bias
        assert array is not None
        narrow = array.astype(ml_dtypes.bfloat16).view(np.uint16) if into.dtype == np.uint16 else array.astype(np.float32)
        np.copyto(into, _rows_together(narrow))
    return into


def _in_16_bits(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes [out, in] and scales [out, in / 32]: scale = max|w| / 32767, code = round(w / scale)."""
    groups = values.reshape(len(values), -1, GROUP)
    scales = np.abs(groups).max(-1) / np.float32(TOP16)
    codes = np.rint(np.divide(groups, scales[..., None], out=np.zeros_like(groups), where=scales[..., None] != 0))
    return codes.reshape(values.shape).astype(np.int16), scales


def _in_8_bits(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `load(quantize="q8")` rounds a matrix."""
    made = quantise(Weight("", values), 8, GROUP)
    assert made.scale is not None
    return made.data, made.scale


def _copy_words(codes: np.ndarray, into: np.ndarray) -> None:
    """Codes [out, bytes] as words of 4 bytes, a panel's 16 rows in turn."""
    words = _rows_together(np.ascontiguousarray(codes, np.uint8).view(np.uint32))
    np.copyto(into.view(np.uint32).reshape(words.shape), words)


def _rows_together(array: np.ndarray) -> np.ndarray:
    """[rows, n] -> [panels, n, 16], the last panel filled up with zeros."""
    short = -len(array) % PANEL
    if short:
        array = np.pad(array, ((0, short), (0, 0)))
    return array.reshape(-1, PANEL, array.shape[1]).swapaxes(1, 2)
