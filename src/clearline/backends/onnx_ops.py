"""The operations as ONNX nodes: the model definition runs once on edges, and each operation emits what computes it."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from clearline.backends.onnx_layout import Layout, layout_shape
from clearline.errors import BackendError
from clearline.ops import Weight


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
    """A ring inside the graph: its whole arrays as inputs, spare rows included; their length is known when the step runs.

    `scales`: of an int8 ring, what one step of its keys' and its values' channels [heads * D] is worth.
    """

    k: Edge
    v: Edge
    capacity: int
    rows: int
    scales: tuple[Edge, Edge] | None = None


class RowEdges(NamedTuple):
    """The new rows of a ring, for the runner to commit at `position`."""

    k: Edge
    v: Edge
    position: Edge


class InPlaceEdges(NamedTuple):
    """The ring's own arrays with the new rows written into their spare ones, for the runner to settle.

    `written`: of an int8 ring, the new rows before rounding, keys and values [B, T, heads * D].
    """

    k: Edge
    v: Edge
    position: Edge
    written: tuple[Edge, Edge] | None = None


@dataclass
class TraceOps:
    """See `clearline.ops.Ops` for what each operation means."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    weights: dict[str, tuple[Weight, Layout]] = field(default_factory=dict)
    _memo: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    _reshaped: dict[str, Edge] = field(default_factory=dict)  # a reshape of a reshape reads the original

    # -- graph building -------------------------------------------------------------------------

    def emit(
        self, op: str, inputs: Sequence[Edge | None], shape: Sequence[int], ids: bool = False, domain: str = "", **attributes: Any
    ) -> Edge:
        """One node with one output."""
        name = f"{op.lower()}_{len(self.nodes)}"
        names = ["" if edge is None else edge.name for edge in inputs]
        self.nodes.append(helper.make_node(op, names, [name], name=name, domain=domain, **attributes))
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
        return [self.slice(x, axis, start, stop) for start, stop in itertools.pairwise(bounds)]

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
            sizes: dict[str, Any] = {"K": weight.shape[1], "N": weight.shape[0], "bits": weight.bits, "block_size": weight.group}
            y = self.emit("MatMulNBits", inputs, shape, domain="com.microsoft", accuracy_level=4, **sizes)
            if weight.bias is not None:
                y = y + self._offsets(x, weight)
        else:
            y = self.emit("MatMul", [x, self.weight(weight, "transposed")], shape)
        return y if bias is None else self.emit("Add", [y, self.weight(bias)], shape)

    def _offsets(self, x: Edge, weight: Weight) -> Edge:
        """What an asymmetric group adds to a symmetric one: the sum of its inputs times a constant, which MatMulNBits lacks."""
        grouped = (*x.shape[:-1], weight.shape[1] // weight.group, weight.group)
        last = self.constant(np.array([-1], np.int64))
        sums = self.emit("ReduceSum", [self.reshape(x, grouped), last], grouped[:-1], keepdims=0)
        return self.emit("MatMul", [sums, self.weight(weight, "offsets")], (*x.shape[:-1], weight.shape[0]))

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
                return self._elu(x, alpha)
            case "gelu" | "sigmoid" | "tanh" | "relu":
                return self.emit(name.capitalize(), [x], x.shape)
        raise AssertionError(name)

    def _elu(self, x: Edge, alpha: float) -> Edge:
        # ONNX Runtime's own Elu rounds differently where threads divide its input. With e^x - 1 >= x, and equal signs,
        # the larger of x and e^min(x,0) - 1 is the ELU of alpha 1.
        zero, one = (self.constant(np.array(i, np.float32)) for i in (0, 1))
        low = self.emit("Exp", [self.emit("Min", [x, zero], x.shape)], x.shape) - one
        if alpha == 1:
            return self.emit("Max", [x, low], x.shape)
        return self.emit("Relu", [x], x.shape) + low * self.constant(np.array(alpha, np.float32))

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
        """cos and sin [B, rows, 1, dim/2], shared by every layer of a step."""
        key = ("rotation", position.name, rows, dim, period)
        if key not in self._memo:
            frequency = np.exp(np.arange(dim // 2, dtype=np.float32) * np.float32(-math.log(period) * 2 / dim))
            at = self.reshape(self._float_positions(position, rows), (position.shape[0], rows, 1, 1))
            angle = at * self.constant(frequency)
            self._memo[key] = (self.emit("Cos", [angle], angle.shape), self.emit("Sin", [angle], angle.shape))
        rotation: tuple[Edge, Edge] = self._memo[key]
        return rotation

    def rope(self, x: Edge, position: Edge, period: float, layout: Literal["interleaved", "halves"]) -> Edge:
        batch, rows, heads, dim = x.shape
        cos, sin = self._rotation(position, rows, dim, period)
        if batch == 1:
            # ONNX Runtime's fused rotation, with a table of just this step's rows.
            table = [self.reshape(part, (rows, dim // 2)) for part in (cos, sin)]
            inputs = [self.reshape(x, (1, rows, heads * dim)), self.constant(np.arange(rows)[None]), *table]
            flat = self.emit_many("RotaryEmbedding", inputs, [(1, rows, heads * dim)], interleaved=int(layout == "interleaved"))
            return self.reshape(flat[0], x.shape)
        half = (batch, rows, heads, dim // 2)
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

    def ring_attend(
        self, q: Edge, k: Edge, v: Edge, ring: RingEdges, position: Edge, context: int, window_rows: int
    ) -> tuple[Edge, RowEdges | InPlaceEdges]:
        batch, rows = q.shape[:2]
        # What leaves the window leaves it with the step as a whole: then every row of the ring is visible to every
        # query, in any order, and the fused operation applies.
        # (It wants head dimensions in eights.)
        whole = rows == window_rows == ring.rows and context - rows == ring.capacity
        if batch == 1 and whole and q.shape[3] % 8 == 0:
            return self._grouped_query_attention(q, k, v, ring, position)
        if ring.scales is not None:
            raise BackendError(f"an int8 cache needs one session at a time and head dimensions in eights, not {q.shape[3]}")
        return self._masked_attention(q, k, v, ring, position, context, window_rows)

    def _grouped_query_attention(self, q: Edge, k: Edge, v: Edge, ring: RingEdges, position: Edge) -> tuple[Edge, InPlaceEdges]:
        """One node: writes the new rows behind the min(position, capacity) past ones, and attends to all of them."""
        _, rows, heads, dim = q.shape
        key = ("total", position.name, rows, ring.capacity)
        if key not in self._memo:
            past = self.emit("Min", [position, self.constant(np.array(ring.capacity, np.int64))], (1,), True)
            last, total = past + (rows - 1), self.emit("Squeeze", [past + rows], (), True)
            self._memo[key] = [self.emit("Cast", [edge], edge.shape, to=TensorProto.INT32) for edge in (last, total)]
        flat = [self.reshape(x, (1, rows, x.shape[2] * dim)) for x in (q, k, v)]
        inputs: list[Edge | None] = [*flat, ring.k, ring.v, *self._memo[key]]
        attributes: dict[str, Any] = {"num_heads": heads, "kv_num_heads": k.shape[2]}
        if ring.scales is not None:
            inputs += [None] * 5 + list(ring.scales)
            attributes |= {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
        shapes = [(1, rows, heads * dim), ring.k.shape, ring.v.shape]
        y, new_k, new_v = self.emit_many("GroupQueryAttention", inputs, shapes, **attributes)
        written = None if ring.scales is None else (flat[1], flat[2])
        return self.reshape(y, q.shape), InPlaceEdges(new_k, new_v, position, written)

    def _visible(self, ring: RingEdges, position: Edge, rows: int, context: int, window_rows: int) -> tuple[Edge, Edge]:
        """Which slots of the ring, and which new rows, each query sees: [B, 1, rows, slots] and [B, 1, rows, rows]."""
        key = ("visible", position.name, rows, context, window_rows, ring.capacity)
        if key not in self._memo:
            batch = position.shape[0]
            zero, one = (self.constant(np.array(i, np.int64)) for i in (0, 1))
            length = self.emit("Squeeze", [self.emit("Shape", [ring.k], (1,), True, start=2, end=3)], (), True)
            slots = length - ring.rows
            slot = self.emit("Range", [zero, length, one], (-1,), True)
            last = self.reshape(position - 1, (batch, 1, 1, 1))
            wide = (batch, 1, 1, -1)
            behind = self.emit("Mod", [self.emit("Sub", [last, slot], wide, True), slots], wide, True)
            old_at = self.emit("Sub", [last, behind], wide, True)
            query_at = self.reshape(self._positions(position, rows), (batch, 1, rows, 1))
            group = self.constant(np.array(window_rows, np.int64))
            begin = self.emit("Mul", [self.emit("Div", [query_at, group], query_at.shape, True), group], query_at.shape, True)
            # The first position the window still holds, and never one before the beginning.
            oldest = self.emit("Max", [begin + (window_rows - context), zero], begin.shape, True)
            new_at = self.reshape(self._positions(position, rows), (batch, 1, 1, rows))
            square = (batch, 1, rows, rows)
            past = self.emit("GreaterOrEqual", [old_at, oldest], (batch, 1, rows, -1))
            stored = self.emit("Less", [slot, slots], (-1,))
            recent = self.emit("GreaterOrEqual", [new_at, oldest], square)
            causal = self.emit("LessOrEqual", [new_at, query_at], square)
            self._memo[key] = (
                self.emit("And", [past, stored], (batch, 1, rows, -1)),
                self.emit("And", [recent, causal], square),
            )
        masks: tuple[Edge, Edge] = self._memo[key]
        return masks

    def _masked_attention(
        self, q: Edge, k: Edge, v: Edge, ring: RingEdges, position: Edge, context: int, window_rows: int
    ) -> tuple[Edge, RowEdges]:
        """The formula, node by node: any batch, any window."""
        batch, rows, heads, dim = q.shape
        new_rows = RowEdges(k, v, position)
        old, new = self._visible(ring, position, rows, context, window_rows)
        old_k, old_v = ring.k, ring.v
        q, k, v = (self.transpose(x, (0, 2, 1, 3)) for x in (q, k, v))
        if k.shape[1] != heads:
            old_k, old_v, k, v = (self._repeat_heads(x, heads // x.shape[1]) for x in (old_k, old_v, k, v))
        scale: dict[str, Any] = {"alpha": 1 / math.sqrt(dim), "transB": 1, "domain": "com.microsoft"}
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
        return self.transpose(y, (0, 2, 1, 3)), new_rows

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
        elif kernel == 2 * stride and dilation == 1 and x.shape[1] == (rows + 1) * stride:
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
