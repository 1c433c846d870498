"""Running traced graphs with ONNX Runtime on the CPU: the default backend, float32."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

from clearline.backends.onnx_layout import Layout, arrange
from clearline.backends.onnx_trace import trace
from clearline.ops import InputSpec, Leaf, Program, Ring, StateSpec, StepFunction, Weight


class _OnnxProgram:
    def __init__(
        self,
        step: StepFunction,
        weights: Mapping[str, Weight],
        state: Iterable[StateSpec],
        inputs: Mapping[str, InputSpec],
        backend: "Onnx",
    ) -> None:
        graph = trace(step, weights, state, inputs)
        self._graph = graph
        self._inputs = {name: np.int64 if spec.ids else np.float32 for name, spec in inputs.items()}
        self._names = list({*graph.carries.values(), *graph.outputs.values(), *(n for r in graph.rings.values() for n in r)})
        options = backend.session_options()
        values = [backend.value(name, weight, layout) for name, (weight, layout) in graph.weights.items()]
        options.add_external_initializers(list(graph.weights), values)
        # Constant folding may keep references into the supplied memory: it must live as long as the session.
        self._keep_alive = values
        self._session = ort.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])

    def run(self, state: dict[str, Leaf], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        graph = self._graph
        feeds: dict[str, np.ndarray] = {name: np.ascontiguousarray(inputs[name], dtype) for name, dtype in self._inputs.items()}
        for path in graph.carries:
            leaf = state[path]
            assert not isinstance(leaf, Ring)
            feeds[path] = leaf
        for path in graph.rings:
            ring = state[path]
            assert isinstance(ring, Ring)
            feeds[f"{path}.k"], feeds[f"{path}.v"] = ring.k, ring.v
        results = dict(zip(self._names, self._session.run(self._names, feeds), strict=True))
        for path, name in graph.carries.items():
            state[path] = results[name]
        for path, (k, v, position) in graph.rings.items():
            ring = state[path]
            assert isinstance(ring, Ring)
            ring.commit(results[k], results[v], results[position])
        return {name: results[edge] for name, edge in graph.outputs.items()}


class Onnx:
    """The backend object. Weights laid out for ONNX Runtime are shared between the programs of one model."""

    name = "onnx"
    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._values: dict[tuple[int, str], Any] = {}

    def session_options(self) -> ort.SessionOptions:
        options = ort.SessionOptions()
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def value(self, name: str, weight: Weight, layout: Layout) -> Any:
        """The OrtValue of one weight in one layout."""
        key = (id(weight), name)
        if key not in self._values:
            self._values[key] = ort.OrtValue.ortvalue_from_numpy(arrange(weight, layout))
        return self._values[key]

    def compile(
        self,
        step: StepFunction,
        weights: Mapping[str, Weight],
        state: Iterable[StateSpec],
        inputs: Mapping[str, InputSpec],
    ) -> Program:
        return _OnnxProgram(step, weights, list(state), inputs, self)
