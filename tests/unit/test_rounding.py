"""The 4-bit rule: what it promises of its numbers, and that it errs less than MLX's does."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearline.backends import get_backend
from clearline.backends.onnx_ops import Edge, TraceOps
from clearline.errors import ConfigError
from clearline.ops import InputSpec, Weight
from clearline.ops.rounding import affine, rounded
from clearline.ops.weight import pack

DRAWS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy tails": lambda rng, shape: rng.standard_t(4, shape),
    "one side": lambda rng, shape: np.abs(rng.standard_normal(shape)) + 3,
    "sparse": lambda rng, shape: rng.standard_normal(shape) * (rng.random(shape) < 0.2),
}


def draw(kind: str, seed: int, scale: float = 1, shape: tuple[int, int] = (6, 96)) -> np.ndarray:
    return (DRAWS[kind](np.random.default_rng(seed), shape) * scale).astype(np.float32)


@settings(max_examples=60)
@given(st.sampled_from(list(DRAWS)), st.integers(0, 2**32 - 1), st.floats(-30, 30).map(lambda x: 10.0**x))
def test_scales_and_offsets_are_exact_in_bfloat16(kind, seed, scale):
    """And an offset is a whole number of steps: the same numbers wherever the codes go."""
    weight = affine(Weight("w", draw(kind, seed, scale)))
    assert weight.scale.dtype == weight.bias.dtype == ml_dtypes.bfloat16
    zero = weight.zero_points()
    assert zero is not None and zero.max() <= 15
    steps = (weight.codes().astype(np.int64) - np.repeat(zero, 32, 1)).astype(np.float64)
    np.testing.assert_array_equal(weight.dense(np.float64), steps * np.repeat(weight.scale.astype(np.float64), 32, 1))


def mlx_rule(values: np.ndarray) -> np.ndarray:
    """mx.quantize(w, 32, 4): the end of larger magnitude is exact, and a whole number of steps away from 0."""
    groups = values.reshape(-1, 32)
    high, low = groups.max(-1, keepdims=True), groups.min(-1, keepdims=True)
    step = np.maximum((high - low) / np.float32(15), np.float32(1e-7))
    step, edge = np.where(-low > high, step, -step), np.where(-low > high, low, high)
    whole = np.rint(edge / step)
    step = np.where(whole != 0, edge / np.where(whole != 0, whole, 1), step)
    offset = np.where(whole != 0, edge, 0)
    return (np.clip(np.rint((groups - offset) / step), 0, 15) * step + offset).reshape(values.shape)


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "sparse"])
def test_the_rule_to_compare_with_is_mlx(kind):
    mx = pytest.importorskip("mlx.core")
    values = draw(kind, 3)
    theirs = np.array(mx.dequantize(*mx.quantize(mx.array(values), 32, 4), 32, 4))
    np.testing.assert_allclose(mlx_rule(values), theirs, atol=1e-6)


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "sparse"])
def test_it_errs_less_than_mlx(kind):
    """By 4% and more, in squared error."""
    values = draw(kind, 3, shape=(64, 2048))
    ours, theirs = affine(Weight("w", values)).dense(np.float32), mlx_rule(values)
    ratio = np.square(ours - values).sum(dtype=np.float64) / np.square(theirs - values).sum(dtype=np.float64)
    assert ratio <= 0.96, ratio


@pytest.mark.parametrize("zero", [0, 5, 8, 15])
@pytest.mark.parametrize("significand", [16, 19, 24, 30])
def test_values_on_the_grid_survive_exactly(zero, significand):
    rng = np.random.default_rng(zero)
    codes = rng.integers(0, 16, (4, 64))
    codes[:, ::32], codes[:, 1::32] = 0, 15  # every group spans its range
    values = ((codes - zero) * (significand * 2.0**-9)).astype(np.float32)
    exact = zero * significand < 256 or zero % 2 == 0 or significand % 2 == 0
    weight = affine(Weight("w", values))
    if exact:  # else the offset needs nine bits, and a neighbouring scale is taken
        np.testing.assert_array_equal(weight.dense(np.float32), values)
        np.testing.assert_array_equal(affine(weight).data, weight.data)
    assert np.abs(weight.dense(np.float32) - values).max() <= significand * 2.0**-9


def test_zeros_stay_zero_and_what_is_no_number_shows():
    values = np.zeros((2, 64), np.float32)
    assert not affine(Weight("w", values)).dense(np.float32).any()
    values[0, 40] = np.nan
    found = affine(Weight("w", values)).dense(np.float32)
    assert np.isnan(found[0, 32:]).all() and not found[0, :32].any() and not found[1].any()


def test_large_matrices_are_rounded_block_by_block_all_the_same():
    values = draw("normal", 1, shape=(300, 2048))  # several blocks of rows, on several threads
    whole = affine(Weight("w", values)).dense(np.float32)
    for row in (0, 63, 64, 299):
        np.testing.assert_array_equal(affine(Weight("w", values[row : row + 1])).dense(np.float32)[0], whole[row])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [(4,), (4, 33), (4, 16), (2, 32, 3)])
def test_what_cannot_be_rounded(shape, bits):
    with pytest.raises(ConfigError, match=r"big\.linear.*groups of 32"):
        rounded(Weight("big.linear", np.zeros(shape, np.float32)), bits)


@pytest.mark.parametrize(
    ("offset", "expected"), [(-1.5, [[3]]), (0.0, [[0]]), (-7.5, [[15]]), (-1.4, None), (0.5, None), (-8.0, None)]
)
def test_zero_points_are_offsets_that_are_codes(offset, expected):
    weight = Weight(
        "w", pack(np.zeros((1, 32), np.uint8), 4), np.array([[0.5]], np.float32), 4, 32, np.array([[offset]], np.float32)
    )
    zero = weight.zero_points()
    assert (None if zero is None else zero.tolist()) == expected


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("width", [32, 96, 256])  # an odd number of zero points fills half a byte up
def test_onnx_runtime_takes_zero_points_as_they_are(bits, width):
    """One node, and the product of the dequantised weights but for the inputs' rounding to 8 bits."""
    rng = np.random.default_rng(width)
    shape = (40, width // 32)
    scale, zero = rng.uniform(0.5, 1.5, shape).astype(np.float32), rng.integers(0, 1 << bits, shape)
    codes = pack(rng.integers(0, 1 << bits, (40, width)).astype(np.uint8), bits)
    weight = Weight("w", codes, scale, bits, 32, (-zero * scale).astype(np.float32))
    ops = TraceOps()
    ops.linear(Edge(ops, "x", (1, width)), weight)
    assert [node.op_type for node in ops.nodes] == ["MatMulNBits"]
    x = rng.standard_normal((1, width)).astype(np.float32)

    def step(ops, w, s, inputs):
        return {"y": ops.linear(inputs["x"], w["w"])}

    expected = x.astype(np.float64) @ weight.dense(np.float64).T
    found = {
        get_backend("onnx", threads).compile(step, {"w": weight}, [], {"x": InputSpec(x.shape)}).run({}, {"x": x})["y"].tobytes()
        for threads in (1, 2, 3)
    }
    assert len(found) == 1
    assert np.abs(np.frombuffer(found.pop(), np.float32) - expected).max() <= 1e-2 * np.abs(expected).max()
