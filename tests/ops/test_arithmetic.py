"""Linear maps, norms, activations and lookups against their formulas, written as loops over Python floats."""

import math

import ml_dtypes
import numpy as np
import pytest
from helpers.one_op import check, once

from clearline.ops import Weight
from clearline.ops.weight import pack


def matmul(x, w, b=None):
    """y[..., o] = sum_i w[o, i] x[..., i] + b[o], each sum exact."""
    rows = x.reshape(-1, x.shape[-1])
    y = [
        [math.fsum(w[o, i] * row[i] for i in range(len(row))) + (0.0 if b is None else b[o]) for o in range(len(w))] for row in rows
    ]
    return np.array(y).reshape(*x.shape[:-1], len(w))


@pytest.mark.parametrize(("shape", "out"), [((1, 8), 8), ((2, 3, 7), 5), ((1, 1, 33), 1), ((3, 1), 4)])
@pytest.mark.parametrize("bias", [False, True])
def test_linear(backend, draw, shape, out, bias):
    x, w, b = draw(*shape), draw(out, shape[-1]), draw(out)
    y = once(backend, lambda ops, k, i: ops.linear(i["x"], k["w"], k["b"] if bias else None), {"w": w, "b": b}, x=x)
    check(backend, y, matmul(x, w, b if bias else None))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_linear_of_every_stored_dtype(backend, draw, dtype):
    """Half-precision weights are the numbers they store, multiplied by activations that stay float."""
    x, w = draw(2, 8), draw(4, 8).astype(dtype)
    y = once(backend, lambda ops, k, i: ops.linear(i["x"], k["w"]), {"w": Weight("w", w)}, x=x)
    check(backend, y, matmul(x, w.astype(np.float64)))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("group", "width"), [(32, 32), (32, 96), (64, 128)])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
def test_linear_of_quantised_weights(backend, draw, bits, group, width, affine, rows):
    """Symmetric (code - 2^(bits-1)) scale, or affine code scale + bias. ONNX Runtime rounds the activations to 8 bits."""
    rng = np.random.default_rng(bits + width)
    codes = rng.integers(0, 1 << bits, (6, width))
    scale = rng.uniform(0.01, 0.1, (6, width // group)).astype(np.float32)
    zero = 1 << (bits - 1)
    bias = (-scale * (zero - rng.uniform(-2, 2, scale.shape))).astype(np.float32) if affine else None
    weight = Weight("w", pack(codes.astype(np.uint8), bits), scale, bits, group, bias)
    x = draw(rows, width)
    w = np.empty((6, width))
    for o in range(6):
        for i in range(width):
            g = i // group
            code, step = int(codes[o, i]), float(scale[o, g])
            w[o, i] = (code - zero) * step if bias is None else code * step + float(bias[o, g])
    y = once(backend, lambda ops, k, i: ops.linear(i["x"], k["w"]), {"w": weight}, x=x)
    expected = matmul(x, w)
    if backend == "numpy64":
        check(backend, y, expected)
    else:
        worst = np.abs(x).max() / 254 * np.abs(w).sum(1).max()
        assert np.abs(y - expected).max() <= worst
        assert np.sqrt(np.mean((y - expected) ** 2)) <= 0.02 * np.sqrt(np.mean(expected**2))


@pytest.mark.parametrize("shape", [(1, 4), (2, 3, 7)])
@pytest.mark.parametrize("stored", [(-1,), (1, 1, -1)])
def test_scale_and_bias(backend, draw, shape, stored):
    x, g = draw(*shape), draw(shape[-1])
    kept = g.reshape([shape[-1] if n == -1 else n for n in stored])
    y = once(backend, lambda ops, k, i: ops.scale(i["x"], k["g"]), {"g": kept}, x=x)
    check(backend, y, np.array([v * g[i % len(g)] for i, v in enumerate(x.ravel())]).reshape(x.shape))
    y = once(backend, lambda ops, k, i: ops.bias(i["x"], k["g"]), {"g": g}, x=x)
    check(backend, y, np.array([v + g[i % len(g)] for i, v in enumerate(x.ravel())]).reshape(x.shape))


@pytest.mark.parametrize("width", [1, 5, 32])
@pytest.mark.parametrize("eps", [1e-5, 1e-8])
@pytest.mark.parametrize("size", [1.0, 1e-3, 1e3])
def test_rms_norm(backend, draw, width, eps, size):
    x, g = size * draw(2, 3, width), draw(width)
    y = once(backend, lambda ops, k, i: ops.rms_norm(i["x"], k["g"], eps), {"g": g.reshape(1, 1, -1)}, x=x)
    expected = []
    for row in x.reshape(-1, width):
        mean_square = math.fsum(v * v for v in row) / width
        expected += [v * gain / math.sqrt(mean_square + eps) for v, gain in zip(row, g, strict=True)]
    check(backend, y, np.reshape(expected, x.shape))


@pytest.mark.parametrize("width", [2, 5, 32])
@pytest.mark.parametrize("eps", [1e-5, 1e-8])
@pytest.mark.parametrize("shift", [0.0, 10.0])
def test_layer_norm(backend, draw, width, eps, shift):
    x, g, b = draw(2, 3, width) + shift, draw(width), draw(width)
    x = x.astype(np.float32).astype(np.float64)
    y = once(backend, lambda ops, k, i: ops.layer_norm(i["x"], k["g"], k["b"], eps), {"g": g, "b": b}, x=x)
    expected = []
    for row in x.reshape(-1, width):
        mean = math.fsum(row) / width
        variance = math.fsum((v - mean) ** 2 for v in row) / width
        expected += [(v - mean) / math.sqrt(variance + eps) * g[i] + b[i] for i, v in enumerate(row)]
    check(backend, y, np.reshape(expected, x.shape), tolerance=3e-5)


def test_norm_of_zeros_is_zero_and_its_bias(backend):
    g, b = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.0, -0.5])
    y = once(backend, lambda ops, k, i: ops.rms_norm(i["x"], k["g"], 1e-8), {"g": g}, x=np.zeros((1, 3)))
    check(backend, y, [[0.0, 0.0, 0.0]])
    y = once(backend, lambda ops, k, i: ops.layer_norm(i["x"], k["g"], k["b"], 1e-5), {"g": g, "b": b}, x=np.zeros((1, 3)))
    check(backend, y, [[0.5, 0.0, -0.5]])


