"""Running traced graphs with ONNX Runtime on the CPU: the default backend, float32."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

from clearline.backends.onnx_layout import Layout, arrange
from clearline.backends.onnx_ring import Int8Ring, OrtRing, ring_class
from clearline.backends.onnx_trace import trace
from clearline.backends.wanted import Device, Wanted, only
from clearline.ops import Backend, InputSpec, Leaf, Program, StateSpec, StepFunction, Weight, initial_state

# Below this, waking a second thread costs more than it brings: a nano frame takes 3.4 ms on one thread, 4.0 on two.
SMALL_BYTES = 64_000_000


class _OnnxProgram:
    def __init__(
        self,
        step: StepFunction,
        weights: Mapping[str, Weight],
        state: Iterable[StateSpec],
        inputs: Mapping[str, InputSpec],
        backend: "Onnx",
    ) -> None:
        state = list(state)
        graph = trace(step, weights, state, inputs, {spec.path for spec in state if ring_class(spec, backend.int8) is Int8Ring})
        self._graph = graph
        self._inputs = {name: np.int64 if spec.ids else np.float32 for name, spec in inputs.items()}
        rows = {name for names in graph.rings.values() for name in names} | {names[2] for names in graph.in_place.values()}
        written = {name for names in graph.written.values() for name in names}
        self._fetched = [*graph.carries.values(), *graph.outputs.values(), *rows, *written]
        size = sum(weight.data.nbytes for weight, _ in graph.weights.values())
        options = backend.session_options(size)
        values = [backend.value(name, weight, layout) for name, (weight, layout) in graph.weights.items()]
        options.add_external_initializers(list(graph.weights), values)
        # Constant folding may keep references into the supplied memory: it must live as long as the session.
        self._keep_alive = values
        self._session = ort.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])

    def run(self, state: dict[str, Leaf], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        graph = self._graph
        results = self._results(state, inputs)
        while self._misfit(state, results):
            results = self._results(state, inputs)
        for path, name in graph.carries.items():
            state[path] = results[name]
        for path, (new_k, new_v, position) in graph.rings.items():
            _ring(state[path]).commit(results[new_k], results[new_v], results[position])
        for path, (_, _, position) in graph.in_place.items():
            _ring(state[path]).settle(int(results[position][0]))
        return {name: results[edge] for name, edge in graph.outputs.items()}

    def _misfit(self, state: dict[str, Leaf], results: Mapping[str, np.ndarray]) -> bool:
        """Whether a row went into an int8 ring that was much too narrow for it; the ring is then wider."""
        graph = self._graph
        again = [
            state[path].widen([results[name] for name in names], int(results[graph.in_place[path][2]][0]))
            for path, names in graph.written.items()
        ]
        return any(again)

    def _results(self, state: dict[str, Leaf], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph; rows that go in place are then behind the past, nothing else of the state has changed."""
        graph = self._graph
        binding = self._session.io_binding()
        feeds = {name: np.ascontiguousarray(inputs[name], dtype) for name, dtype in self._inputs.items()}
        feeds |= {path: _array(state[path]) for path in graph.carries}
        for path in graph.written:
            feeds |= _ring(state[path]).feeds(path)
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for path in (*graph.rings, *graph.in_place):
            k, v = _ring(state[path]).values
            binding.bind_ortvalue_input(f"{path}.k", k)
            binding.bind_ortvalue_input(f"{path}.v", v)
            if path in graph.in_place:
                binding.bind_ortvalue_output(graph.in_place[path][0], k)
                binding.bind_ortvalue_output(graph.in_place[path][1], v)
        for name in self._fetched:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        fetched = binding.get_outputs()[2 * len(graph.in_place) :]
        return {name: value.numpy() for name, value in zip(self._fetched, fetched, strict=True)}


def _ring(leaf: Leaf) -> OrtRing:
    assert isinstance(leaf, OrtRing)
    return leaf


def _array(leaf: Leaf) -> np.ndarray:
    assert isinstance(leaf, np.ndarray)
    return leaf


class Onnx:
    """The backend object. Weights laid out for ONNX Runtime are shared between the programs of one model."""

    name = "onnx"
    device = "cpu"
    dtype = "float32"

    def __init__(self, threads: int | None = None, int8: bool = False) -> None:
        """`int8`: keys and values of long rings in int8, a quarter of the bytes. Results are then not those of float32."""
        self._threads = threads
        self.int8 = int8
        self._values: dict[tuple[int, str], tuple[Weight, Any]] = {}

    def state(self, specs: Iterable[StateSpec]) -> dict[str, Leaf]:
        return initial_state(specs, np.float32, lambda spec, dtype: ring_class(spec, self.int8)(spec, dtype))

    def session_options(self, size: int) -> ort.SessionOptions:
        """Options for a program with `size` bytes of weights."""
        options = ort.SessionOptions()
        threads = self._threads or (1 if size < SMALL_BYTES else None)
        if threads is not None:
            options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin between the hundreds of small operations of a step save a seventh of it; between steps they sleep.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return options

    def value(self, name: str, weight: Weight, layout: Layout) -> Any:
        """The OrtValue of one weight in one layout."""
        # Kept with the weight itself: an id says nothing once its object is gone.
        key = (id(weight), name)
        if key not in self._values:
            self._values[key] = weight, ort.OrtValue.ortvalue_from_numpy(arrange(weight, layout))
        return self._values[key][1]

    def compile(
        self,
        step: StepFunction,
        weights: Mapping[str, Weight],
        state: Iterable[StateSpec],
        inputs: Mapping[str, InputSpec],
    ) -> Program:
        return _OnnxProgram(step, weights, list(state), inputs, self)


def devices() -> list[Device]:
    return [Device("cpu", f"ONNX Runtime {ort.__version__}")]


def make(wanted: Wanted) -> Backend:
    only("onnx", wanted, ("cpu",), ("float32",), ("int8",))
    return Onnx(wanted.threads, int8=wanted.cache == "int8")
