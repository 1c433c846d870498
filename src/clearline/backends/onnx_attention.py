"""Positions and attention as ONNX nodes: over a ring that is written in place, or with masks where that is not to be had."""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from onnx import TensorProto

from clearline.backends.native import MOST_DIM, SCALED
from clearline.backends.onnx_graph import DOMAIN, Edge, GraphOps, Slice
from clearline.errors import BackendError


class RingEdges(NamedTuple):
    """A ring inside the graph: its whole arrays as inputs, spare rows included; their length is known when the step runs.

    `scales`: of an int8 ring, what one step of its keys and of its values is worth, [B, heads, slots, D / 32].
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
    """The new rows are in the ring's spare ones when the step is done, for the runner to settle at `position`.

    `arrays`: the ring's own, where the operation that writes them has them as outputs.
    """

    position: Edge
    arrays: tuple[Edge, Edge] | None = None


@dataclass(frozen=True)
class Turn:
    """Angles [B, T, 1, D/2] that turn heads [B, T, H, D]."""

    cos: Edge
    sin: Edge
    interleaved: bool


@dataclass(frozen=True)
class Turned:
    """An edge that is `source` turned."""

    source: Edge
    turn: Turn


class Heads(NamedTuple):
    """Heads side by side in rows of an edge: where the first begins, from row to row how far, and what still turns them."""

    edge: Edge
    start: int
    stride: int
    turn: Turn | None


class AttentionOps(GraphOps):
    """See `clearline.ops.Ops` for what each operation means."""

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
            self.origin[flat[0].name] = Turned(x, Turn(cos, sin, layout == "interleaved"))
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
        whole = rows == window_rows == ring.rows and context - rows == ring.capacity
        dim = q.shape[3]
        if (
            batch == 1
            and whole
            and "Attend" in self.native
            and dim <= MOST_DIM
            and dim % (16 if ring.scales is None else SCALED) == 0
        ):
            return self._attend(q, k, v, ring, position)
        if ring.scales is not None:
            raise BackendError(f"an int8 cache needs one session at a time and head dimensions in multiples of {SCALED}, not {dim}")
        if batch == 1 and whole and dim % 8 == 0:
            return self._grouped_query_attention(q, k, v, ring, position)
        return self._masked_attention(q, k, v, ring, position, context, window_rows)

    def _attend(self, q: Edge, k: Edge, v: Edge, ring: RingEdges, position: Edge) -> tuple[Edge, InPlaceEdges]:
        """Clearline's own node: writes the new rows behind the min(position, capacity) past ones, and attends to all of them."""
        _, rows, heads, dim = q.shape
        places = [self._heads_of(x) for x in (q, k, v)]
        turns = {place.turn for place in places[:2]}
        if len(turns) > 1 or places[2].turn:
            places = [Heads(self.flat(x), 0, math.prod(x.shape[2:]), None) for x in (q, k, v)]
        turn = places[0].turn
        y = self.emit(
            "Attend",
            [
                *(place.edge for place in places), ring.k, ring.v, position, *(ring.scales or (None, None)),
                *((self.flat(turn.cos), self.flat(turn.sin)) if turn else ()),
            ],
            q.shape, domain=DOMAIN,
            at=[number for place in places for number in (place.start, place.stride)], rows=rows, heads=heads,
            kv_heads=k.shape[2], dim=dim, capacity=ring.capacity, interleaved=int(turn is not None and turn.interleaved),
        )  # fmt: skip
        return y, InPlaceEdges(position)

    def _heads_of(self, x: Edge) -> Heads:
        """Where heads [1, T, H, D] lie, however they were cut out and turned."""
        start, turn, rows, dim = 0, None, x.shape[:2], x.shape[3]
        while True:
            source, stride = self.flat(x), math.prod(x.shape[2:])
            made = self.origin.get(source.name)
            if (
                isinstance(made, Slice)
                and made.source.shape[:2] == rows
                and made.axis >= 2
                and math.prod(made.source.shape[2 : made.axis]) == 1
            ):
                start += made.start * math.prod(made.source.shape[made.axis + 1 :])
                x = made.source
            elif isinstance(made, Turned) and turn is None and made.source.shape[3] == dim:
                turn, x = made.turn, made.source
            else:
                return Heads(source, start, stride, turn)

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
        shapes = [(1, rows, heads * dim), ring.k.shape, ring.v.shape]
        y, new_k, new_v = self.emit_many("GroupQueryAttention", inputs, shapes, **attributes)
        return self.reshape(y, q.shape), InPlaceEdges(position, (new_k, new_v))

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
