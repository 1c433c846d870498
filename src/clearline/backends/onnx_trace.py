"""Tracing: from a step of the model definition to an ONNX graph."""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, helper

from clearline.backends.onnx_attention import InPlaceEdges, RingEdges, RowEdges
from clearline.backends.onnx_graph import Edge
from clearline.backends.onnx_layout import Layout, layout_shape
from clearline.backends.onnx_ops import TraceOps
from clearline.ops import InputSpec, State, StateSpec, StepFunction, Weight, Weights, as_ops

OPSET = 22


@dataclass
class Graph:
    """What a trace yields: the model, and how its inputs and outputs map to state leaves and weights."""

    model: bytes
    weights: dict[str, tuple[Weight, Layout]]
    carries: dict[str, str]  # state path -> output name
    rings: dict[str, tuple[str, str, str]]  # state path -> names of the new rows' keys, values and position
    in_place: dict[str, tuple[str, str, str]]  # state path -> names of the whole arrays, keys and values, and position
    written: dict[str, tuple[str, str]]  # state path of an int8 ring -> names of its new rows before rounding
    outputs: dict[str, str]


def trace(
    step: StepFunction,
    weights: Mapping[str, Weight],
    state: Iterable[StateSpec],
    inputs: Mapping[str, InputSpec],
    int8_rings: Container[str] = (),
) -> Graph:
    """Run `step` once on edges and assemble the graph it describes; the rings of these paths hold int8."""
    ops = TraceOps()
    graph_inputs = [_value_info(name, spec.shape, spec.ids) for name, spec in inputs.items()]
    leaves: dict[str, Any] = {}
    for spec in state:
        if spec.kind == "ring":
            batch, heads, capacity, dim = spec.shape
            names = (f"{spec.path}.k", f"{spec.path}.v")
            kind = TensorProto.INT8 if spec.path in int8_rings else TensorProto.FLOAT
            graph_inputs += [_tensor_info(name, (batch, heads, "slots", dim), kind) for name in names]
            k, v = (Edge(ops, name, (batch, heads, -1, dim)) for name in names)
            scales = None
            if spec.path in int8_rings:
                scales = Edge(ops, f"{names[0]}.scale", (heads * dim,)), Edge(ops, f"{names[1]}.scale", (heads * dim,))
                graph_inputs += [_value_info(scale.name, scale.shape) for scale in scales]
            leaves[spec.path] = RingEdges(k, v, capacity, spec.rows, scales)
        else:
            graph_inputs.append(_value_info(spec.path, spec.shape, spec.kind == "position"))
            leaves[spec.path] = Edge(ops, spec.path, spec.shape, spec.kind == "position")
    view = State(leaves)
    edges = {name: Edge(ops, name, spec.shape, spec.ids) for name, spec in inputs.items()}
    results: dict[str, Any] = step(as_ops(ops), Weights(weights), view, edges)

    exported: dict[str, Edge] = {}

    def export(edge: Edge) -> str:
        # An input may be an output too (a carry passed through), so every output gets a name of its own.
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
    # In-place arrays leave the graph as they are: an Identity would copy them.
    in_place = {
        path: (leaf.k.name, leaf.v.name, export(leaf.position)) for path, leaf in view.new.items() if isinstance(leaf, InPlaceEdges)
    }
    written = {
        path: (export(leaf.written[0]), export(leaf.written[1]))
        for path, leaf in view.new.items()
        if isinstance(leaf, InPlaceEdges) and leaf.written is not None
    }
    arrays = {
        edge.name: _tensor_info(edge.name, edge.shape, TensorProto.INT8 if path in int8_rings else TensorProto.FLOAT)
        for path, leaf in view.new.items()
        if isinstance(leaf, InPlaceEdges)
        for edge in (leaf.k, leaf.v)
    }
    outputs = {name: export(edge) for name, edge in results.items()}
    graph = helper.make_graph(
        _needed(ops.nodes, {*exported, *arrays}),
        "step",
        graph_inputs,
        [*(_value_info(name, edge.shape, edge.ids) for name, edge in exported.items()), *arrays.values()],
        [*ops.constants.values(), *(_external(name, w, layout) for name, (w, layout) in ops.weights.items())],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)], ir_version=10
    )
    return Graph(model.SerializeToString(), ops.weights, carries, rings, in_place, written, outputs)


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
    shape = layout_shape(weight, layout)
    packed = layout in ("codes", "zeros")
    kind = TensorProto.UINT8 if packed else TensorProto.FLOAT
    tensor = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
    size = math.prod(shape) * (1 if packed else 4)
    for key, value in (("location", "in memory"), ("offset", "0"), ("length", str(size))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def _value_info(name: str, shape: Sequence[int | str], ids: bool = False) -> onnx.ValueInfoProto:
    return _tensor_info(name, shape, TensorProto.INT64 if ids else TensorProto.FLOAT)


def _tensor_info(name: str, shape: Sequence[int | str], kind: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["slots" if d == -1 else d for d in shape])
