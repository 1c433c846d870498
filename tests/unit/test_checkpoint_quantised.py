"""Quantised layouts: GGUF's blocks against the gguf package, affine groups against their formula, products against both."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from clearline.backends import get_backend
from clearline.checkpoint.blocks import BLOCK_TYPES
from clearline.checkpoint.files import open_tensors
from clearline.checkpoint.quantised import fold, group_size
from clearline.errors import CheckpointError
from clearline.ops import InputSpec, Weight
from clearline.ops.weight import pack, quantise

SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("kind", BLOCK_TYPES)
@settings(max_examples=25)
@given(seed=SEEDS, rows=st.integers(1, 3), blocks=st.integers(1, 3))
def test_gguf_blocks(kind, seed, rows, blocks):
    """Any bytes with finite scales mean what the gguf package says they mean."""
    gguf = pytest.importorskip("gguf")
    block = BLOCK_TYPES[kind]
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, blocks, block.nbytes), dtype=np.uint8)
    places = {2: [0], 3: [0, 2], 8: [0], 12: [0, 2], 13: [0, 2], 14: [208]}[kind]
    for at in places:
        halves = rng.uniform(-2, 2, (rows, blocks, 1)).astype(np.float16)
        raw[..., at : at + 2] = halves.view(np.uint8)
    expected = gguf.quants.dequantize(raw.reshape(rows, -1), gguf.GGMLQuantizationType(kind))
    found = block.decode(raw)
    assert found.shape == expected.shape == (rows, blocks * block.size)
    assert bool(found.bits) == block.exact
    np.testing.assert_allclose(found.dense(np.float64), expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=40)
@given(
    seed=SEEDS, bits=st.sampled_from([4, 8]), rows=st.integers(1, 5), groups=st.integers(1, 4), group=st.sampled_from([16, 32, 64])
)
def test_codes_survive_packing(seed, bits, rows, groups, group):
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, groups * group)).astype(np.uint8)
    weight = Weight("w", pack(codes, bits), np.ones((rows, groups), np.float32), bits, group)
    assert weight.shape == codes.shape
    np.testing.assert_array_equal(weight.codes(), codes)
    np.testing.assert_array_equal(weight.rows(1, 3).codes(), codes[1:3])


@settings(max_examples=40)
@given(seed=SEEDS, bits=st.sampled_from([4, 8]), scale=st.floats(1e-6, 1e6))
def test_rounding_errs_by_at_most_half_a_step(seed, bits, scale):
    """Half a step of the group's own scale; at 4 bits one full step at the end of the range that has no code."""
    values = (np.random.default_rng(seed).standard_normal((3, 64)) * scale).astype(np.float32)
    weight = quantise(Weight("w", values), bits)
    error = np.abs(weight.dense(np.float64) - values).reshape(3, 2, 32)
    step = np.abs(weight.scale)[..., None]
    assert (error <= step * (1.001 if bits == 4 else 0.501)).all()


