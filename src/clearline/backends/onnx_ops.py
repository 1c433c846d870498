"""The operations as ONNX nodes: the model definition runs once on edges, and each operation emits what computes it."""

import math

import numpy as np

from clearline.backends.onnx_attention import AttentionOps
from clearline.backends.onnx_convolution import ConvolutionOps
from clearline.backends.onnx_graph import DOMAIN, Edge
from clearline.backends.onnx_products import Norm, Silu
from clearline.ops import Weight


class TraceOps(AttentionOps, ConvolutionOps):
    """See `clearline.ops.Ops` for what each operation means. Here are those that compute element by element or multiply."""

    def linear(self, x: Edge, weight: Weight, bias: Weight | None = None) -> Edge:
        y = self.product(x, weight)
        return y if bias is None else self.with_bias(y, self.weight(bias))

    def scale(self, x: Edge, weight: Weight) -> Edge:
        return self.with_factor(x, self.weight(weight, "vector"))

    def rms_norm(self, x: Edge, gain: Weight, eps: float) -> Edge:
        y = self.emit("SimplifiedLayerNormalization", [x, self.weight(gain, "vector")], x.shape, axis=-1, epsilon=eps)
        self.origin[y.name] = Norm(x, self.weight(gain, "vector"), None, eps)
        return y

    def layer_norm(self, x: Edge, gain: Weight, bias: Weight, eps: float) -> Edge:
        parts = self.weight(gain), self.weight(bias)
        y = self.emit("LayerNormalization", [x, *parts], x.shape, axis=-1, epsilon=eps)
        self.origin[y.name] = Norm(x, *parts, eps)
        return y

    def activation(self, x: Edge, name: str, alpha: float = 1.0) -> Edge:
        match name:
            case "silu":
                y = x * self.emit("Sigmoid", [x], x.shape)
                self.origin[y.name] = Silu(x)
                return y
            case "elu":
                return self._elu(x, alpha)
            case "gelu" | "sigmoid" | "tanh" | "relu":
                return self.emit(name.capitalize(), [x], x.shape)
        raise AssertionError(name)

    def _elu(self, x: Edge, alpha: float) -> Edge:
        if alpha == 1 and "Elu" in self.native:
            return self.emit("Elu", [self.flat(x)], x.shape, domain=DOMAIN, size=math.prod(x.shape))
        # ONNX Runtime's own Elu rounds differently where threads divide its input. With e^x - 1 >= x, and equal signs,
        # the larger of x and e^min(x,0) - 1 is the ELU of alpha 1.
        zero, one = (self.constant(np.array(i, np.float32)) for i in (0, 1))
        low = self.emit("Exp", [self.emit("Min", [x, zero], x.shape)], x.shape) - one
        if alpha == 1:
            return self.emit("Max", [x, low], x.shape)
        return self.emit("Relu", [x], x.shape) + low * self.constant(np.array(alpha, np.float32))

    def bias(self, x: Edge, bias: Weight) -> Edge:
        return self.with_bias(x, self.weight(bias))

    def nearest_code(self, x: Edge, codebook: Weight) -> Edge:
        similarity = self.product(x, codebook)
        distance = self.emit("Sub", [self.weight(codebook, "half norm"), similarity], similarity.shape)
        return self.emit("ArgMin", [distance], x.shape[:-1], ids=True, axis=-1, keepdims=0)
