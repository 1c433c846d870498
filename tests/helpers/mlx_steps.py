"""Steps for MLX by itself: an operation, an attention over a ring, a matrix as MLX packs it."""

import mlx.core as mx
import numpy as np

from clearline.ops import InputSpec, StateSpec, Weight


def run_once(backend, operation, weights, **inputs):
    specs = {name: InputSpec(x.shape, x.dtype.kind == "i") for name, x in inputs.items()}
    program = backend.compile(lambda ops, w, s, i: {"y": operation(ops, w, i)}, weights, [], specs)
    return program.run({}, inputs)["y"]


def mlx_weight(draw, bits: int, group: int, out: int = 24, width: int = 128) -> tuple[Weight, list]:
    """A matrix as `mx.quantize` packs it, as the checkpoint reader hands it on, and MLX's own three arrays."""
    parts = mx.quantize(mx.array(draw(out, width).astype(np.float32)), group_size=group, bits=bits)
    codes, scales, biases = (np.array(part) for part in parts)
    return Weight("w", codes.view(np.uint8), scales, bits, group, biases), list(parts)


def attention(backend, batch, heads, dim, context, rows=1):
    """A program that rotates and attends, as a layer does, and what makes its state."""
    spec = StateSpec("ring", "ring", (batch, heads, context - rows, dim), rows)

    def step(ops, w, s, i):
        q, k = (ops.rope(i[name], i["p"], 10_000.0, "interleaved") for name in "qk")
        y, new = ops.ring_attend(q, k, i["v"], s.take("ring"), i["p"], context, rows)
        s.put("ring", new)
        return {"y": y}

    shape = (batch, rows, heads, dim)
    inputs = {"q": InputSpec(shape), "k": InputSpec(shape), "v": InputSpec(shape), "p": InputSpec((batch,), ids=True)}
    return backend.compile(step, {}, [spec], inputs), lambda: backend.state([spec])
