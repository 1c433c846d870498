"""Running steps with MLX: lazy arrays, and one evaluation for everything a step leaves behind."""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from clearline.backends.mlx_devices import DTYPES, checked_device, free_memory, memory_message
from clearline.backends.mlx_devices import devices as devices
from clearline.backends.mlx_ops import MlxOps, RingArrays
from clearline.backends.mlx_state import MlxRing
from clearline.backends.mlx_thread import on_thread
from clearline.backends.mlx_weights import MlxWeights
from clearline.backends.wanted import Wanted, refuse_kept
from clearline.errors import BackendError
from clearline.ops import Backend, InputSpec, Leaf, Program, State, StateSpec, StepFunction, Weight, Weights, as_ops

T = TypeVar("T")


class _MlxProgram:
    def __init__(
        self,
        step: StepFunction,
        weights: Mapping[str, Weight],
        state: Iterable[StateSpec],
        inputs: Mapping[str, InputSpec],
        backend: "Mlx",
    ) -> None:
        self._step = step
        self._weights = Weights(weights)
        self._backend = backend
        self._specs = list(state)
        self._state = {spec.path: spec.kind for spec in self._specs}
        self._inputs = dict(inputs)
        self._call = mx.compile(self._traced) if backend.compiled else self._traced

    def _traced(self, leaves: dict[str, Any], inputs: dict[str, mx.array]) -> tuple[dict[str, mx.array], dict[str, Any]]:
        """The step on arrays: what `mx.compile` records once per thread and ring size."""
        rings = {path: RingArrays(*leaf) if self._state[path] == "ring" else leaf for path, leaf in leaves.items()}
        view = State(rings)
        ops = MlxOps(self._backend.weights)
        outputs: dict[str, Any] = self._step(as_ops(ops), self._weights, view, inputs)
        # What leaves for NumPy, which has no bfloat16.
        return {name: y if _whole(y) else y.astype(mx.float32) for name, y in outputs.items()}, view.new

    def run(self, state: dict[str, Leaf], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._backend.alone(lambda: self._backend.now(self.later(state, inputs), [state]))

    def later(self, state: dict[str, Leaf], inputs: Mapping[str, np.ndarray | mx.array]) -> dict[str, mx.array]:
        """As `run`, with nothing computed yet: outputs and leaves wait for `Mlx.now`. Inputs may wait as well."""
        return self._backend.alone(lambda: self._later(self._call, state, inputs))

    def lay_out(self) -> None:
        """Every weight is on the device now, or the error comes before anything is half loaded: one step, of which nothing is
        computed."""
        self._backend.alone(lambda: self._later(self._traced, self._backend.state(self._specs), self._zeros()))

    def prepare(self) -> None:
        """Compile for every size of the rings now, where that is done, and not in the frame in which they grow."""
        if not self._backend.compiled:
            return
        state = self._backend.state(self._specs)
        while self._backend.alone(lambda: self._run_and_grow(state)):
            pass

    def _run_and_grow(self, state: dict[str, Leaf]) -> bool:
        """A step on zeros, and room for more; whether there was any to be had."""
        self._backend.now(self._later(self._call, state, self._zeros()), [state])
        growing = [leaf for leaf in state.values() if isinstance(leaf, MlxRing) and leaf.slots < leaf.full]
        for ring in growing:
            ring.reserve(ring.slots + 1)
        return bool(growing)

    def _zeros(self) -> dict[str, np.ndarray]:
        return {name: np.zeros(spec.shape, np.int64 if spec.ids else np.float32) for name, spec in self._inputs.items()}

    def _later(
        self, call: Callable[..., Any], state: dict[str, Leaf], inputs: Mapping[str, np.ndarray | mx.array]
    ) -> dict[str, mx.array]:
        given = {name: self._array(inputs[name], self._kind(spec)) for name, spec in self._inputs.items()}
        outputs: dict[str, mx.array]
        outputs, new = call({path: self._leaf(state[path], kind) for path, kind in self._state.items()}, given)
        # The old arrays are let go before anything is computed, so that rings are written where they are.
        for path, leaf in new.items():
            if isinstance(state[path], MlxRing):
                state[path].k, state[path].v = leaf
            else:
                state[path] = leaf
        return outputs

    def _kind(self, spec: InputSpec) -> mx.Dtype:
        return mx.int64 if spec.ids else mx.float32 if spec.wide else self._backend.float

    def _array(self, array: np.ndarray | mx.array, kind: mx.Dtype) -> mx.array:
        return array.astype(kind) if isinstance(array, mx.array) else mx.array(np.ascontiguousarray(array), kind)

    def _leaf(self, leaf: Leaf, kind: str) -> Any:
        if kind == "ring":
            leaf.reserve(leaf.end + leaf.rows)
            return leaf.k, leaf.v
        if isinstance(leaf, np.ndarray):
            return self._array(leaf, mx.int64 if kind == "position" else self._backend.float)
        return leaf


class Mlx:
    """The backend object. Weights laid out for MLX are shared between the programs of one model."""

    name = "mlx"
    lazy = True  # it draws tokens too: see clearline.generate.guess and .whole_frame

    def __init__(self, device: str = "cpu", dtype: str = "float32", compiled: bool | None = None) -> None:
        """`compiled`: fuse operations with `mx.compile`; on a GPU unless told otherwise, see below."""
        self.device = device
        self.dtype = dtype
        self.float = DTYPES[dtype]
        self._place = mx.Device(mx.cpu if device == "cpu" else mx.gpu)
        # On a CPU `mx.compile` starts g++ for every fused kernel: see benchmarks/RESULTS.md.
        self.compiled = device != "cpu" if compiled is None else compiled
        self.weights = MlxWeights(self.float, cpu=device == "cpu")

    def alone(self, work: Callable[[], T]) -> T:
        """What `work` returns, done by MLX's thread on this device, with its lack of memory told as ours."""
        return on_thread(lambda: self._told(work))

    def _told(self, work: Callable[[], T]) -> T:
        try:
            with mx.stream(self._place):
                return work()
        except (RuntimeError, MemoryError) as error:
            # "Insufficient Memory" is Metal's; other failures of a malloc name it.
            if isinstance(error, MemoryError) or re.search(r"alloc|memory", str(error), re.IGNORECASE):
                raise BackendError(memory_message(self.device, error)) from error
            raise

    def free_bytes(self) -> int | None:
        """Bytes free on the device; None where nobody says."""
        return free_memory(self.device)

    def state(self, specs: Iterable[StateSpec]) -> dict[str, Leaf]:
        return self.alone(lambda: self._state(specs))

    def _state(self, specs: Iterable[StateSpec]) -> dict[str, Leaf]:
        leaves: dict[str, Leaf] = {}
        for spec in specs:
            if spec.kind == "ring":
                # NaN screams when a mask lets through what was never written; a GPU's fused attention may add its mask.
                leaves[spec.path] = MlxRing(spec, self.float, np.nan if self.device == "cpu" else 0.0)
            else:
                leaves[spec.path] = mx.zeros(spec.shape, mx.int64 if spec.kind == "position" else self.float)
        mx.eval(_arrays(leaves))
        return leaves

    def now(self, outputs: Mapping[str, mx.array], states: Iterable[Mapping[str, Leaf]]) -> dict[str, np.ndarray]:
        """Compute what steps have left to be computed, in one evaluation: the outputs for NumPy, the states for the next steps."""
        return self.alone(lambda: self._now(outputs, states))

    def _now(self, outputs: Mapping[str, mx.array], states: Iterable[Mapping[str, Leaf]]) -> dict[str, np.ndarray]:
        mx.eval(dict(outputs), [_arrays(state) for state in states])
        return {name: _numpy(array) for name, array in outputs.items()}

    def compile(
        self,
        step: StepFunction,
        weights: Mapping[str, Weight],
        state: Iterable[StateSpec],
        inputs: Mapping[str, InputSpec],
    ) -> Program:
        program = _MlxProgram(step, weights, state, inputs, self)
        program.lay_out()
        return program


def make(wanted: Wanted) -> Backend:
    """A backend on the wanted device, or on the GPU, or on the CPU, which says why. Raises BackendError."""
    refuse_kept("mlx", wanted)
    device, why = checked_device(wanted)
    if why:
        _say_once(why)
    return Mlx(device, wanted.dtype or "float32")


@cache
def _say_once(what: str) -> None:
    logging.getLogger(__name__).warning(what)


def _arrays(state: Mapping[str, Leaf]) -> list[Any]:
    return [(leaf.k, leaf.v) if isinstance(leaf, MlxRing) else leaf for leaf in state.values() if not isinstance(leaf, np.ndarray)]


def _whole(array: mx.array) -> bool:
    return bool(mx.issubdtype(array.dtype, mx.integer))


def _numpy(array: mx.array) -> np.ndarray:
    """A copy: float32, or int64 for ids."""
    return np.array(array, np.int64 if _whole(array) else np.float32)
