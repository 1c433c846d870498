"""The same bytes for any number of threads, at sizes where ONNX Runtime does share out the work."""

import numpy as np
import pytest

from clearline.backends import get_backend
from clearline.ops import InputSpec, StateSpec, Weight
from clearline.ops.weight import quantise

THREADS = (1, 2, 3, 5)


def results(step, weights: dict[str, Weight], inputs: dict[str, np.ndarray], state=(), repeat: int = 1) -> list[bytes]:
    """The output of every thread count, after `repeat` steps."""
    found = []
    for threads in THREADS:
        backend = get_backend("onnx", threads)
        specs = {name: InputSpec(x.shape, x.dtype.kind == "i") for name, x in inputs.items()}
        compiled, leaves = backend.compile(step, weights, list(state), specs), backend.state(state)
        for number in range(repeat):
            given = inputs | ({"p": np.array([number * inputs["q"].shape[1]])} if "p" in inputs else {})
            y = compiled.run(leaves, given)["y"]
        found.append(np.asarray(y).tobytes())
    return found


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("bits", [0, 8, 4])
@pytest.mark.parametrize("rows", [1, 2, 8])
def test_linear(bits, rows):
    weight = Weight("w", draw(3072, 1024))
    weights = {"w": quantise(weight, bits) if bits else weight}
    found = results(lambda ops, w, s, x: {"y": ops.linear(x["x"], w["w"])}, weights, {"x": draw(1, rows, 1024)})
    assert len(set(found)) == 1


@pytest.mark.parametrize(("channels", "out", "kernel", "stride"), [(64, 128, 8, 4), (512, 256, 7, 1), (1, 64, 7, 1)])
def test_convolutions(channels, out, kernel, stride):
    x, w = {"x": draw(1, 480, channels)}, {"w": Weight("w", draw(out, channels, kernel))}
    assert len(set(results(lambda ops, k, s, i: {"y": ops.conv1d(i["x"], k["w"], stride)}, w, x))) == 1
    w = {"w": Weight("w", draw(channels, out, 2 * stride))}
    assert len(set(results(lambda ops, k, s, i: {"y": ops.conv_transpose1d(i["x"], k["w"], stride)}, w, x))) == 1


@pytest.mark.parametrize(("context", "rows"), [(300, 1), (120, 2)])
def test_attention(context, rows):
    """Past the wrap of the ring."""
    heads, dim = 16, 64
    state = [StateSpec("ring", "ring", (1, heads, context - rows, dim), rows)]

    def step(ops, w, s, i):
        y, new = ops.ring_attend(i["q"], i["k"], i["v"], s.take("ring"), i["p"], context, rows)
        s.put("ring", new)
        return {"y": y}

    inputs = {name: draw(1, rows, heads, dim) for name in "qkv"} | {"p": np.zeros(1, np.int64)}
    assert len(set(results(step, {}, inputs, state, repeat=context // rows + 20))) == 1


def test_norms_and_codes():
    x = {"x": draw(1, 50, 512)}
    weights = {"g": Weight("g", draw(512)), "c": Weight("c", draw(2048, 512))}
    found = results(lambda ops, w, s, i: {"y": ops.nearest_code(ops.rms_norm(i["x"], w["g"], 1e-8), w["c"])}, weights, x)
    assert len(set(found)) == 1
