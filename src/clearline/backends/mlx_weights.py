"""Weights as MLX arrays: dense ones in the backend's float type, quantised ones packed as `mx.quantized_matmul` reads them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from clearline.ops import Weight

# The group sizes of MLX's affine quantisation.
_GROUPS = (32, 64, 128)


@dataclass(frozen=True)
class Packed:
    """Codes uint32 [out, in * bits / 32], the first code in the lowest bits; scales and biases [out, in / group].

    The two are float32, or narrower where a GPU computes in less and that holds them exactly: nothing is rounded again.
    The product is computed in their type.
    """

    arrays: tuple[mx.array, mx.array, mx.array]
    bits: int
    group: int


class MlxWeights:
    """What MLX made of the weights of one model, each once per layout, shared by all programs."""

    def __init__(self, float_: mx.Dtype, cpu: bool) -> None:
        self.float = float_
        # Linux' BLAS is twice as fast on [in, out] as on a transposed view of [out, in], which is what a GPU wants.
        self._turned = cpu
        # The CPU's quantised product adds up in the type it is given, a GPU's in float32.
        self._narrow = mx.float32 if cpu else float_
        self._made: dict[tuple[int, str], tuple[Weight, Any]] = {}

    def _once(self, weight: Weight, layout: str, make: Callable[[], Any]) -> Any:
        key = (id(weight), layout)
        if key not in self._made:
            self._made[key] = (weight, make())  # the weight itself too, so that its id stays its own
        return self._made[key][1]

    def _array(self, weight: Weight, layout: str, change: Callable[[np.ndarray], np.ndarray]) -> mx.array:
        def make() -> mx.array:
            array = mx.array(np.ascontiguousarray(change(weight.dense(np.float32))), self.float)
            mx.eval(array)  # now, and in this thread: the float32 of a large model would pile up
            return array

        array: mx.array = self._once(weight, layout, make)
        return array

    def dense(self, weight: Weight) -> mx.array:
        """As stored, dequantised where needed."""
        return self._array(weight, "dense", lambda w: w)

    def table(self, weight: Weight) -> mx.array:
        """The rows, and one of zeros after them."""
        return self._array(weight, "table", lambda w: np.pad(w, ((0, 1), (0, 0))))

    def vector(self, weight: Weight) -> mx.array:
        """[C], whatever axes of one lie around it."""
        return self._array(weight, "vector", np.ravel)

    def matrix(self, weight: Weight) -> mx.array:
        """[out, in] -> [in, out]."""
        return self._array(weight, "matrix", np.transpose) if self._turned else self.dense(weight).T

    def taps(self, weight: Weight) -> mx.array:
        """[out, in, k] -> [k in, out]."""
        return self._array(weight, "taps", lambda w: w.transpose(2, 1, 0).reshape(-1, w.shape[0]))

    def spread(self, weight: Weight) -> mx.array:
        """[in, out, k] -> [in, k out]."""
        return self._array(weight, "spread", lambda w: w.transpose(0, 2, 1).reshape(w.shape[0], -1))

    def channelwise(self, weight: Weight) -> mx.array:
        """[c, 1, k] -> [k, c]."""
        return self._array(weight, "channelwise", lambda w: w[:, 0].T)

    def half_norm(self, codebook: Weight) -> mx.array:
        """||c||^2 / 2 of every row, summed in float64."""
        return self._array(codebook, "half norm", lambda w: (0.5 * np.sum(w.astype(np.float64) ** 2, -1)).astype(np.float32))

    def packed(self, weight: Weight) -> Packed | None:
        """The codes as they lie in the checkpoint, or None for a dense weight or groups MLX does not have."""
        if not weight.bits or _split(weight) == 0:
            return None
        packed: Packed = self._once(weight, "packed", lambda: _pack(weight, self._narrow, 0))
        return packed

    def packed_table(self, weight: Weight) -> Packed | None:
        """The same with a row of zeros after the others."""
        if not weight.bits or _split(weight) == 0:
            return None
        packed: Packed = self._once(weight, "packed table", lambda: _pack(weight, self._narrow, 1))
        return packed


def _split(weight: Weight) -> int:
    """Into how many groups of a size MLX has a group divides; 0 when it does not."""
    return next((weight.group // size for size in reversed(_GROUPS) if weight.group % size == 0), 0)


def _pack(weight: Weight, narrow: mx.Dtype, zero_rows: int) -> Packed:
    assert weight.scale is not None
    scale = weight.scale.astype(np.float32, copy=False)
    # A power of two times the scale: exact, so symmetric groups keep their values.
    bias = -np.float32(weight.zero) * scale if weight.bias is None else weight.bias.astype(np.float32, copy=False)
    # Bytes in memory order are the words: little-endian, the even code of a byte low.
    codes = np.ascontiguousarray(weight.data).view("<u4")
    split, more = _split(weight), ((0, zero_rows), (0, 0))
    wide = [mx.array(np.pad(np.repeat(part, split, 1), more)) for part in (scale, bias)]
    groups = [part.astype(narrow) for part in wide]
    if not all(mx.array_equal(part.astype(mx.float32), exact).item() for part, exact in zip(groups, wide, strict=True)):
        groups = wide
    words = mx.array(codes)  # a row of zeros needs no codes of its own: -1 reads the last ones, times 0
    mx.eval(words, groups)
    return Packed((words, groups[0], groups[1]), weight.bits, weight.group // split)
