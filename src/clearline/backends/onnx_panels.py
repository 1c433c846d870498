"""Quantised matrices in panels of 16 rows, as the native product reads them (`native/products.h`): one stream from end to end."""

from typing import Any

import ml_dtypes
import numpy as np

from clearline.ops import Weight

PANEL = 16


def panel_shape(weight: Weight, layout: str) -> tuple[int, ...]:
    """Shape of an array of this layout: codes in words of 4 bytes, the rest one (zeros of 4 bits: half a byte) a group and row."""
    panels, groups = -(-weight.shape[0] // PANEL), weight.shape[1] // weight.group
    if layout == "panel codes":
        return (panels, weight.shape[1] * weight.bits // 8 * PANEL)
    if layout == "panel zeros":
        return (panels, groups, PANEL * weight.bits // 8)
    return (panels, groups, PANEL)


def panel_type(weight: Weight, layout: str) -> Any:
    """Element type of an array of this layout; bfloat16 as its bits."""
    if layout in ("panel codes", "panel zeros"):
        return np.uint8
    return np.uint16 if weight.narrow else np.float32


def fill_panels(weight: Weight, layout: str, into: np.ndarray) -> None:
    """Write the array of this layout into one of its shape and type."""
    if layout == "panel codes":
        words = _panels(np.ascontiguousarray(weight.data, np.uint8).view(np.uint32))
        np.copyto(into.view(np.uint32).reshape(words.shape), words)
    elif layout == "panel zeros":
        zeros = weight.zero_points()
        assert zeros is not None
        rows = _panels(zeros)
        np.copyto(into, rows if weight.bits == 8 else rows[..., 0::2] | rows[..., 1::2] << 4)
    else:
        array = weight.scale if "scales" in layout else weight.bias
        assert array is not None
        if into.dtype == np.uint16:
            np.copyto(into, _panels(array.astype(ml_dtypes.bfloat16).view(np.uint16)))
        else:
            np.copyto(into, _panels(array.astype(np.float32)))


def _panels(array: np.ndarray) -> np.ndarray:
    """[rows, n] -> [panels, n, 16], the last panel filled up with zeros."""
    short = -len(array) % PANEL
    if short:
        array = np.pad(array, ((0, short), (0, 0)))
    return array.reshape(-1, PANEL, array.shape[1]).swapaxes(1, 2)
