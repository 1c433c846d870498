"""Running traced graphs with ONNX Runtime on the CPU: the default backend, float32."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

from clearline.backends import native
from clearline.backends.onnx_layout import Layout, arrange
from clearline.backends.onnx_ring import Int8Ring, ring_class
from clearline.backends.onnx_trace import trace
from clearline.backends.pages import HugeMemory
from clearline.backends.wanted import Device, Wanted, only
from clearline.errors import BackendError
from clearline.ops import Backend, InputSpec, Leaf, Program, StateSpec, StepFunction, Weight, initial_state

# Below this a second thread brings little: a nano frame takes 3.6 ms on one, 3.3 on two.
SMALL_BYTES = 32_000_000


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
        int8 = {spec.path for spec in state if ring_class(spec, backend.int8) is Int8Ring}
        graph = trace(step, weights, state, inputs, int8, backend.native, backend.bits, backend.threads)
        self._graph = graph
        self._inputs = {name: np.int64 if spec.ids else np.float32 for name, spec in inputs.items()}
        rings = {path: (".k", ".v", ".k_scale", ".v_scale")[: 4 if path in int8 else 2] for path in (*graph.rings, *graph.in_place)}
        self._rings = [(path, [path + part for part in parts]) for path, parts in rings.items()]
        fed = {*self._inputs, *graph.carries}
        positions = [name for name in graph.in_place.values() if name not in fed]
        rows = [name for names in graph.rings.values() for name in names]
        self._fetched = list(dict.fromkeys([*graph.carries.values(), *graph.outputs.values(), *rows, *positions]))
        options = backend.session_options(graph.threads)
        values = [backend.value(name, weight, layout) for name, (weight, layout) in graph.weights.items()]
        options.add_external_initializers(list(graph.weights), values)
        # Constant folding may keep references into the supplied memory: it must live as long as the session.
        self._keep_alive = values
        self._session = ort.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
        # What `run` calls, which first looks for every input among all names: 10 us a depformer step, 0.1 ms a temporal one.
        self._run = getattr(self._session, "_sess", self._session).run

    def run(self, state: dict[str, Leaf], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        graph = self._graph
        feeds: dict[str, Any] = {name: np.ascontiguousarray(inputs[name], dtype) for name, dtype in self._inputs.items()}
        for path in graph.carries:
            feeds[path] = state[path]
        for path, names in self._rings:
            feeds.update(zip(names, state[path].values.values(), strict=True))
        fetched = self._run_bound(state, feeds) if graph.returned else self._run(self._fetched, feeds, None)
        results = dict(zip(self._fetched, fetched, strict=True))
        positions = {name: int((feeds[name] if name in feeds else results[name])[0]) for name in set(graph.in_place.values())}
        for path, name in graph.carries.items():
            state[path] = results[name]
        for path, (new_k, new_v, position) in graph.rings.items():
            state[path].commit(results[new_k], results[new_v], results[position])
        for path, name in graph.in_place.items():
            state[path].settle(positions[name])
        return {name: results[edge] for name, edge in graph.outputs.items()}

    def _run_bound(self, state: Mapping[str, Leaf], feeds: Mapping[str, Any]) -> list[np.ndarray]:
        """`session.run` with rings whose arrays are outputs too; it costs twice the time around the graph."""
        binding = self._session.io_binding()
        for name, value in feeds.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, value)
            else:
                binding.bind_ortvalue_input(name, value)
        for path, names in self._graph.returned.items():
            values = state[path].values
            for name, part in zip(names, (".k", ".v"), strict=True):
                binding.bind_ortvalue_output(name, values[part])
        for name in self._fetched:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        return [value.numpy() for value in binding.get_outputs()[2 * len(self._graph.returned) :]]


class Onnx:
    """The backend object. Weights laid out for ONNX Runtime are shared between the programs of one model."""

    name = "onnx"
    device = "cpu"
    dtype = "float32"

    @property
    def quantised_budget(self) -> float:
        """Largest error of products with quantised weights: ours round activations to 16 bits, ONNX Runtime's to 8."""
        return 1e-7 if "Product" in self.native else 2e-4

    def __init__(self, threads: int | None = None, int8: bool = False, bits: int = 32) -> None:
        """`int8`: keys and values of long rings in int8, a quarter of the bytes. `bits` 16 or 8: of what dense matrices keep, every
        32 values by their own largest; 8 only where it is reading them that takes the time. Results are then not those of
        float32."""
        self._threads = threads
        self.int8 = int8
        self.bits = bits
        self.native = native.operations()
        self.kernels = native.kernels()
        self._memory = HugeMemory()
        self._values: dict[tuple[int, str], tuple[Weight, Any]] = {}

    def state(self, specs: Iterable[StateSpec]) -> dict[str, Leaf]:
        return initial_state(specs, np.float32, lambda spec, dtype: ring_class(spec, self.int8)(spec, dtype))

    def threads(self, size: int) -> int:
        """For a program with `size` bytes of weights."""
        return self._threads or (1 if size < SMALL_BYTES else os.cpu_count() or 1)

    def session_options(self, threads: int) -> ort.SessionOptions:
        """Options for a program that runs on so many threads."""
        options = ort.SessionOptions()
        # Our own operations share their parts among threads of their own; two pools would be in each other's way.
        options.intra_op_num_threads = 1 if "Product" in self.native and native.TEAM else threads
        options.inter_op_num_threads = 1
        if self.native:
            options.register_custom_ops_library(str(native.LIBRARY))
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
            self._values[key] = weight, ort.OrtValue.ortvalue_from_numpy(arrange(weight, layout, self._memory.empty))
        return self._values[key][1]

    def compile(
        self,
        step: StepFunction,
        weights: Mapping[str, Weight],
        state: Iterable[StateSpec],
        inputs: Mapping[str, InputSpec],
    ) -> Program:
        return _OnnxProgram(step, weights, list(state), inputs, self)


_BITS = {"int16": 16, "int8": 8}  # of dense matrices, by what --weights says
_NO_VECTORS = "this processor has neither AVX2 nor AVX-512 VNNI, or CLEARLINE_KERNELS forbids them"


def devices() -> list[Device]:
    own = {
        "onnxruntime": f"none of Clearline's operations: {native.missing()}",
        "plain": f"products by ONNX Runtime: {_NO_VECTORS}",
    }
    about = own.get(native.kernels(), f"Clearline's operations for {native.kernels()}")
    return [Device("cpu", f"ONNX Runtime {ort.__version__}, {about}")]


def make(wanted: Wanted) -> Backend:
    only("onnx", wanted, ("cpu",), ("float32",), ("int8",), tuple(_BITS))
    wishes = (f"--cache {wanted.cache}", "Attend", wanted.cache), (f"--weights {wanted.weights}", "Product", wanted.weights)
    for option, needed, asked in wishes:
        if asked is not None and needed not in native.operations():
            reason = native.missing() or _NO_VECTORS
            raise BackendError(f"{option} needs Clearline's own operations for ONNX Runtime: {reason}")
    return Onnx(wanted.threads, int8=wanted.cache == "int8", bits=_BITS.get(wanted.weights or "", 32))
