"""Products with quantised weights as one node each, together with the norm or the gate before it and the sum after it.

Where Clearline's own operations run (`clearline.backends.native`) they take the weights in panels of 16 rows and round
activations to 16 bits; elsewhere ONNX Runtime's `MatMulNBits` rounds them to 8.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from clearline.backends.onnx_graph import Edge, GraphOps, Slice
from clearline.ops import Weight

# A group's sum of 8-bit codes times 16-bit values must fit into 32 bits.
_LARGEST_GROUP = 256


@dataclass(frozen=True)
class Norm:
    """An edge made by RMS normalisation of `source`."""

    source: Edge
    gain: Weight
    eps: float


@dataclass(frozen=True)
class Gate:
    """An edge that is silu(first half of `source`) * second half."""

    source: Edge


@dataclass(frozen=True)
class Silu:
    """An edge that is silu(source)."""

    source: Edge


@dataclass(frozen=True)
class Product:
    """An edge that is a product, which may still take a sum in."""

    inputs: list[Edge | None]
    attributes: dict[str, Any]


def panelled(weight: Weight) -> bool:
    """Whether a quantised matrix can be laid out for the native product."""
    return weight.group % 16 == 0 and weight.group <= _LARGEST_GROUP and weight.shape[1] % weight.group == 0


class ProductOps(GraphOps):
    """`linear` for quantised weights; see `clearline.ops.Ops`."""

    def quantised(self, x: Edge, weight: Weight) -> Edge:
        """y = x W^T."""
        return self._product(x, weight) if "Product" in self.native and panelled(weight) else self._matmul_nbits(x, weight)

    def _product(self, x: Edge, weight: Weight) -> Edge:
        zeros = biases = gain = None
        if weight.bias is not None:
            if weight.zero_points() is not None:
                zeros = self.weight(weight, "panel zeros")
            else:
                biases = self.weight(weight, "panel biases")
        made, eps = self.origin.get(x.name), 0.0
        if isinstance(made, Norm):
            x, gain, eps = made.source, self.weight(made.gain, "vector"), made.eps
        elif isinstance(made, Gate):
            x = made.source
        shape = (*x.shape[:-1], weight.shape[0])
        inputs = [x, self.weight(weight, "panel codes"), self.weight(weight, "panel scales"), zeros, biases, gain]
        attributes = {
            "outer": list(x.shape[:-1]), "rows": math.prod(x.shape[:-1]), "K": weight.shape[1], "N": weight.shape[0],
            "bits": weight.bits, "group": weight.group, "narrow": int(weight.narrow), "gated": int(isinstance(made, Gate)),
            "eps": float(eps),
        }  # fmt: skip
        return self._emit_product(Product(inputs, attributes), shape)

    def _emit_product(self, product: Product, shape: tuple[int, ...]) -> Edge:
        y = self.emit("Product", product.inputs, shape, domain="clearline", **product.attributes)
        self.origin[y.name] = product
        return y

    def combine(self, op: str, a: Edge, b: Edge) -> Edge:
        if op == "Add":
            for product, residual in ((b, a), (a, b)):
                made = self.origin.get(product.name)
                if isinstance(made, Product) and len(made.inputs) == 6 and product.shape == residual.shape:
                    return self._emit_product(Product([*made.inputs, residual], made.attributes), product.shape)
        y = super().combine(op, a, b)
        if op == "Mul":
            source = self._gated(self.origin.get(a.name), self.origin.get(b.name))
            if source is not None:
                self.origin[y.name] = Gate(source)
        return y

    def _gated(self, a: object, b: object) -> Edge | None:
        """The edge whose halves are multiplied, the first after a silu."""
        if not (isinstance(a, Silu) and isinstance(b, Slice)):
            return None
        gate = self.origin.get(a.source.name)
        last, whole = len(b.source.shape) - 1, b.source.shape[-1]
        halves = gate == Slice(b.source, last, 0, whole // 2) and b == Slice(b.source, last, whole // 2, whole)
        return b.source if halves else None

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
