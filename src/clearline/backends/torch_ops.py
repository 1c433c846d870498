"""The operations on PyTorch tensors, without a host synchronisation anywhere: what runs eagerly can be captured in a graph."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from clearline.backends.torch_ring import TorchRing
from clearline.backends.torch_weights import TorchWeights
from clearline.ops import Weight


class TorchOps:
    """See `clearline.ops.Ops` for what each operation means. One instance remembers, for a position tensor, what layers share.

    So it serves one step; or one whose position is the same tensor every time, and never changes.
    """

    def __init__(self, weights: TorchWeights, fused: bool = False) -> None:
        """fused: written out in formulas that torch.compile makes few kernels of."""
        self._weights = weights
        self._fused = fused
        self._memo: dict[tuple[Any, ...], Any] = {}
        self._alive: list[Tensor] = []  # an id in a key is only its own while its tensor lives

    # -- shape ----------------------------------------------------------------------------------

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return x.reshape(tuple(shape))

    def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        return x.permute(tuple(axes))

    def concat(self, xs: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(list(xs), axis)

    def slice(self, x: Tensor, axis: int, start: int, stop: int) -> Tensor:
        return x.narrow(axis, start, stop - start)

    def split(self, x: Tensor, sizes: Sequence[int], axis: int) -> list[Tensor]:
        return list(torch.split(x, list(sizes), axis))

    def where_equal(self, ids: Tensor, value: int, a: Tensor, b: Tensor) -> Tensor:
        condition = ids == value
        return torch.where(condition.reshape(condition.shape + (1,) * (b.ndim - condition.ndim)), a, b)

    # -- arithmetic -----------------------------------------------------------------------------

    def embed(self, ids: Tensor, table: Weight) -> Tensor:
        return functional.embedding(ids + 1, self._weights.table(table))

    def linear(self, x: Tensor, weight: Weight, bias: Weight | None = None) -> Tensor:
        return self._weights.linear(weight)(x, None if bias is None else self._weights.dense(bias))

    def scale(self, x: Tensor, weight: Weight) -> Tensor:
        return x * self._weights.dense(weight).reshape(-1)

    def rms_norm(self, x: Tensor, gain: Weight, eps: float) -> Tensor:
        # Sums in float32 at least, whatever x is: PyTorch's own rule for this operation.
        return functional.rms_norm(x, x.shape[-1:], self._weights.dense(gain).reshape(-1), eps)

    def layer_norm(self, x: Tensor, gain: Weight, bias: Weight, eps: float) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self._weights.dense(gain), self._weights.dense(bias), eps)

    def activation(self, x: Tensor, name: str, alpha: float = 1.0) -> Tensor:
        match name:
            case "silu":
                return functional.silu(x)
            case "gelu":
                return functional.gelu(x)
            case "elu":
                return functional.elu(x, alpha)
            case "sigmoid":
                return torch.sigmoid(x)
            case "tanh":
                return torch.tanh(x)
            case "relu":
                return torch.relu(x)
        raise AssertionError(name)

    def bias(self, x: Tensor, bias: Weight) -> Tensor:
        return x + self._weights.dense(bias)

    def nearest_code(self, x: Tensor, codebook: Weight) -> Tensor:
        c = self._weights.table(codebook)[1:]
        return torch.argmin(self._weights.half_norms(codebook) - x @ c.T, -1)

    # -- positions ------------------------------------------------------------------------------

    def rope(self, x: Tensor, position: Tensor, period: float, layout: Literal["interleaved", "halves"]) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        cos, sin, turn = self._rotation(position, x.shape[1], x.shape[3], period, wide.dtype)
        if layout == "interleaved" and turn is not None:
            pairs = torch.view_as_complex(wide.reshape(*x.shape[:-1], -1, 2))
            return torch.view_as_real(pairs * turn).reshape(x.shape).to(x.dtype)
        re, im = wide.reshape(*x.shape[:-1], -1, 2).unbind(-1) if layout == "interleaved" else wide.chunk(2, -1)
        turned = (re * cos - im * sin, re * sin + im * cos)
        return (torch.stack(turned, -1).reshape(x.shape) if layout == "interleaved" else torch.cat(turned, -1)).to(x.dtype)

    def _rotation(
        self, position: Tensor, rows: int, dim: int, period: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """cos and sin [B, rows, 1, dim/2] of angles rounded to float32, shared by every layer of a step; and cos + i sin, by
        which pairs are turned in one operation, but not on Metal, and not in code that is to be fused."""
        key = ("rotation", id(position), rows, dim, period)
        if key not in self._memo:
            self._alive.append(position)
            frequency = np.exp(np.arange(dim // 2, dtype=np.float32) * np.float32(-math.log(period) * 2 / dim))
            at = _positions(position, rows).to(torch.float32)[..., None, None]
            angle = (at * self._weights.constant(frequency)).to(dtype)
            cos, sin = torch.cos(angle), torch.sin(angle)
            self._memo[key] = (cos, sin, None if angle.device.type == "mps" or self._fused else torch.complex(cos, sin))
        rotation: tuple[Tensor, Tensor, Tensor | None] = self._memo[key]
        return rotation

    def sin_embedding(self, position: Tensor, rows: int, dim: int, period: float) -> Tensor:
        exponent = np.arange(dim // 2, dtype=np.float32) / np.float32(dim // 2 - 1)
        divisor = self._weights.constant(np.float32(period) ** exponent)
        phase = _positions(position, rows).to(torch.float32)[..., None] / divisor
        wide = phase.to(torch.float64) if self._weights.dtype == torch.float64 else phase
        return torch.cat([torch.cos(wide), torch.sin(wide)], -1).to(self._weights.dtype)

    # -- attention ------------------------------------------------------------------------------

    def ring_attend(
        self, q: Tensor, k: Tensor, v: Tensor, ring: TorchRing, position: Tensor, context: int, window_rows: int
    ) -> tuple[Tensor, TorchRing]:
        batch, rows, heads, dim = q.shape
        kv_heads = k.shape[2]
        if rows <= ring.rows:
            # The new rows go into the ring first: what they overwrite no query of this step, or of a later one, can see.
            ring.reserve(rows)
            at, mask = self._visible(ring, position, rows, context, window_rows)
            keys, values = (ring.write_anew if self._fused and ring.few else ring.write)(k, v, at)
        else:
            keys, values, mask = self._long(k, v, ring, position, context, window_rows)
        # Query heads that share a key head become further query rows of it: keys are never repeated in memory.
        share = heads // kv_heads
        grouped = q.reshape(batch, rows, kv_heads, share, dim).permute(0, 2, 3, 1, 4).reshape(batch, kv_heads, share * rows, dim)
        mask = mask if share == 1 else mask.repeat(1, 1, share, 1)
        if self._fused:
            y = (attend_one_by_one if ring.few else attend_exactly)(grouped, keys, values, mask)
        else:
            y = (attend_exactly if q.device.type == "cpu" else attend)(grouped, keys, values, mask)
        y = y.reshape(batch, kv_heads, share, rows, dim).permute(0, 3, 1, 2, 4).reshape(q.shape)
        return y, ring

    def _visible(self, ring: TorchRing, position: Tensor, rows: int, context: int, window_rows: int) -> tuple[Tensor, Tensor]:
        """The slots int64 [B, rows] of the new rows, and the mask of the slots once they are there."""
        key = ("visible", id(position), rows, context, window_rows, ring.size, ring.in_use)
        if key not in self._memo:
            self._alive.append(position)
            query_at = _positions(position, rows)
            at = query_at.remainder(ring.size)
            mask = self._mask(query_at, ring.held(position + rows), context, window_rows)
            self._memo[key] = (at, mask)
        found: tuple[Tensor, Tensor] = self._memo[key]
        return found

    def _long(
        self, k: Tensor, v: Tensor, ring: TorchRing, position: Tensor, context: int, window_rows: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """More rows than the ring has room for beside the past (a whole recording in one step): keys, values, mask."""
        rows = k.shape[1]
        query_at = _positions(position, rows)
        key_at = torch.cat([ring.held(position), query_at], 1)
        keys, values = (torch.cat([old, new.transpose(1, 2)], 2) for old, new in ((ring.k, k), (ring.v, v)))
        ring.reserve(rows)
        kept = min(rows, ring.size)
        ring.write(k[:, -kept:], v[:, -kept:], query_at[:, -kept:].remainder(ring.size))
        return keys, values, self._mask(query_at, key_at, context, window_rows)

    def _mask(self, query_at: Tensor, key_at: Tensor, context: int, window_rows: int) -> Tensor:
        """What is added to the scores of the keys at absolute positions [B, K] for queries at [B, T]: 0 or -inf, [B, 1, T, K]."""
        oldest = (query_at - query_at.remainder(window_rows) + (window_rows - context)).clamp(min=0)
        key_at, oldest, query_at = key_at[:, None, None, :], oldest[:, None, :, None], query_at[:, None, :, None]
        hidden = (key_at < oldest) | (key_at > query_at)
        return torch.zeros(hidden.shape, dtype=self._weights.dtype, device=hidden.device).masked_fill(hidden, -torch.inf)

    # -- convolutions ---------------------------------------------------------------------------

    def conv1d(self, x: Tensor, weight: Weight, stride: int, dilation: int = 1) -> Tensor:
        # A matrix product of gathered rows: the libraries' convolutions round differently with every thread count, and on
        # CUDA in TF32 unless told otherwise.
        _, channels, kernel = weight.shape
        batch, length, _ = x.shape
        rows = (length - dilation * (kernel - 1) - 1) // stride + 1
        x = x.contiguous()
        taps = x.as_strided(
            (batch, rows, kernel, channels), (length * channels, stride * channels, dilation * channels, 1), x.storage_offset()
        )
        return functional.linear(taps.reshape(batch, rows, kernel * channels), self._weights.taps(weight))

    def conv_transpose1d(self, x: Tensor, weight: Weight, stride: int) -> Tensor:
        # A matrix product, then overlap-add of blocks of `stride` rows.
        channels, per_group, kernel = weight.shape
        batch, rows, _ = x.shape
        if per_group == 1 and channels > 1:
            out = channels
            taps = x[:, :, None, :] * self._weights.channelwise(weight)
        else:
            out = per_group
            taps = functional.linear(x, self._weights.spread(weight)).reshape(batch, rows, kernel, out)
        blocks = -(-kernel // stride)
        if kernel % stride:
            taps = functional.pad(taps, (0, 0, 0, blocks * stride - kernel))
        taps = taps.reshape(batch, rows, blocks, stride * out)
        y = x.new_zeros(batch, rows + blocks - 1, stride * out)
        for i in range(blocks):
            y[:, i : i + rows] += taps[:, :, i]
        return y.reshape(batch, (rows + blocks - 1) * stride, out)[:, : (rows - 1) * stride + kernel]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """PyTorch's fused attention. q [B, H, T, D], k and v [B, H, K, D], mask [B, 1, T, K] is added to the scores."""
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attend_exactly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The same by its formula: on the CPU the fused one divides the keys among threads, and rounds as they are divided."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(wide) @ k.to(wide).transpose(2, 3) / math.sqrt(q.shape[3])
    return (torch.softmax(scores + mask, -1) @ v.to(wide)).to(q.dtype)


def attend_one_by_one(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The same for few keys, each by itself: torch.compile makes one kernel of it, where sums over the keys would be two more."""
    wide = torch.promote_types(q.dtype, torch.float32)
    q = q.to(wide) / math.sqrt(q.shape[3])
    keys, values, masks = (x.to(wide).unbind(axis) for x, axis in ((k, 2), (v, 2), (mask, 3)))
    scores = [(q * key[:, :, None]).sum(-1, keepdim=True) + hidden[..., None] for key, hidden in zip(keys, masks, strict=True)]
    largest = reduce(torch.maximum, scores)
    shares = [torch.exp(score - largest) for score in scores]
    total = reduce(torch.add, [share * value[:, :, None] for share, value in zip(shares, values, strict=True)])
    return (total / reduce(torch.add, shares)).to(k.dtype)


def _positions(position: Tensor, rows: int) -> Tensor:
    """Absolute positions [B, rows] of the rows that start at position [B]."""
    return position[:, None] + torch.arange(rows, device=position.device)
