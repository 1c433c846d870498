"""A graph as it is built: edges, nodes, constants, weights, and the operations that only move elements."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from clearline.backends.onnx_layout import Layout, layout_shape
from clearline.ops import Weight

# Of Clearline's own operations.
DOMAIN = "clearline"


class Edge:
    """A graph edge: a name, a static shape, and whether it carries int64 ids or float32."""

    def __init__(self, ops: "GraphOps", name: str, shape: tuple[int, ...], ids: bool = False) -> None:
        self.ops, self.name, self.shape, self.ids = ops, name, shape, ids

    def __add__(self, other: "Edge | int") -> "Edge":
        return self._binary("Add", other)

    def __sub__(self, other: "Edge | int") -> "Edge":
        return self._binary("Sub", other)

    def __mul__(self, other: "Edge | int") -> "Edge":
        return self._binary("Mul", other)

    def _binary(self, op: str, other: "Edge | int") -> "Edge":
        if isinstance(other, int):
            other = self.ops.constant(np.array(other, np.int64 if self.ids else np.float32))
        return self.ops.combine(op, self, other)


@dataclass(frozen=True)
class Slice:
    """An edge that is a part of `source` along one axis, counted from the first."""

    source: Edge
    axis: int
    start: int
    stop: int


@dataclass
class GraphOps:
    """What every operation is made with; those on shapes themselves, see `clearline.ops.Ops`."""

    native: frozenset[str] = frozenset()  # Clearline's own operations that can be had
    bits: int = 32  # of a value of a dense matrix: 32, 16 or 8
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    weights: dict[str, tuple[Weight, Layout]] = field(default_factory=dict)
    _memo: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    _reshaped: dict[str, Edge] = field(default_factory=dict)  # a reshape of a reshape reads the original

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of edges that nodes make
    origin: dict[str, object] = field(default_factory=dict)  # how an edge was made, for what follows to be fused with it

    # -- graph building -------------------------------------------------------------------------

    def combine(self, op: str, a: Edge, b: Edge) -> Edge:
        """An operation on two edges, element by element."""
        return self.emit(op, [a, b], np.broadcast_shapes(a.shape, b.shape), ids=a.ids)

    def emit(
        self, op: str, inputs: Sequence[Edge | None], shape: Sequence[int], ids: bool = False, domain: str = "", **attributes: Any
    ) -> Edge:
        """One node with one output."""
        name = f"{op.lower()}_{len(self.nodes)}"
        names = ["" if edge is None else edge.name for edge in inputs]
        self.nodes.append(helper.make_node(op, names, [name], name=name, domain=domain, **attributes))
        self.shapes[name] = tuple(shape)
        return Edge(self, name, tuple(shape), ids)

    def emit_many(self, op: str, inputs: Sequence[Edge | None], shapes: Sequence[Sequence[int]], **attributes: Any) -> list[Edge]:
        """One node of ONNX Runtime's own domain with several float outputs."""
        names = [f"{op.lower()}_{len(self.nodes)}_{i}" for i in range(len(shapes))]
        edges = ["" if edge is None else edge.name for edge in inputs]
        self.nodes.append(helper.make_node(op, edges, names, name=names[0], domain="com.microsoft", **attributes))
        return [Edge(self, name, tuple(shape)) for name, shape in zip(names, shapes, strict=True)]

    def constant(self, value: np.ndarray) -> Edge:
        key = f"const_{value.dtype}_{'x'.join(map(str, value.shape))}_{value.tobytes().hex()}"
        if len(key) > 80:
            key = f"const_{len(self.constants)}"
        if key not in self.constants:
            self.constants[key] = onnx.numpy_helper.from_array(value, key)
        return Edge(self, key, value.shape, value.dtype == np.int64)

    def weight(self, weight: Weight, layout: Layout = "as stored") -> Edge:
        """An initializer whose data the runner supplies, so that the graph itself stays small."""
        name = weight.name if layout == "as stored" else f"{weight.name} ({layout})"
        self.weights[name] = (weight, layout)
        return Edge(self, name, layout_shape(weight, layout))

    # -- shape ----------------------------------------------------------------------------------

    def reshape(self, x: Edge, shape: Sequence[int]) -> Edge:
        source = self._reshaped.get(x.name, x)
        if source.shape == tuple(shape):
            return source
        y = self.emit("Reshape", [source, self.constant(np.array(shape, np.int64))], shape, x.ids)
        self._reshaped[y.name] = source
        return y

    def flat(self, x: Edge) -> Edge:
        """An edge of the same elements in order, which is all that Clearline's own operations need: they know their shapes."""
        return self._reshaped.get(x.name, x)

    def flat_part(self, x: Edge) -> tuple[Edge, int]:
        """The same, and where in it the elements begin: a slice of one row is a part of its source."""
        source = self.flat(x)
        made = self.origin.get(source.name)
        if isinstance(made, Slice) and math.prod(made.source.shape[: made.axis]) == 1:
            return made.source, made.start * math.prod(made.source.shape[made.axis + 1 :])
        return source, 0

    def transpose(self, x: Edge, axes: Sequence[int]) -> Edge:
        return self.emit("Transpose", [x], [x.shape[a] for a in axes], x.ids, perm=list(axes))

    def concat(self, xs: Sequence[Edge], axis: int) -> Edge:
        if len(xs) == 1:
            return xs[0]
        shape = list(xs[0].shape)
        shape[axis] = sum(x.shape[axis] for x in xs)
        return self.emit("Concat", xs, shape, xs[0].ids, axis=axis)

    def slice(self, x: Edge, axis: int, start: int, stop: int) -> Edge:
        shape = list(x.shape)
        shape[axis] = stop - start
        bounds = [self.constant(np.array([i], np.int64)) for i in (start, stop, axis)]
        y = self.emit("Slice", [x, *bounds], shape, x.ids)
        self.origin[y.name] = Slice(x, axis % len(x.shape), start, stop)
        return y

    def split(self, x: Edge, sizes: Sequence[int], axis: int) -> list[Edge]:
        bounds = np.cumsum([0, *sizes]).tolist()
        return [self.slice(x, axis, start, stop) for start, stop in itertools.pairwise(bounds)]

    def where_equal(self, ids: Edge, value: int, a: Edge, b: Edge) -> Edge:
        condition = self.emit("Equal", [ids, self.constant(np.array(value, np.int64))], ids.shape)
        condition = self.reshape(condition, (*ids.shape, *([1] * (len(b.shape) - len(ids.shape)))))
        return self.emit("Where", [condition, a, b], np.broadcast_shapes(a.shape, b.shape), b.ids)
