"""Tracing: the model definition runs once, each operation emits ONNX nodes, and a graph comes out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from clearline.ops import InputSpec, State, StateSpec, StepFunction, Weight, Weights

OPSET = 22
# How a weight is laid out for the node that reads it.
Layout = Literal["as stored", "transposed", "vector", "half norm", "codes", "scales", "taps", "spread", "channelwise"]


class Edge:
    """A graph edge: a name, a static shape, and whether it carries int64 ids or float32."""

    def __init__(self, ops: "TraceOps", name: str, shape: tuple[int, ...], ids: bool = False) -> None:
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
        shape = np.broadcast_shapes(self.shape, other.shape)
        return self.ops.emit(op, [self, other], shape, ids=self.ids)


class RingEdges(NamedTuple):
    """A ring inside the graph: the physical slots as inputs; their number is only known when the step runs."""

    k: Edge
    v: Edge


class RowEdges(NamedTuple):
    """The new rows of a ring and the position of the first, for the runner to commit."""

    k: Edge
    v: Edge
    position: Edge


@dataclass
class Graph:
    """What a trace yields: the model, and how its inputs and outputs map to state leaves and weights."""

    model: bytes
    weights: dict[str, tuple[Weight, Layout]]
    carries: dict[str, str]  # state path -> output name
    rings: dict[str, tuple[str, str, str]]  # state path -> names of new keys, new values, position
    outputs: dict[str, str]


@dataclass
class TraceOps:
    """See `clearline.ops.Ops` for what each operation means."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    weights: dict[str, tuple[Weight, Layout]] = field(default_factory=dict)
    _memo: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    # -- graph building -------------------------------------------------------------------------

    def emit(
        self, op: str, inputs: Sequence[Edge | None], shape: Sequence[int], ids: bool = False, domain: str = "", **attributes: Any
    ) -> Edge:
        """One node with one output."""
        name = f"{op.lower()}_{len(self.nodes)}"
        names = ["" if edge is None else edge.name for edge in inputs]
        self.nodes.append(helper.make_node(op, names, [name], domain=domain, **attributes))
        return Edge(self, name, tuple(shape), ids)

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
        return Edge(self, name, _layout_shape(weight, layout))

    # -- shape ----------------------------------------------------------------------------------

    def reshape(self, x: Edge, shape: Sequence[int]) -> Edge:
        return self.emit("Reshape", [x, self.constant(np.array(shape, np.int64))], shape, x.ids)

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
        return self.emit("Slice", [x, *bounds], shape, x.ids)

    def split(self, x: Edge, sizes: Sequence[int], axis: int) -> list[Edge]:
        bounds = np.cumsum([0, *sizes]).tolist()
        return [self.slice(x, axis, start, stop) for start, stop in zip(bounds, bounds[1:], strict=False)]

    def where_equal(self, ids: Edge, value: int, a: Edge, b: Edge) -> Edge:
        condition = self.emit("Equal", [ids, self.constant(np.array(value, np.int64))], ids.shape)
        condition = self.reshape(condition, (*ids.shape, *([1] * (len(b.shape) - len(ids.shape)))))
        return self.emit("Where", [condition, a, b], np.broadcast_shapes(a.shape, b.shape), b.ids)

    # -- arithmetic -----------------------------------------------------------------------------

    def embed(self, ids: Edge, table: Weight) -> Edge:
        safe = self.emit("Max", [ids, self.constant(np.array(0, np.int64))], ids.shape, True)
        rows = self.emit("Gather", [self.weight(table), safe], (*ids.shape, table.shape[1]), axis=0)
        return self.where_equal(ids, -1, self.constant(np.array(0, np.float32)), rows)

    def linear(self, x: Edge, weight: Weight, bias: Weight | None = None) -> Edge:
        shape = (*x.shape[:-1], weight.shape[0])
        if weight.bits:
            inputs = [x, self.weight(weight, "codes"), self.weight(weight, "scales")]
            sizes = {"K": weight.shape[1], "N": weight.shape[0], "bits": weight.bits, "block_size": weight.group}
            y = self.emit("MatMulNBits", inputs, shape, domain="com.microsoft", accuracy_level=4, **sizes)
        else:
            y = self.emit("MatMul", [x, self.weight(weight, "transposed")], shape)
        return y if bias is None else self.emit("Add", [y, self.weight(bias)], shape)

    def scale(self, x: Edge, weight: Weight) -> Edge:
        return self.emit("Mul", [x, self.weight(weight, "vector")], x.shape)

    def rms_norm(self, x: Edge, gain: Weight, eps: float) -> Edge:
        return self.emit("SimplifiedLayerNormalization", [x, self.weight(gain, "vector")], x.shape, axis=-1, epsilon=eps)

    def layer_norm(self, x: Edge, gain: Weight, bias: Weight, eps: float) -> Edge:
        return self.emit("LayerNormalization", [x, self.weight(gain), self.weight(bias)], x.shape, axis=-1, epsilon=eps)

    def activation(self, x: Edge, name: str, alpha: float = 1.0) -> Edge:
        match name:
            case "silu":
                return x * self.emit("Sigmoid", [x], x.shape)
            case "elu":
                return self.emit("Elu", [x], x.shape, alpha=alpha)
            case "gelu" | "sigmoid" | "tanh" | "relu":
                return self.emit(name.capitalize(), [x], x.shape)
        raise AssertionError(name)

    # -- positions and attention ----------------------------------------------------------------

    def _positions(self, position: Edge, rows: int) -> Edge:
        """Absolute positions int64 [B, rows]."""
        key = ("positions", position.name, rows)
        if key not in self._memo:
            self._memo[key] = self.reshape(position, (position.shape[0], 1)) + self.constant(np.arange(rows)[None])
        at: Edge = self._memo[key]
        return at

    def _float_positions(self, position: Edge, rows: int) -> Edge:
        return self.emit("Cast", [self._positions(position, rows)], (position.shape[0], rows), to=TensorProto.FLOAT)

    def _rotation(self, position: Edge, rows: int, dim: int, period: float) -> tuple[Edge, Edge]:
        """cos and sin [B, 1, rows, dim/2], shared by every layer of a step."""
        key = ("rotation", position.name, rows, dim, period)
        if key not in self._memo:
            frequency = np.exp(np.arange(dim // 2, dtype=np.float32) * np.float32(-math.log(period) * 2 / dim))
            at = self.reshape(self._float_positions(position, rows), (position.shape[0], 1, rows, 1))
            angle = at * self.constant(frequency)
            self._memo[key] = (self.emit("Cos", [angle], angle.shape), self.emit("Sin", [angle], angle.shape))
        rotation: tuple[Edge, Edge] = self._memo[key]
        return rotation

    def rope(self, x: Edge, position: Edge, period: float, layout: Literal["interleaved", "halves"]) -> Edge:
        batch, heads, rows, dim = x.shape
        cos, sin = self._rotation(position, rows, dim, period)
        half = (batch, heads, rows, dim // 2)
        if layout == "interleaved":
            pairs = self.reshape(x, (*half, 2))
            re, im = (self.reshape(part, half) for part in self.split(pairs, (1, 1), 4))
        else:
            re, im = self.split(x, (dim // 2, dim // 2), 3)
        turned = (re * cos - im * sin, re * sin + im * cos)
        if layout == "halves":
            return self.concat(turned, 3)
        return self.reshape(self.concat([self.reshape(part, (*half, 1)) for part in turned], 4), x.shape)

    def sin_embedding(self, position: Edge, rows: int, dim: int, period: float) -> Edge:
        exponent = np.arange(dim // 2, dtype=np.float32) / np.float32(dim // 2 - 1)
        at = self.reshape(self._float_positions(position, rows), (position.shape[0], rows, 1))
        divisor = self.constant(np.float32(period) ** exponent)
        phase = self.emit("Div", [at, divisor], (position.shape[0], rows, dim // 2))
        return self.concat([self.emit("Cos", [phase], phase.shape), self.emit("Sin", [phase], phase.shape)], 2)

    def _visible(self, ring: RingEdges, position: Edge, rows: int, context: int, frame_rows: int) -> tuple[Edge, Edge]:
        """Which slots of the ring, and which new rows, each query sees: [B, 1, rows, slots] and [B, 1, rows, rows]."""
        key = ("visible", position.name, rows, context, frame_rows)
        if key in self._memo:
            masks: tuple[Edge, Edge] = self._memo[key]
            return masks
        batch = position.shape[0]
        zero, one = (self.constant(np.array(i, np.int64)) for i in (0, 1))
        slots = self.emit("Squeeze", [self.emit("Shape", [ring.k], (1,), True, start=2, end=3)], (), True)
        slot = self.emit("Range", [zero, slots, one], (-1,), True)
        last = self.reshape(position - 1, (batch, 1, 1, 1))
        behind = self.emit("Mod", [self.emit("Sub", [last, slot], (batch, 1, 1, -1), True), slots], (batch, 1, 1, -1), True)
        old_at = self.emit("Sub", [last, behind], (batch, 1, 1, -1), True)
        query_at = self.reshape(self._positions(position, rows), (batch, 1, rows, 1))
        frame = self.constant(np.array(frame_rows, np.int64))
        begin = self.emit("Mul", [self.emit("Div", [query_at, frame], query_at.shape, True), frame], query_at.shape, True)
        oldest = begin + (frame_rows - context)  # first position the window still holds
        oldest = self.emit("Max", [oldest, zero], oldest.shape, True)
        new_at = self.reshape(self._positions(position, rows), (batch, 1, 1, rows))
        old = self.emit("GreaterOrEqual", [old_at, oldest], (batch, 1, rows, -1))
        recent = self.emit("GreaterOrEqual", [new_at, oldest], (batch, 1, rows, rows))
        causal = self.emit("LessOrEqual", [new_at, query_at], (batch, 1, rows, rows))
        self._memo[key] = (old, self.emit("And", [recent, causal], (batch, 1, rows, rows)))
        return self._visible(ring, position, rows, context, frame_rows)

    def ring_attend(
        self, q: Edge, k: Edge, v: Edge, ring: RingEdges, position: Edge, context: int, frame_rows: int
    ) -> tuple[Edge, RowEdges]:
        batch, heads, rows, dim = q.shape
        new_rows = RowEdges(k, v, position)
        old, new = self._visible(ring, position, rows, context, frame_rows)
        old_k, old_v = ring
        kv_heads = k.shape[1]
        if kv_heads != heads:
            old_k, old_v, k, v = (self._repeat_heads(x, heads // kv_heads) for x in (old_k, old_v, k, v))
        scale = {"alpha": 1 / math.sqrt(dim), "transB": 1, "domain": "com.microsoft"}
        hidden = self.constant(np.array(-np.inf, np.float32))
        slots = (batch, heads, rows, -1)
        past = self.emit("Where", [old, self.emit("FusedMatMul", [q, old_k], slots, **scale), hidden], slots)
        square = (batch, heads, rows, rows)
        now = self.emit("Where", [new, self.emit("FusedMatMul", [q, k], square, **scale), hidden], square)
        weights = self.emit("Softmax", [self.emit("Concat", [past, now], slots, axis=3)], slots, axis=3)
        cut = [self.constant(np.array([i], np.int64)) for i in (0, -rows, np.iinfo(np.int64).max, 3)]
        p_past = self.emit("Slice", [weights, cut[0], cut[1], cut[3]], slots)
        p_now = self.emit("Slice", [weights, cut[1], cut[2], cut[3]], square)
        y = self.emit("MatMul", [p_past, old_v], q.shape) + self.emit("MatMul", [p_now, v], q.shape)
        return y, new_rows

    def _repeat_heads(self, x: Edge, repeat: int) -> Edge:
        ids = self.constant(np.arange(x.shape[1]).repeat(repeat))
        return self.emit("Gather", [x, ids], (x.shape[0], x.shape[1] * repeat, *x.shape[2:]), axis=1)

    # -- convolutions and codebooks -------------------------------------------------------------

    def conv1d(self, x: Edge, weight: Weight, stride: int, dilation: int = 1) -> Edge:
        # A matrix product of gathered taps: ONNX Runtime's own Conv rounds differently with every thread count.
        out, channels, kernel = weight.shape
        batch = x.shape[0]
        rows = (x.shape[1] - dilation * (kernel - 1) - 1) // stride + 1
        if kernel == 1 and stride == 1:
            taps = x
        elif kernel == 2 * stride and dilation == 1:
            blocks = self.reshape(x, (batch, rows + 1, stride * channels))
            taps = self.concat([self.slice(blocks, 1, 0, rows), self.slice(blocks, 1, 1, rows + 1)], 2)
        else:
            parts = [self._stride_slice(x, j * dilation, rows, stride) for j in range(kernel)]
            taps = self.concat(parts, 2)
        return self.emit("MatMul", [taps, self.weight(weight, "taps")], (batch, rows, out))

    def _stride_slice(self, x: Edge, start: int, rows: int, stride: int) -> Edge:
        bounds = [self.constant(np.array([i], np.int64)) for i in (start, start + (rows - 1) * stride + 1, 1, stride)]
        return self.emit("Slice", [x, *bounds], (x.shape[0], rows, x.shape[2]), x.ids)

    def conv_transpose1d(self, x: Edge, weight: Weight, stride: int) -> Edge:
        # A matrix product, then overlap-add of blocks of `stride` rows.
        channels, per_group, kernel = weight.shape
        batch, rows, _ = x.shape
        blocks = -(-kernel // stride)
        if per_group == 1 and channels > 1:
            out = channels
            taps = self.reshape(x, (batch, rows, 1, out)) * self.weight(weight, "channelwise")
        else:
            out = per_group
            taps = self.emit("MatMul", [x, self.weight(weight, "spread")], (batch, rows, kernel * out))
        taps = self.reshape(taps, (batch, rows, kernel * out))
        if kernel % stride:
            taps = self._pad(taps, 2, 0, (blocks * stride - kernel) * out)
        parts = self.split(taps, [stride * out] * blocks, 2)
        total = self._pad(parts[0], 1, 0, blocks - 1)
        for i, part in enumerate(parts[1:], 1):
            total = total + self._pad(part, 1, i, blocks - 1 - i)
        y = self.reshape(total, (batch, (rows + blocks - 1) * stride, out))
        length = (rows - 1) * stride + kernel
        return y if y.shape[1] == length else self.slice(y, 1, 0, length)

    def _pad(self, x: Edge, axis: int, before: int, after: int) -> Edge:
        if before == after == 0:
            return x
        shape = list(x.shape)
        shape[axis] += before + after
        pads = self.constant(np.array([before, after], np.int64))
        return self.emit("Pad", [x, pads, None, self.constant(np.array([axis], np.int64))], shape, x.ids)

    def bias(self, x: Edge, bias: Weight) -> Edge:
        return self.emit("Add", [x, self.weight(bias)], x.shape)

    def nearest_code(self, x: Edge, codebook: Weight) -> Edge:
        similarity = self.emit("MatMul", [x, self.weight(codebook, "transposed")], (*x.shape[:-1], codebook.shape[0]))
        distance = self.emit("Sub", [self.weight(codebook, "half norm"), similarity], similarity.shape)
        return self.emit("ArgMin", [distance], x.shape[:-1], ids=True, axis=-1, keepdims=0)


def trace(
    step: StepFunction, weights: Mapping[str, Weight], state: Iterable[StateSpec], inputs: Mapping[str, InputSpec]
) -> Graph:
    """Run `step` once on edges and assemble the graph it describes."""
    ops = TraceOps()
    graph_inputs = [_value_info(name, spec.shape, spec.ids) for name, spec in inputs.items()]
    leaves: dict[str, Any] = {}
    for spec in state:
        if spec.kind == "ring":
            batch, heads, _, dim = spec.shape
            names = (f"{spec.path}.k", f"{spec.path}.v")
            graph_inputs += [_value_info(name, (batch, heads, "slots", dim)) for name in names]
            leaves[spec.path] = RingEdges(*(Edge(ops, name, (batch, heads, -1, dim)) for name in names))
        else:
            graph_inputs.append(_value_info(spec.path, spec.shape, spec.kind == "position"))
            leaves[spec.path] = Edge(ops, spec.path, spec.shape, spec.kind == "position")
    view = State(leaves)
    edges = {name: Edge(ops, name, spec.shape, spec.ids) for name, spec in inputs.items()}
    results: dict[str, Any] = step(ops, Weights(weights), view, edges)

    exported: dict[str, Edge] = {}

    def export(edge: Edge) -> str:
        # An input may be an output too (a carry passed through), so every output gets a name of its own.
        name = f"{edge.name}.out"
        if name not in exported:
            ops.nodes.append(helper.make_node("Identity", [edge.name], [name]))
            exported[name] = edge
        return name

    carries = {path: export(leaf) for path, leaf in view.new.items() if isinstance(leaf, Edge)}
    rings = {
        path: (export(leaf.k), export(leaf.v), export(leaf.position))
        for path, leaf in view.new.items()
        if isinstance(leaf, RowEdges)
    }
    outputs = {name: export(edge) for name, edge in results.items()}
    graph = helper.make_graph(
        ops.nodes,
        "step",
        graph_inputs,
        [_value_info(name, edge.shape, edge.ids) for name, edge in exported.items()],
        [*ops.constants.values(), *(_external(name, w, layout) for name, (w, layout) in ops.weights.items())],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)], ir_version=10
    )
    return Graph(model.SerializeToString(), ops.weights, carries, rings, outputs)


def arrange(weight: Weight, layout: Layout) -> np.ndarray:
    """The array an initializer of this layout holds, contiguous."""
    if layout == "codes":
        return _pack(weight)
    if layout == "scales":
        assert weight.scale is not None
        return np.ascontiguousarray(weight.scale, np.float32).reshape(-1)
    values = weight.dense(np.float32)
    if layout == "transposed":
        values = values.T
    elif layout == "vector":
        values = values.reshape(-1)
    elif layout == "taps":  # [out, in, k] -> [k in, out]
        values = values.transpose(2, 1, 0).reshape(-1, values.shape[0])
    elif layout == "spread":  # [in, out, k] -> [in, k out]
        values = values.transpose(0, 2, 1).reshape(values.shape[0], -1)
    elif layout == "channelwise":  # [c, 1, k] -> [k, c]
        values = values[:, 0].T
    elif layout == "half norm":
        values = 0.5 * np.sum(values.astype(np.float64) ** 2, -1).astype(np.float32)
    return np.ascontiguousarray(values, np.float32)


def _pack(weight: Weight) -> np.ndarray:
    """MatMulNBits' codes: [out, groups, bytes], two 4-bit codes a byte with the even one low."""
    codes = weight.data.reshape(weight.shape[0], -1, weight.group)
    if weight.bits == 4:
        codes = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return np.ascontiguousarray(codes, np.uint8)


def _layout_shape(weight: Weight, layout: Layout) -> tuple[int, ...]:
    out, *rest = weight.shape
    match layout:
        case "transposed":
            return (*rest, out)
        case "vector":
            return (math.prod(weight.shape),)
        case "half norm":
            return (out,)
        case "taps":
            return (rest[0] * rest[1], out)
        case "spread":
            return (out, rest[0] * rest[1])
        case "channelwise":
            return (rest[1], out)
        case "codes":
            return (out, rest[0] // weight.group, weight.group * weight.bits // 8)
        case "scales":
            return (out * rest[0] // weight.group,)
    return weight.shape


def _external(name: str, weight: Weight, layout: Layout) -> onnx.TensorProto:
    """An initializer without data: ONNX Runtime is handed the memory when the session is made."""
    shape = _layout_shape(weight, layout)
    kind = TensorProto.UINT8 if layout == "codes" else TensorProto.FLOAT
    tensor = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
    size = math.prod(shape) * (1 if layout == "codes" else 4)
    for key, value in (("location", "in memory"), ("offset", "0"), ("length", str(size))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def _value_info(name: str, shape: Sequence[int | str], ids: bool = False) -> onnx.ValueInfoProto:
    kind = TensorProto.INT64 if ids else TensorProto.FLOAT
    return helper.make_tensor_value_info(name, kind, ["slots" if d == -1 else d for d in shape])
