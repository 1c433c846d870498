"""The operations a backend supplies, formula first. The model in `clearline.model` uses nothing else.

Shapes are static; B is the batch, T rows in time, C channels, H heads, D the head dimension. Nothing is promoted
silently: token ids are int64, everything else is the backend's one float type (float64 in numpy64, float32 in onnx).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, cast

import numpy as np

from clearline.ops.state import Leaf, State, StateSpec
from clearline.ops.weight import Weight, Weights

A = TypeVar("A")
T = TypeVar("T")


class Array(Protocol):
    """A value inside a step: a NumPy array, a graph edge, a tensor. Only what every backend has."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __add__(self, other: Any, /) -> Any: ...
    def __sub__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...


class OpsOf(Protocol[A]):
    """One backend's operations."""

    def reshape(self, x: A, shape: Sequence[int]) -> A:
        """The same elements in row-major order under another shape."""

    def transpose(self, x: A, axes: Sequence[int]) -> A:
        """y[i_axes[0], i_axes[1], ...] = x[i_0, i_1, ...]."""

    def concat(self, xs: Sequence[A], axis: int) -> A:
        """The arrays one after the other along `axis`."""

    def slice(self, x: A, axis: int, start: int, stop: int) -> A:
        """x[start:stop] along `axis`; 0 <= start <= stop <= size."""

    def split(self, x: A, sizes: Sequence[int], axis: int) -> list[A]:
        """Consecutive slices of the given sizes, which add up to the axis."""

    def where_equal(self, ids: A, value: int, a: A, b: A) -> A:
        """a where ids == value, else b; `ids` [B] or [B, T] is matched to the leading axes of a and b, which broadcast."""

    def embed(self, ids: A, table: Weight) -> A:
        """y[..., :] = table[ids], and an exact zero row where ids == -1. ids int64; table [N, D]."""

    def linear(self, x: A, weight: Weight, bias: Weight | None = None) -> A:
        """y = x W^T + b. x [..., in], W [out, in] dense or quantised, b [out]."""

    def scale(self, x: A, weight: Weight) -> A:
        """y = x * g over the last axis. g [C]."""

    def rms_norm(self, x: A, gain: Weight, eps: float) -> A:
        """y = x g / sqrt(mean(x^2) + eps) over the last axis, computed in at least f32. gain has C elements."""

    def layer_norm(self, x: A, gain: Weight, bias: Weight, eps: float) -> A:
        """y = (x - mean) g / sqrt(var + eps) + b over the last axis, computed in at least f32."""

    def activation(self, x: A, name: str, alpha: float = 1.0) -> A:
        """silu x s(x); gelu x Phi(x) with erf; elu x or alpha (e^x - 1); sigmoid; tanh; relu."""

    def rope(self, x: A, position: A, period: float, layout: Literal["interleaved", "halves"]) -> A:
        """Rotate pair i of row t by the angle (position + t) * period^(-2i/D); angles in f32, absolute positions.

        x [B, T, H, D]; position int64 [B]; pairs are (2i, 2i+1) when interleaved, (i, D/2+i) in halves.
        """

    def sin_embedding(self, position: A, rows: int, dim: int, period: float) -> A:
        """[cos(p / period^(i/(dim/2-1))), sin(same)] for p = position + t. Returns [B, rows, dim]."""

    def ring_attend(self, q: A, k: A, v: A, ring: Any, position: A, context: int, window_rows: int) -> tuple[A, Any]:
        """y = softmax(q K^T / sqrt(D) over the visible keys) V, with K, V = the old ring and the new rows.

        q [B, T, H, D]; k, v [B, T, Hkv, D], query head h reads key head h // (H/Hkv); y [B, T, H, D]. The key at absolute
        position p is visible to the query at position t when p <= t and p > end(t) - context, where end(t) is the last
        position of t's group of `window_rows` rows. With window_rows 1 that is the plain sliding window; with more it
        is what a ring of `context` slots can still hold once the whole group is in it, which is how Kyutai streams Mimi.
        Returns y and the rows for the backend to commit to the ring.
        """

    def conv1d(self, x: A, weight: Weight, stride: int, dilation: int = 1) -> A:
        """y[t] = sum_j W[:, :, j] x[t stride + j dilation]: valid correlation, no hidden padding.

        x [B, T, C], W [out, C, k] -> [B, (T - dilation (k-1) - 1) // stride + 1, out].
        """

    def conv_transpose1d(self, x: A, weight: Weight, stride: int) -> A:
        """y[t stride + j] += W[:, :, j]^T x[t]: full transposed convolution, nothing trimmed.

        x [B, T, C] -> [B, (T-1) stride + k, out]. W is [C, out, k], or [C, 1, k] with C > 1 for a channel-wise one
        (out = C).
        """

    def bias(self, x: A, bias: Weight) -> A:
        """y = x + b over the last axis. b [C]."""

    def nearest_code(self, x: A, codebook: Weight) -> A:
        """argmin_n ||c_n||^2 / 2 - x . c_n, ties to the lowest n. x [..., D], codebook [N, D] -> int64 [...]."""


Ops = OpsOf[Array]


def as_ops(ops: OpsOf[A]) -> Ops:
    """A backend's operations as the model sees them: on arrays it knows nothing more about."""
    return cast(Ops, ops)


@dataclass(frozen=True)
class InputSpec:
    """One input of a step: its shape, and whether it holds token ids (int64) or samples and activations (float); these are
    `wide` where float32 is the least they are kept in."""

    shape: tuple[int, ...]
    ids: bool = False
    wide: bool = False


StepFunction = Callable[[Ops, Weights, State, Mapping[str, Array]], dict[str, Array]]


class Program(Protocol):
    """A step ready to run on one backend; it holds weights, and no state of its own, so sessions can share it."""

    def run(self, state: dict[str, Leaf], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One step: reads and updates `state` in place, returns the outputs (float32 or int64)."""


class LazyProgram(Program, Protocol):
    """A program of a backend that computes nothing before it is asked to."""

    def later(self, state: dict[str, Leaf], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """As `run`; inputs may be arrays that are not computed yet, outputs and leaves are such arrays."""

    def prepare(self) -> None:
        """Compile what the steps of a long session need, where anything is compiled."""


class Backend(Protocol):
    """What executes steps: compile once, run many times. `device` and `dtype` say where, and what activations are."""

    name: str
    device: str
    dtype: str

    def state(self, specs: Iterable[StateSpec]) -> dict[str, Leaf]:
        """Fresh state: position 0, carries 0, rings empty."""

    def compile(
        self,
        step: StepFunction,
        weights: Mapping[str, Weight],
        state: Iterable[StateSpec],
        inputs: Mapping[str, InputSpec],
    ) -> Program:
        """Make `step` ready to run on these weights."""


class LazyBackend(Backend, Protocol):
    """A backend whose programs are `LazyProgram`s, and whose operations can draw tokens (`clearline.generate.guess`).

    `compiled`: whether steps are compiled, which `LazyProgram.prepare` does before they are needed.
    """

    compiled: bool

    def alone(self, work: Callable[[], T]) -> T:
        """What `work` returns, done where its arrays are made and computed; nobody else's are meanwhile."""

    def now(self, outputs: Mapping[str, Any], states: Iterable[Mapping[str, Leaf]]) -> dict[str, np.ndarray]:
        """Compute outputs and states, all in one evaluation."""


def lazy(backend: Backend) -> LazyBackend | None:
    """The backend, when it is a lazy one."""
    return cast(LazyBackend, backend) if getattr(backend, "lazy", False) else None
