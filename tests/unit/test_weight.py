"""Weights: dense and quantised, and how far rounding may move them."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clearline.errors import ConfigError
from clearline.ops import Weight, Weights
from clearline.ops.weight import pack, quantise

floats = st.floats(-100, 100, width=32).map(lambda x: 0.0 if abs(x) < 1e-6 else x)
matrices = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.sampled_from([32, 64, 96])), elements=floats)


@given(matrices)
def test_8_bits_are_off_by_half_a_step_of_127_at_most(values):
    found = quantise(Weight("w", values), 8).dense(np.float64)
    for row, got in zip(values.astype(np.float64), found, strict=True):
        for start in range(0, row.size, 32):
            part = slice(start, start + 32)
            step = np.abs(row[part]).max() / 127
            assert np.abs(row[part] - got[part]).max() <= 0.5 * step * (1 + 1e-4)


@given(matrices)
def test_4_bits_are_off_by_half_a_step_of_8_or_one_at_the_far_end(values):
    """The largest magnitude is exactly -8 steps; a value as large of the other sign has only 7 steps to go to."""
    found = quantise(Weight("w", values), 4).dense(np.float64)
    for row, got in zip(values.astype(np.float64), found, strict=True):
        for start in range(0, row.size, 32):
            part = slice(start, start + 32)
            largest = row[part][np.abs(row[part]).argmax()]
            step = abs(largest) / 8
            error = np.abs(row[part] - got[part])
            far = row[part] * -np.sign(largest) > 7.5 * step
            assert error[~far].max(initial=0.0) <= 0.5 * step * (1 + 1e-4)
            assert error[far].max(initial=0.0) <= step * (1 + 1e-4)
            assert abs(got[part][np.abs(row[part]).argmax()] - largest) <= 1e-6 * abs(largest)


@pytest.mark.parametrize(("bits", "low", "high"), [(8, -127, 127), (4, -8, 7)])
@pytest.mark.parametrize("group", [32, 64])
def test_values_on_the_grid_survive_exactly(bits, low, high, group):
    rng = np.random.default_rng(bits)
    codes = rng.integers(low, high + 1, (5, 4, group))
    codes[:, :, 7] = low  # every group uses its full range
    steps = 2.0 ** rng.integers(-6, 3, (5, 4, 1))
    values = (codes * steps).reshape(5, -1).astype(np.float32)
    weight = quantise(Weight("w", values), bits, group)
    np.testing.assert_array_equal(weight.dense(np.float32), values)
    assert weight.shape == values.shape and weight.data.nbytes == values.size * bits // 8


@pytest.mark.parametrize("bits", [4, 8])
def test_zeros_stay_zero(bits):
    assert not quantise(Weight("w", np.zeros((2, 64), np.float32)), bits).dense(np.float32).any()


def test_large_matrices_are_quantised_block_by_block_all_the_same():
    values = np.random.default_rng(1).standard_normal((700, 2048)).astype(np.float32)  # more than one block of rows
    whole = quantise(Weight("w", values), 8).dense(np.float32)
    for row in (0, 511, 512, 699):
        np.testing.assert_array_equal(quantise(Weight("w", values[row : row + 1]), 8).dense(np.float32)[0], whole[row])


@pytest.mark.parametrize("shape", [(4,), (4, 33), (4, 16), (2, 32, 3)])
def test_what_cannot_be_quantised(shape):
    with pytest.raises(ConfigError, match="groups of 32"):
        quantise(Weight("big.linear", np.zeros(shape, np.float32)), 8)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(8)), elements=st.integers(0, 15)))
def test_packing_two_codes_a_byte_even_one_low(codes):
    packed = pack(codes, 4)
    assert packed.tolist() == [[row[i] + 16 * row[i + 1] for i in range(0, 8, 2)] for row in codes.tolist()]
    assert Weight("w", packed, np.ones((len(codes), 1)), 4, 8).codes().tolist() == codes.tolist()


def test_symmetric_and_affine_groups():
    """(code - 8) scale without a bias, code scale + bias with one, group by group."""
    codes, scale = np.arange(16, dtype=np.uint8)[None], np.array([[0.5, 2.0]])
    expected = [(c - 8) * 0.5 for c in range(8)] + [(c - 8) * 2.0 for c in range(8, 16)]
    assert Weight("w", pack(codes, 4), scale, 4, 8).dense(np.float64).tolist() == [expected]
    weight = Weight("w", pack(codes, 4), scale, 4, 8, bias=np.array([[1.0, -3.0]]))
    expected = [c * 0.5 + 1.0 for c in range(8)] + [c * 2.0 - 3.0 for c in range(8, 16)]
    assert weight.dense(np.float64).tolist() == [expected]
    assert weight.rows(0, 1).dense(np.float64).tolist() == [expected]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_dense_weights_keep_their_values(dtype):
    stored = np.array([[1.0, -0.1, 3e-5]], dtype)
    assert Weight("w", stored).dense(np.float64).tolist() == [[float(x) for x in stored[0]]]


def test_a_view_below_a_path():
    weights = Weights({"a.b.c": Weight("a.b.c", np.zeros(1)), "a.d": Weight("a.d", np.ones(1))})
    assert weights.at("a").at("b")["c"].name == weights["a.b.c"].name == "a.b.c"
    with pytest.raises(KeyError):
        weights.at("a")["c"]