@settings(max_examples=25)
@given(seed=SEEDS, bits=st.sampled_from([4, 8]), group=st.sampled_from([32, 64]), biased=st.booleans())
def test_mlx_files_mean_code_times_scale_plus_bias(seed, bits, group, biased, tmp_path_factory):
    rng = np.random.default_rng(seed)
    rows, width = 5, 128
    codes = rng.integers(0, 1 << bits, (rows, width)).astype(np.uint32)
    shifts = np.arange(32 // bits, dtype=np.uint32) * bits
    words = np.bitwise_or.reduce(codes.reshape(rows, -1, 32 // bits) << shifts, axis=-1).astype(np.uint32)
    scales = rng.uniform(0.1, 2, (rows, width // group)).astype(np.float32)
    biases = rng.uniform(-9, 9, scales.shape).astype(np.float32)
    path = tmp_path_factory.mktemp("mlx") / "model.safetensors"
    tensors = {"out_norm.weight": np.ones(width, np.float32), "text_linear.weight": words, "text_linear.scales": scales}
    save_file(tensors | ({"text_linear.biases": biases} if biased else {}), path)
    folded = fold(path, open_tensors(path))
    assert set(folded) == {"out_norm.weight", "text_linear.weight"} and group_size(folded["text_linear.weight"]) == group
    spread = np.repeat(scales, group, 1)
    expected = codes * spread + np.repeat(biases, group, 1) if biased else (codes - 2.0 ** (bits - 1)) * spread
    np.testing.assert_allclose(folded["text_linear.weight"].read().dense(np.float64), expected, rtol=1e-12, atol=1e-12)


def test_codes_in_bytes_have_8_bits_whatever_the_others_have(tmp_path):
    """As `clearline convert` writes them into q4 files."""
    rng = np.random.default_rng(1)
    bytes_, words = rng.integers(0, 256, (3, 64), np.uint8), rng.integers(0, 2**32, (5, 8), np.uint32)
    scales = {f"{name}.scales": np.ones((rows, 2), np.float32) for name, rows in (("linears.0", 3), ("text_linear", 5))}
    codes = {"linears.0.weight": bytes_, "text_linear.weight": words}
    save_file({"out_norm.weight": np.ones(64, np.float32)} | codes | scales, tmp_path / "m.safetensors")
    folded = fold(tmp_path, open_tensors(tmp_path / "m.safetensors"))
    assert folded["linears.0.weight"].shape == (3, 64) and folded["text_linear.weight"].shape == (5, 64)
    np.testing.assert_array_equal(folded["linears.0.weight"].read().dense(np.float32), bytes_ - np.float32(128))
    assert folded["text_linear.weight"].read().bits == 4


@pytest.mark.parametrize("change", ["no scales' weight", "three bits", "biases of another shape", "group of 7"])
def test_quantised_tensors_that_do_not_fit(change, tmp_path):
    tensors = {
        "out_norm.weight": np.ones(64, np.float32),
        "text_linear.weight": np.zeros((2, 8), np.uint32),
        "text_linear.scales": np.ones((2, 2), np.float32),
        "text_linear.biases": np.ones((2, 2), np.float32),
    }
    if change == "no scales' weight":
        tensors["other.scales"] = np.ones((2, 2), np.float32)
    elif change == "three bits":
        tensors["text_linear.weight"] = np.zeros((2, 6), np.uint32)
    elif change == "biases of another shape":
        tensors["text_linear.biases"] = np.ones((2, 1), np.float32)
    else:
        tensors["text_linear.scales"] = tensors["text_linear.biases"] = np.ones((2, 9), np.float32)
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"model.safetensors"):
        fold(path, open_tensors(path))


@pytest.mark.parametrize("kind", ["symmetric", "affine"])
@pytest.mark.parametrize("group", [16, 32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_products_on_both_backends(bits, group, kind):
    """x W^T in float64 from the dequantised weights; ONNX Runtime rounds x to 8 bits, which is 1% at most here."""
    rng = np.random.default_rng(7)
    codes = rng.integers(0, 1 << bits, (24, 256)).astype(np.uint8)
    shape = (24, 256 // group)
    scale = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    bias = rng.uniform(-3, 3, shape).astype(np.float32) if kind == "affine" else None
    weight = Weight("w", pack(codes, bits), scale, bits, group, bias)
    x = rng.standard_normal((1, 256)).astype(np.float32)

    def step(ops, w, s, inputs):
        return {"y": ops.linear(inputs["x"], w["w"])}

    expected = x.astype(np.float64) @ weight.dense(np.float64).T
    for backend, tolerance in (("numpy64", 1e-12), ("onnx", 1e-2)):
        program = get_backend(backend).compile(step, {"w": weight}, [], {"x": InputSpec((1, 256))})
        y = program.run({}, {"x": x})["y"]
        assert np.abs(y - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("shape", [(32,), (32, 1, 2, 1), (4, 8, 2)])
def test_bitsandbytes_codes_that_are_no_matrix(shape, tmp_path):
    """Found by fuzzing: as many rows as scales, but not two dimensions."""
    save_file({"a.weight": np.zeros(shape, np.int8), "a.weight_scb": np.ones(shape[0], np.float32)}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="matrix of int8"):
        fold(tmp_path, open_tensors(tmp_path / "m.safetensors"))
