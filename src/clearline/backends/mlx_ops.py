"""The operations on MLX arrays: one float type, ids and positions int64. The same lines run eagerly and in `mx.compile`."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import mlx.core as mx
import numpy as np

from clearline.backends.mlx_weights import MlxWeights
from clearline.config import Sampling
from clearline.ops import Weight


class RingArrays(NamedTuple):
    """A ring inside a step: keys and values [B, heads, slots, D], where position p lives in slot p mod slots."""

    k: mx.array
    v: mx.array


class MlxOps:
    """See `clearline.ops.Ops` for what each operation means. One instance traces one step."""

    def __init__(self, weights: MlxWeights) -> None:
        self._weights = weights
        self._float = weights.float
        self._memo: dict[tuple[Any, ...], Any] = {}
        self._positions: dict[int, mx.array] = {}  # keeps what the memo's keys identify alive

    # -- shape ----------------------------------------------------------------------------------

    def reshape(self, x: mx.array, shape: Sequence[int]) -> mx.array:
        return mx.reshape(x, tuple(shape))

    def transpose(self, x: mx.array, axes: Sequence[int]) -> mx.array:
        return mx.transpose(x, tuple(axes))

    def concat(self, xs: Sequence[mx.array], axis: int) -> mx.array:
        return mx.concatenate(list(xs), axis)

    def slice(self, x: mx.array, axis: int, start: int, stop: int) -> mx.array:
        return x[(slice(None),) * (axis % x.ndim) + (slice(start, stop),)]

    def split(self, x: mx.array, sizes: Sequence[int], axis: int) -> list[mx.array]:
        return list(mx.split(x, np.cumsum(sizes)[:-1].tolist(), axis))

    def where_equal(self, ids: mx.array, value: int, a: mx.array, b: mx.array) -> mx.array:
        condition = mx.reshape(ids == value, ids.shape + (1,) * (b.ndim - ids.ndim))
        return mx.where(condition, a, b)

    # -- arithmetic -----------------------------------------------------------------------------

    def embed(self, ids: mx.array, table: Weight) -> mx.array:
        # The tables end with a row of zeros, which is what -1 reads.
        if (packed := self._weights.packed_table(table)) is None:
            return mx.take(self._weights.table(table), ids, 0)
        codes, scales, biases = (mx.take(part, ids, 0) for part in packed.arrays)
        return mx.dequantize(codes, scales, biases, packed.group, packed.bits).astype(self._float)

    def linear(self, x: mx.array, weight: Weight, bias: Weight | None = None) -> mx.array:
        if (packed := self._weights.packed(weight)) is None:
            y = x @ self._weights.matrix(weight)
        else:
            wide = x.astype(packed.arrays[1].dtype)
            y = mx.quantized_matmul(wide, *packed.arrays, transpose=True, group_size=packed.group, bits=packed.bits)
            y = y.astype(self._float)
        return y if bias is None else y + self._weights.dense(bias)

    def scale(self, x: mx.array, weight: Weight) -> mx.array:
        return x * self._weights.vector(weight)

    def rms_norm(self, x: mx.array, gain: Weight, eps: float) -> mx.array:
        return mx.fast.rms_norm(x, self._weights.vector(gain), eps)

    def layer_norm(self, x: mx.array, gain: Weight, bias: Weight, eps: float) -> mx.array:
        return mx.fast.layer_norm(x, self._weights.vector(gain), self._weights.vector(bias), eps)

    def activation(self, x: mx.array, name: str, alpha: float = 1.0) -> mx.array:
        match name:
            case "silu":
                return x * mx.sigmoid(x)
            case "gelu":
                return x * (0.5 * (1.0 + mx.erf(x * math.sqrt(0.5))))
            case "elu":
                low = mx.expm1(mx.minimum(x, 0.0))  # never below x where x is negative, and 0 where it is not
                return mx.maximum(x, low) if alpha == 1 else mx.where(x > 0, x, alpha * low)
            case "sigmoid":
                return mx.sigmoid(x)
            case "tanh":
                return mx.tanh(x)
            case "relu":
                return mx.maximum(x, 0.0)
        raise AssertionError(name)

    def bias(self, x: mx.array, bias: Weight) -> mx.array:
        return x + self._weights.vector(bias)

    # -- positions and attention ----------------------------------------------------------------

    def _at(self, position: mx.array, rows: int) -> mx.array:
        """Absolute positions int64 [B, rows]."""
        self._positions[id(position)] = position
        key = ("at", id(position), rows)
        if key not in self._memo:
            self._memo[key] = position[:, None] + mx.arange(rows, dtype=mx.int64)
        at: mx.array = self._memo[key]
        return at

    def _rotation(self, position: mx.array, rows: int, dim: int, period: float, repeat: bool) -> tuple[mx.array, mx.array]:
        """cos and signed sin [B, rows, 1, dim] for pairs side by side (`repeat`) or half a row apart; shared by all layers."""
        key = ("rotation", id(position), rows, dim, period, repeat)
        if key not in self._memo:
            # Not mx.fast.rope: it computes frequency, sine and cosine in the GPU's fast, and coarser, functions.
            frequency = np.exp(np.arange(dim // 2, dtype=np.float32) * np.float32(-math.log(period) * 2 / dim))
            angle = self._at(position, rows).astype(mx.float32)[..., None, None] * mx.array(frequency)
            cos, sin = mx.cos(angle), mx.sin(angle)
            if repeat:
                cos, sin = (mx.reshape(mx.stack(pair, -1), (*angle.shape[:3], dim)) for pair in ([cos, cos], [-sin, sin]))
            else:
                cos, sin = (mx.concatenate(pair, -1) for pair in ([cos, cos], [-sin, sin]))
            self._memo[key] = (cos.astype(self._float), sin.astype(self._float))
        rotation: tuple[mx.array, mx.array] = self._memo[key]
        return rotation

    def rope(self, x: mx.array, position: mx.array, period: float, layout: Literal["interleaved", "halves"]) -> mx.array:
        dim = x.shape[3]
        cos, sin = self._rotation(position, x.shape[1], dim, period, layout == "interleaved")
        pairs = (*x.shape[:3], dim // 2, 2) if layout == "interleaved" else (*x.shape[:3], 2, dim // 2)
        swapped = mx.reshape(x, pairs)
        swapped = swapped[..., ::-1] if layout == "interleaved" else swapped[..., ::-1, :]
        return x * cos + mx.reshape(swapped, x.shape) * sin

    def sin_embedding(self, position: mx.array, rows: int, dim: int, period: float) -> mx.array:
        exponent = np.arange(dim // 2, dtype=np.float32) / np.float32(dim // 2 - 1)
        phase = self._at(position, rows).astype(mx.float32)[..., None] / mx.array(np.float32(period) ** exponent)
        return mx.concatenate([mx.cos(phase), mx.sin(phase)], -1).astype(self._float)

    def ring_attend(
        self, q: mx.array, k: mx.array, v: mx.array, ring: RingArrays, position: mx.array, context: int, window_rows: int
    ) -> tuple[mx.array, RingArrays]:
        # The new rows replace the oldest ones before attention reads the ring: then nothing but the write needs the old
        # arrays, and MLX makes it in place. The ring has room for the whole window and the rows of the step.
        new = self._written(ring, k.swapaxes(1, 2), v.swapaxes(1, 2), position)
        visible = self._visible(position, q.shape[1], new.k.shape[2], context, window_rows)
        scale = 1 / math.sqrt(q.shape[3])
        y = mx.fast.scaled_dot_product_attention(q.swapaxes(1, 2), new.k, new.v, scale=scale, mask=visible)
        return y.swapaxes(1, 2), new

    def _written(self, ring: RingArrays, k: mx.array, v: mx.array, position: mx.array) -> RingArrays:
        """The ring with rows [B, heads, T, D] at slots position mod slots onwards; a step's rows never wrap (see MlxRing)."""
        key = ("slot", id(position), ring.k.shape[2])
        if key not in self._memo:
            self._memo[key] = position % ring.k.shape[2]
        slot = self._memo[key]
        if k.shape[0] == 1:
            return RingArrays(mx.slice_update(ring.k, k, slot, (2,)), mx.slice_update(ring.v, v, slot, (2,)))
        at = mx.reshape(slot[:, None] + mx.arange(k.shape[2], dtype=mx.int64), (k.shape[0], 1, k.shape[2], 1))
        at = mx.broadcast_to(at, k.shape)
        return RingArrays(mx.put_along_axis(ring.k, at, k, 2), mx.put_along_axis(ring.v, at, v, 2))

    def _visible(self, position: mx.array, rows: int, slots: int, context: int, window_rows: int) -> mx.array:
        """Which slots each query sees, bool [B, 1, rows, slots]; shared by every layer of a step."""
        key = ("visible", id(position), rows, slots, context, window_rows)
        if key not in self._memo:
            at = self._at(position, rows)
            newest = at[:, -1:]
            # The newest position that can live in each slot: none below 0, whatever an earlier life of the ring left there.
            key_at = (newest - (newest - mx.arange(slots, dtype=mx.int64)) % slots)[:, None, None, :]
            query_at = at[:, None, :, None]
            end = query_at // window_rows * window_rows + (window_rows - 1)
            self._memo[key] = (key_at >= 0) & (key_at <= query_at) & (key_at > end - context)
        visible: mx.array = self._memo[key]
        return visible

    # -- convolutions and codebooks -------------------------------------------------------------

    def conv1d(self, x: mx.array, weight: Weight, stride: int, dilation: int = 1) -> mx.array:
        # One matrix product of gathered taps: twice as fast as mx.conv1d on the CPU, and the same sums on every device.
        kernel = weight.shape[2]
        batch, length, channels = x.shape
        rows = (length - dilation * (kernel - 1) - 1) // stride + 1
        if kernel > 1:
            steps = (length * channels, stride * channels, dilation * channels, 1)
            x = mx.reshape(mx.as_strided(x, (batch, rows, kernel, channels), steps), (batch, rows, kernel * channels))
        return x @ self._weights.taps(weight)

    def conv_transpose1d(self, x: mx.array, weight: Weight, stride: int) -> mx.array:
        # A matrix product, then overlap-add of blocks of `stride` rows.
        channels, per_group, kernel = weight.shape
        batch, rows, _ = x.shape
        if per_group == 1 and channels > 1:
            out = channels
            taps = x[:, :, None, :] * self._weights.channelwise(weight)
        else:
            out = per_group
            taps = mx.reshape(x @ self._weights.spread(weight), (batch, rows, kernel, out))
        blocks = -(-kernel // stride)
        if kernel % stride:
            taps = mx.pad(taps, [(0, 0), (0, 0), (0, blocks * stride - kernel), (0, 0)])
        parts = mx.split(taps, blocks, 2)
        total = [mx.pad(part, [(0, 0), (i, blocks - 1 - i), (0, 0), (0, 0)]) for i, part in enumerate(parts)]
        y = mx.reshape(sum(total[1:], total[0]), (batch, (rows + blocks - 1) * stride, out))
        return y[:, : (rows - 1) * stride + kernel]

    def nearest_code(self, x: mx.array, codebook: Weight) -> mx.array:
        distance = self._weights.half_norm(codebook) - x @ self._weights.matrix(codebook)
        return mx.argmin(distance, -1).astype(mx.int64)

    # -- guessing tokens (see clearline.generate.guess) -----------------------------------------

    def draw(self, logits: mx.array, noise: mx.array | None, how: Sampling) -> mx.array:
        """A token of every row [B, N], ids [B]: as the host's sampler would, in float32 and without the text's penalties."""
        scores = logits.astype(mx.float32)
        if noise is None:
            return mx.argmax(scores, -1).astype(mx.int64)
        scores = (scores - mx.max(scores, -1, keepdims=True)) / how.temperature
        kept = scores > -np.inf
        if 0 < how.top_k < scores.shape[-1]:
            kept = scores >= mx.min(mx.topk(scores, how.top_k, -1), -1, keepdims=True)
        if 0 < how.top_p < 1:
            p = mx.softmax(mx.where(kept, scores, -np.inf), -1)
            ordered = -mx.sort(-p, -1)  # nothing that is read backwards: fused kernels had that wrong
            least = mx.where(mx.cumsum(ordered, -1) - ordered <= how.top_p, ordered, np.inf)
            kept = kept & (p >= mx.min(least, -1, keepdims=True))
        if how.min_p > 0:
            kept = kept & (scores >= math.log(how.min_p))
        return mx.argmax(mx.where(kept, scores + noise, -np.inf), -1).astype(mx.int64)