ACTIVATIONS = {
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2)),  # x Phi(x): the exact one, not the tanh approximation
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "relu": lambda x: max(x, 0.0),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(backend, name):
    x = np.linspace(-12, 12, 97).reshape(1, -1).astype(np.float32).astype(np.float64)
    y = once(backend, lambda ops, k, i: ops.activation(i["x"], name), x=x)
    check(backend, y, [[ACTIVATIONS[name](v) for v in x[0]]], tolerance=2e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_elu_with_another_alpha(backend, alpha):
    x = np.linspace(-4, 4, 33)[None]
    y = once(backend, lambda ops, k, i: ops.activation(i["x"], "elu", alpha), x=x)
    check(backend, y, [[v if v > 0 else alpha * math.expm1(v) for v in x[0]]])


def test_gelu_is_not_the_tanh_approximation(backend):
    y = once(backend, lambda ops, k, i: ops.activation(i["x"], "gelu"), x=np.array([[-2.0, 2.0]]))
    assert abs(y[0, 1] - 1.9544997361) < 1e-6  # tanh approximation: 1.95459769


@pytest.mark.parametrize("shape", [(3,), (2, 4)])
def test_embed_and_its_exact_zero_row(backend, draw, shape):
    table = draw(6, 5)
    ids = np.array([-1, 5, 0]) if shape == (3,) else np.array([[0, -1, 5, 2], [3, 3, -1, 4]])
    y = once(backend, lambda ops, k, i: ops.embed(i["ids"], k["t"]), {"t": table}, ids=ids)
    check(backend, y, np.array([[0.0] * 5 if i == -1 else table[i] for i in ids.ravel()]).reshape(*shape, 5))
    assert (y[ids == -1] == 0).all()


@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_nearest_code(backend, shape):
    """Whole numbers, which every float type adds exactly: the nearest by squared distance, ties to the lowest index."""
    rng = np.random.default_rng(3)
    codebook = rng.integers(-2, 3, (40, 3)).astype(np.float64)  # 125 possible rows: many are equal, many distances tie
    x = rng.integers(-2, 3, (*shape, 3)).astype(np.float64)
    y = once(backend, lambda ops, k, i: ops.nearest_code(i["x"], k["c"]), {"c": codebook}, x=x)
    distances = [[sum((a - b) ** 2 for a, b in zip(row, code, strict=True)) for code in codebook] for row in x.reshape(-1, 3)]
    assert any(d.count(min(d)) > 1 for d in distances)
    check(backend, y, np.array([d.index(min(d)) for d in distances]).reshape(shape))
