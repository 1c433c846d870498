"""Products, and embeddings, each with what stands around it in a layer: norm or gate before, bias, scale, residual sum after.

Where Clearline's own operations run (`clearline.backends.native`) they take matrices in panels of 16 rows, and round the
activations that meet quantised weights to 16 bits; elsewhere ONNX Runtime's `MatMul` and `MatMulNBits` do it, which rounds them
to 8.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clearline.backends.onnx_graph import DOMAIN, Edge, GraphOps, Slice
from clearline.backends.onnx_panels import GROUP, PANEL, Kind, matrix_shape
from clearline.ops import Weight

# A group's sum of 8-bit codes times 16-bit values must fit into 32 bits.
_LARGEST_GROUP = 256
_FEW_ROWS = 8


@dataclass(frozen=True)
class Norm:
    """An edge made by RMS normalisation of `source`, or with a shift by layer normalisation."""

    source: Edge
    gain: Edge
    shift: Edge | None
    eps: float


@dataclass(frozen=True)
class Silu:
    """An edge that is silu(source)."""

    source: Edge


@dataclass(frozen=True)
class Gate:
    """An edge that is silu(first half of `source`) * second half."""

    source: Edge


@dataclass(frozen=True)
class Embed:
    """An edge that is the rows of a table at `ids`; a residual can still come in."""

    ids: Edge
    table: Weight


@dataclass(frozen=True)
class Product:
    """An edge that is (prepared(x) W^T + bias) factor + residual; what is None is left out and can still come in, in this order."""

    matrix: tuple[Edge | None, ...]  # x, codes, scales, zeros, biases, gain, shift
    outer: tuple[int, ...]  # its shape but for the last dimension
    attributes: dict[str, Any]
    bias: Edge | None = None
    factor: Edge | None = None
    residual: Edge | None = None


class ProductOps(GraphOps):
    """Products and what becomes part of them; see `clearline.ops.Ops` for what each operation means."""

    def product(self, x: Edge, weight: Weight, kind: Kind = "linear") -> Edge:
        """y = x W^T, with the matrix W that `weight` is (`onnx_panels.matrix`)."""
        if weight.bits:
            fits = weight.group % PANEL == 0 and weight.group <= _LARGEST_GROUP
            return self._quantised(x, weight) if "Product" in self.native and fits else self._matmul_nbits(x, weight)
        rows, columns = matrix_shape(weight, kind)
        if self.windowed(weight, kind):
            return self.windows(x, x.shape[:-1], columns, weight, kind)
        return self.emit("MatMul", [x, self.weight(weight, "transposed" if kind == "linear" else kind)], (*x.shape[:-1], rows))

    def windowed(self, weight: Weight, kind: Kind) -> bool:
        """Whether `windows` can be had for a dense weight."""
        return "Product" in self.native and matrix_shape(weight, kind)[1] % 2 == 0

    def windows(self, x: Edge, outer: tuple[int, ...], step: int, weight: Weight, kind: Kind) -> Edge:
        """y [*outer, out] = W times the windows of x that begin every `step` values."""
        layout, shape = f"panel {kind}", matrix_shape(weight, kind)
        if self.bits < 32 and shape[1] % GROUP == 0:
            # With many rows it is the arithmetic that takes the time, and 16 bits are as good.
            bits = self.bits if math.prod(outer) <= _FEW_ROWS else 16
            codes, scales = self.weight(weight, f"{layout} int{bits}"), self.weight(weight, f"{layout} int{bits} scales")
            return self._native(x, outer, step, shape, (codes, scales, None, None), bits=bits, group=GROUP, narrow=0)
        return self._native(x, outer, step, shape, (self.weight(weight, layout), None, None, None), bits=32, group=1, narrow=0)

    def _quantised(self, x: Edge, weight: Weight) -> Edge:
        zeros = biases = None
        if weight.bias is not None:
            if weight.zero_points() is not None:
                zeros = self.weight(weight, "panel zeros")
            else:
                biases = self.weight(weight, "panel biases")
        parts = (self.weight(weight, "panel codes"), self.weight(weight, "panel scales"), zeros, biases)
        shape = weight.shape[0], weight.shape[1]
        return self._native(
            x, x.shape[:-1], shape[1], shape, parts, bits=weight.bits, group=weight.group, narrow=int(weight.narrow)
        )

    def _native(
        self, x: Edge, outer: tuple[int, ...], step: int, shape: tuple[int, int], parts: tuple[Edge | None, ...], **attributes: int
    ) -> Edge:
        made, gain, shift, eps, gated = self.origin.get(x.name), None, None, 0.0, 0
        if step == shape[1]:
            if isinstance(made, Norm):
                x, gain, shift, eps = made.source, made.gain, made.shift, made.eps
            elif isinstance(made, Gate):
                x, step, gated = made.source, 2 * step, 1
        sizes = {"rows": math.prod(outer), "step": step, "K": shape[1], "N": shape[0], "gated": gated, "eps": float(eps)}
        return self._emit_product(Product((x, *parts, gain, shift), outer, sizes | attributes))

    def _emit_product(self, product: Product) -> Edge:
        shape = (*product.outer, product.attributes["N"])
        inputs = [edge and self.flat(edge) for edge in (*product.matrix, product.bias, product.factor, product.residual)]
        y = self.emit("Product", inputs, shape, domain=DOMAIN, **product.attributes)
        self.origin[y.name] = product
        return y

    def with_bias(self, y: Edge, bias: Edge) -> Edge:
        """y + bias over the last axis."""
        made = self.origin.get(y.name)
        if isinstance(made, Product) and made.bias is made.factor is made.residual is None:
            return self._emit_product(replace(made, bias=bias))
        return self.emit("Add", [y, bias], y.shape)

    def with_factor(self, y: Edge, factor: Edge) -> Edge:
        """y * factor over the last axis."""
        made = self.origin.get(y.name)
        if isinstance(made, Product) and made.factor is made.residual is None:
            return self._emit_product(replace(made, factor=factor))
        return self.emit("Mul", [y, factor], y.shape)

    def combine(self, op: str, a: Edge, b: Edge) -> Edge:
        if op == "Add":
            for y, residual in ((b, a), (a, b)):
                made = self.origin.get(y.name)
                if isinstance(made, Product) and made.residual is None and y.shape == residual.shape:
                    return self._emit_product(replace(made, residual=residual))
                if isinstance(made, Embed) and y.shape == residual.shape:
                    return self._emit_embed(made, residual)
        y = super().combine(op, a, b)
        if op == "Mul":
            source = self._gated(self.origin.get(a.name), self.origin.get(b.name))
            if source is not None:
                self.origin[y.name] = Gate(source)
        return y

    def embed(self, ids: Edge, table: Weight) -> Edge:
        if "Embed" not in self.native:
            safe = self.emit("Max", [ids, self.constant(np.array(0, np.int64))], ids.shape, True)
            rows = self.emit("Gather", [self.weight(table), safe], (*ids.shape, table.shape[1]), axis=0)
            return self.where_equal(ids, -1, self.constant(np.array(0, np.float32)), rows)
        y = self._emit_embed(Embed(ids, table), None)
        self.origin[y.name] = Embed(ids, table)
        return y

    def _emit_embed(self, embed: Embed, residual: Edge | None) -> Edge:
        rows, dim = embed.table.shape
        ids, at = self.flat_part(embed.ids)
        shape = (*embed.ids.shape, dim)
        inputs = [ids, self.weight(embed.table), residual and self.flat(residual)]
        count = math.prod(embed.ids.shape)
        return self.emit("Embed", inputs, shape, domain=DOMAIN, count=count, dim=dim, at=at, rows=rows)

    def _gated(self, a: object, b: object) -> Edge | None:
        """The edge whose halves are multiplied, the first after a silu."""
        if not (isinstance(a, Silu) and isinstance(b, Slice)):
            return None
        gate = self.origin.get(a.source.name)
        last, whole = len(b.source.shape) - 1, b.source.shape[-1]
        halves = gate == Slice(b.source, last, 0, whole // 2) and b == Slice(b.source, last, whole // 2, whole)
        return b.source if halves and whole % (2 * PANEL) == 0 else None

    def _matmul_nbits(self, x: Edge, weight: Weight) -> Edge:
        shape = (*x.shape[:-1], weight.shape[0])
        inputs = [x, self.weight(weight, "codes"), self.weight(weight, "scales")]
        offset = weight.bias is not None
        if offset and weight.zero_points() is not None:
            inputs.append(self.weight(weight, "zeros"))
            offset = False
        sizes: dict[str, Any] = {"K": weight.shape[1], "N": weight.shape[0], "bits": weight.bits, "block_size": weight.group}
        y = self.emit("MatMulNBits", inputs, shape, domain="com.microsoft", accuracy_level=4, **sizes)
        return y + self._offsets(x, weight) if offset else y

    def _offsets(self, x: Edge, weight: Weight) -> Edge:
        """What groups with any offset add to symmetric ones: the sum of their inputs times a constant, which MatMulNBits lacks."""
        grouped = (*x.shape[:-1], weight.shape[1] // weight.group, weight.group)
        last = self.constant(np.array([-1], np.int64))
        sums = self.emit("ReduceSum", [self.reshape(x, grouped), last], grouped[:-1], keepdims=0)
        return self.emit("MatMul", [sums, self.weight(weight, "offsets")], (*x.shape[:-1], weight.shape[0]))
