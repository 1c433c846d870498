"""The operations as ONNX nodes: the model definition runs once on edges, and each operation emits what computes it."""

from typing import Any

import numpy as np

from clearline.backends.onnx_attention import AttentionOps
from clearline.backends.onnx_convolution import ConvolutionOps
from clearline.backends.onnx_graph import Edge
from clearline.ops import Weight


class TraceOps(AttentionOps, ConvolutionOps):
    """See `clearline.ops.Ops` for what each operation means. Here are those that compute element by element or multiply."""

    def embed(self, ids: Edge, table: Weight) -> Edge:
        safe = self.emit("Max", [ids, self.constant(np.array(0, np.int64))], ids.shape, True)
        rows = self.emit("Gather", [self.weight(table), safe], (*ids.shape, table.shape[1]), axis=0)
        return self.where_equal(ids, -1, self.constant(np.array(0, np.float32)), rows)

    def linear(self, x: Edge, weight: Weight, bias: Weight | None = None) -> Edge:
        shape = (*x.shape[:-1], weight.shape[0])
        if weight.bits:
            inputs = [x, self.weight(weight, "codes"), self.weight(weight, "scales")]
            offset = weight.bias is not None
            if offset and weight.zero_points() is not None:
                inputs.append(self.weight(weight, "zeros"))
                offset = False
            sizes: dict[str, Any] = {"K": weight.shape[1], "N": weight.shape[0], "bits": weight.bits, "block_size": weight.group}
            y = self.emit("MatMulNBits", inputs, shape, domain="com.microsoft", accuracy_level=4, **sizes)
            if offset:
                y = y + self._offsets(x, weight)
        else:
            y = self.emit("MatMul", [x, self.weight(weight, "transposed")], shape)
        return y if bias is None else self.emit("Add", [y, self.weight(bias)], shape)

    def _offsets(self, x: Edge, weight: Weight) -> Edge:
        """What groups with any offset add to symmetric ones: the sum of their inputs times a constant, which MatMulNBits lacks."""
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

    def bias(self, x: Edge, bias: Weight) -> Edge:
        return self.emit("Add", [x, self.weight(bias)], x.shape)

    def nearest_code(self, x: Edge, codebook: Weight) -> Edge:
        similarity = self.emit("MatMul", [x, self.weight(codebook, "transposed")], (*x.shape[:-1], codebook.shape[0]))
        distance = self.emit("Sub", [self.weight(codebook, "half norm"), similarity], similarity.shape)
        return self.emit("ArgMin", [distance], x.shape[:-1], ids=True, axis=-1, keepdims=0)
