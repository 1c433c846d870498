"""Tracing: from a step of the model definition to an ONNX graph."""

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from clearline.backends.native import SCALED
from clearline.backends.onnx_attention import InPlaceEdges, RingEdges, RowEdges
from clearline.backends.onnx_chain import chained
from clearline.backends.onnx_graph import DOMAIN, Edge
from clearline.backends.onnx_layout import Layout, layout_shape, layout_type
from clearline.backends.onnx_ops import TraceOps
from clearline.ops import InputSpec, State, StateSpec, StepFunction, Weight, Weights, as_ops

OPSET = 22


@dataclass
class Graph:
    """What a trace yields: the model, and how its inputs and outputs map to state leaves and weights."""

    model: bytes
    nodes: list[str]  # what it computes, in order
    threads: int
    weights: dict[str, tuple[Weight, Layout]]
    carries: dict[str, str]  # state path -> output name
    rings: dict[str, tuple[str, str, str]]  # state path -> names of the new rows' keys, values and position
    in_place: dict[str, str]  # state path of a ring that the step itself writes -> name of its position, an input or an output
    returned: dict[str, tuple[str, str]]  # state path of such a ring whose arrays are outputs -> names of keys and values
    outputs: dict[str, str]


def trace(
    step: StepFunction,
    weights: Mapping[str, Weight],
    state: Iterable[StateSpec],
    inputs: Mapping[str, InputSpec],
    int8_rings: Container[str] = (),
    native: frozenset[str] = frozenset(),
    bits: int = 32,
    threads: Callable[[int], int] = lambda size: 1,
) -> Graph:
    """Run `step` once on edges and assemble the graph it describes; the rings of these paths hold int8.

    `native`: Clearline's own operations that can be had (`clearline.backends.native`). `bits`: of dense matrices.
    `threads`: how many, for so many bytes of weights.
    """
    ops = TraceOps(native=native, bits=bits)
    graph_inputs = [_value_info(name, spec.shape, spec.ids) for name, spec in inputs.items()]
    leaves: dict[str, Any] = {}
    for spec in state:
        if spec.kind == "ring":
            batch, heads, capacity, dim = spec.shape
            names = (f"{spec.path}.k", f"{spec.path}.v")
            kind = TensorProto.INT8 if spec.path in int8_rings else TensorProto.FLOAT
            graph_inputs += [_tensor_info(name, (batch, heads, capacity + spec.rows, dim), kind) for name in names]
            k, v = (Edge(ops, name, (batch, heads, -1, dim)) for name in names)
            scales = None
            if spec.path in int8_rings:
                k_scale, v_scale = (Edge(ops, f"{name}_scale", (batch, heads, dim // SCALED, -1)) for name in names)
                scales = k_scale, v_scale
                shape = (batch, heads, dim // SCALED, capacity + spec.rows)
                graph_inputs += [_value_info(scale.name, shape) for scale in scales]
            leaves[spec.path] = RingEdges(k, v, capacity, spec.rows, scales)
        else:
            graph_inputs.append(_value_info(spec.path, spec.shape, spec.kind == "position"))
            leaves[spec.path] = Edge(ops, spec.path, spec.shape, spec.kind == "position")
    view = State(leaves)
    edges = {name: Edge(ops, name, spec.shape, spec.ids) for name, spec in inputs.items()}
    results: dict[str, Any] = step(as_ops(ops), Weights(weights), view, edges)

    exported: dict[str, Edge] = {}

    def export(edge: Edge) -> str:
        name = edge.name
        if not any(name in node.output for node in ops.nodes):
            # An input, or a constant, needs another name to be an output too.
            name = f"{edge.name}.out"
            if name not in exported:
                ops.nodes.append(helper.make_node("Identity", [edge.name], [name], name=name))
        exported[name] = edge
        return name

    carries = {path: export(leaf) for path, leaf in view.new.items() if isinstance(leaf, Edge)}
    rings = {
        path: (export(leaf.k), export(leaf.v), export(leaf.position))
        for path, leaf in view.new.items()
        if isinstance(leaf, RowEdges)
    }
    given = {value.name for value in graph_inputs}
    in_place = {
        path: leaf.position.name if leaf.position.name in given else export(leaf.position)
        for path, leaf in view.new.items()
        if isinstance(leaf, InPlaceEdges)
    }
    # These arrays leave the graph as they are: an Identity would copy them.
    whole = {path: leaf.arrays for path, leaf in view.new.items() if isinstance(leaf, InPlaceEdges) and leaf.arrays is not None}
    returned = {path: (k.name, v.name) for path, (k, v) in whole.items()}
    arrays = {edge.name: _value_info(edge.name, edge.shape) for pair in whole.values() for edge in pair}
    outputs = {name: export(edge) for name, edge in results.items()}
    nodes = _needed(ops.nodes, {*exported, *arrays})
    count = threads(sum(weight.data.nbytes for weight, _ in ops.weights.values()))
    graph = helper.make_graph(
        chained(nodes, ops.shapes, {*exported, *arrays}, count),
        "step",
        graph_inputs,
        [*(_value_info(name, edge.shape, edge.ids) for name, edge in exported.items()), *arrays.values()],
        [*ops.constants.values(), *(_external(name, w, layout) for name, (w, layout) in ops.weights.items())],
    )
    domains = [helper.make_opsetid(*domain) for domain in (("", OPSET), ("com.microsoft", 1), (DOMAIN, 1))]
    model = helper.make_model(graph, opset_imports=domains, ir_version=10).SerializeToString()
    return Graph(model, [node.op_type for node in nodes], count, ops.weights, carries, rings, in_place, returned, outputs)


def _needed(nodes: Sequence[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that `wanted` outputs depend on, in order."""
    kept: list[onnx.NodeProto] = []
    wanted = set(wanted)
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    return kept[::-1]


def _external(name: str, weight: Weight, layout: Layout) -> onnx.TensorProto:
    """An initializer without data: ONNX Runtime is handed the memory when the session is made."""
    shape, dtype = layout_shape(weight, layout), np.dtype(layout_type(weight, layout))
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    tensor = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
    size = math.prod(shape) * dtype.itemsize
    for key, value in (("location", "in memory"), ("offset", "0"), ("length", str(size))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def _value_info(name: str, shape: Sequence[int | str], ids: bool = False) -> onnx.ValueInfoProto:
    return _tensor_info(name, shape, TensorProto.INT64 if ids else TensorProto.FLOAT)


def _tensor_info(name: str, shape: Sequence[int | str], kind: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["slots" if d == -1 else d for d in shape])
