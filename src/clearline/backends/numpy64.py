"""The float64 reference: every operation as its formula, in plain NumPy. There to be read; slow on large models."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from clearline.backends.wanted import Device, Wanted, only
from clearline.ops import (
    Backend,
    InputSpec,
    Leaf,
    Program,
    Ring,
    State,
    StateSpec,
    StepFunction,
    Weight,
    Weights,
    as_ops,
    initial_state,
)

F64 = np.float64
_erf = np.vectorize(math.erf, otypes=[F64])


class _Rows(NamedTuple):
    """New keys and values, to be written into their ring once the step is over."""

    ring: Ring
    k: np.ndarray
    v: np.ndarray
    position: np.ndarray


class NumpyOps:
    """See `clearline.ops.Ops` for what each operation means."""

    def __init__(self) -> None:
        # By identity: two models on one backend have weights of the same names. Kept, so that no other gets its identity.
        self._dense: dict[int, tuple[Weight, np.ndarray]] = {}

    def weight(self, weight: Weight) -> np.ndarray:
        if id(weight) not in self._dense:
            self._dense[id(weight)] = (weight, weight.dense(F64))
        return self._dense[id(weight)][1]

    def reshape(self, x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        return x.reshape(tuple(shape))

    def transpose(self, x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
        return x.transpose(tuple(axes))

    def concat(self, xs: Sequence[np.ndarray], axis: int) -> np.ndarray:
        return np.concatenate(list(xs), axis)

    def slice(self, x: np.ndarray, axis: int, start: int, stop: int) -> np.ndarray:
        return x[(slice(None),) * (axis % x.ndim) + (slice(start, stop),)]

    def split(self, x: np.ndarray, sizes: Sequence[int], axis: int) -> list[np.ndarray]:
        return np.split(x, np.cumsum(sizes)[:-1], axis)

    def where_equal(self, ids: np.ndarray, value: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        condition = ids == value
        return np.where(condition.reshape(condition.shape + (1,) * (b.ndim - condition.ndim)), a, b)

    def embed(self, ids: np.ndarray, table: Weight) -> np.ndarray:
        rows: np.ndarray = self.weight(table)[np.maximum(ids, 0)]
        return np.where(ids[..., None] == -1, 0.0, rows)

    def linear(self, x: np.ndarray, weight: Weight, bias: Weight | None = None) -> np.ndarray:
        y: np.ndarray = x @ self.weight(weight).T
        return y if bias is None else y + self.weight(bias)

    def scale(self, x: np.ndarray, weight: Weight) -> np.ndarray:
        y: np.ndarray = x * self.weight(weight).reshape(-1)
        return y

    def rms_norm(self, x: np.ndarray, gain: Weight, eps: float) -> np.ndarray:
        y: np.ndarray = x * self.weight(gain).reshape(-1) / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps)
        return y

    def layer_norm(self, x: np.ndarray, gain: Weight, bias: Weight, eps: float) -> np.ndarray:
        centred = x - np.mean(x, -1, keepdims=True)
        y: np.ndarray = centred / np.sqrt(np.mean(centred * centred, -1, keepdims=True) + eps)
        return y * self.weight(gain) + self.weight(bias)

    def activation(self, x: np.ndarray, name: str, alpha: float = 1.0) -> np.ndarray:
        match name:
            case "silu":
                return x * _sigmoid(x)
            case "gelu":
                return x * 0.5 * (1.0 + _erf(x / math.sqrt(2.0)))
            case "elu":
                return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0)))
            case "sigmoid":
                return _sigmoid(x)
            case "tanh":
                return np.tanh(x)
            case "relu":
                return np.maximum(x, 0.0)
        raise AssertionError(name)

    def rope(self, x: np.ndarray, position: np.ndarray, period: float, layout: Literal["interleaved", "halves"]) -> np.ndarray:
        rows, _, dim = x.shape[1:]
        # f32 angles are part of the model: at position 100 000 they differ visibly from exact ones.
        frequency = np.exp(np.arange(dim // 2, dtype=np.float32) * np.float32(-math.log(period) * 2 / dim))
        angle = (_positions(position, rows).astype(np.float32)[..., None] * frequency)[:, :, None].astype(F64)
        cos, sin = np.cos(angle), np.sin(angle)
        if layout == "interleaved":
            re, im = x[..., 0::2], x[..., 1::2]
            return np.stack([re * cos - im * sin, re * sin + im * cos], -1).reshape(x.shape)
        re, im = x[..., : dim // 2], x[..., dim // 2 :]
        return np.concatenate([re * cos - im * sin, re * sin + im * cos], -1)

    def sin_embedding(self, position: np.ndarray, rows: int, dim: int, period: float) -> np.ndarray:
        exponent = np.arange(dim // 2, dtype=np.float32) / np.float32(dim // 2 - 1)
        phase = _positions(position, rows).astype(np.float32)[..., None] / np.float32(period) ** exponent
        return np.concatenate([np.cos(phase.astype(F64)), np.sin(phase.astype(F64))], -1)

    def ring_attend(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, ring: Ring, position: np.ndarray, context: int, window_rows: int
    ) -> tuple[np.ndarray, _Rows]:
        rows = q.shape[1]
        last = position[:, None] - 1
        old = last - (last - np.arange(ring.slots)) % ring.slots  # newest position that can live in each slot
        key_at = np.concatenate([old, _positions(position, rows)], 1)[:, None, None, :]
        query_at = _positions(position, rows)[:, None, :, None]
        window_end = query_at // window_rows * window_rows + window_rows - 1
        visible = (key_at >= 0) & (key_at <= query_at) & (key_at > window_end - context)
        repeat = q.shape[2] // k.shape[2]
        keys = np.concatenate([ring.k[:, :, : ring.slots], k.swapaxes(1, 2)], 2).repeat(repeat, 1)
        values = np.concatenate([ring.v[:, :, : ring.slots], v.swapaxes(1, 2)], 2).repeat(repeat, 1)
        scores = q.swapaxes(1, 2) @ keys.swapaxes(2, 3) / math.sqrt(q.shape[3])
        scores = np.where(visible, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        y = weights / weights.sum(-1, keepdims=True) @ values
        return y.swapaxes(1, 2), _Rows(ring, k, v, position)

    def conv1d(self, x: np.ndarray, weight: Weight, stride: int, dilation: int = 1) -> np.ndarray:
        w = self.weight(weight)
        kernel = w.shape[2]
        last = x.shape[1] - dilation * (kernel - 1)
        taps = (x[:, j * dilation : j * dilation + last : stride] @ w[:, :, j].T for j in range(kernel))
        y: np.ndarray = sum(taps, np.zeros(()))
        return y

    def conv_transpose1d(self, x: np.ndarray, weight: Weight, stride: int) -> np.ndarray:
        w = self.weight(weight)
        channels, out, kernel = w.shape
        batch, rows, _ = x.shape
        channelwise = out == 1 and channels > 1
        y = np.zeros((batch, (rows - 1) * stride + kernel, channels if channelwise else out))
        for j in range(kernel):
            y[:, j : j + (rows - 1) * stride + 1 : stride] += x * w[:, 0, j] if channelwise else x @ w[:, :, j]
        return y

    def bias(self, x: np.ndarray, bias: Weight) -> np.ndarray:
        y: np.ndarray = x + self.weight(bias)
        return y

    def nearest_code(self, x: np.ndarray, codebook: Weight) -> np.ndarray:
        c = self.weight(codebook)
        y: np.ndarray = np.argmin(0.5 * np.sum(c * c, -1) - x @ c.T, -1)
        return y


class _NumpyProgram:
    def __init__(self, ops: NumpyOps, step: StepFunction, weights: Mapping[str, Weight], inputs: Mapping[str, InputSpec]) -> None:
        self._ops = ops
        self._step = step
        self._weights = Weights(weights)
        self._inputs = dict(inputs)

    def run(self, state: dict[str, Leaf], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        view = State(dict(state))
        values = {name: np.asarray(inputs[name], np.int64 if spec.ids else F64) for name, spec in self._inputs.items()}
        outputs: dict[str, Any] = self._step(as_ops(self._ops), self._weights, view, values)
        for path, leaf in view.new.items():
            if isinstance(leaf, _Rows):
                leaf.ring.commit(leaf.k, leaf.v, leaf.position)
            else:
                state[path] = leaf
        return outputs


class Numpy64:
    """The backend object: float64 throughout, outputs float64 or int64."""

    name = "numpy64"
    device = "cpu"
    dtype = "float64"

    def __init__(self) -> None:
        self._ops = NumpyOps()

    def state(self, specs: Iterable[StateSpec]) -> dict[str, Leaf]:
        return initial_state(specs, F64)

    def compile(
        self,
        step: StepFunction,
        weights: Mapping[str, Weight],
        state: Iterable[StateSpec],
        inputs: Mapping[str, InputSpec],
    ) -> Program:
        return _NumpyProgram(self._ops, step, weights, inputs)


def devices() -> list[Device]:
    return [Device("cpu", "NumPy, one formula after the other")]


def make(wanted: Wanted) -> Backend:
    only("numpy64", wanted, ("cpu",), ("float64",))
    return Numpy64()


def _positions(position: np.ndarray, rows: int) -> np.ndarray:
    """Absolute positions [B, rows] of the rows that start at position [B]."""
    at: np.ndarray = position[:, None] + np.arange(rows)
    return at


def _sigmoid(x: np.ndarray) -> np.ndarray:
    y: np.ndarray = 0.5 * (1.0 + np.tanh(0.5 * x))
    return y
