"""Quantised products on PyTorch: which kernel, that it holds our groups exactly, and what half precision costs."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from clearline.backends import torch_quantised  # noqa: E402
from clearline.backends.torch_quantised import linear  # noqa: E402
from clearline.ops import Weight  # noqa: E402
from clearline.ops.weight import pack, quantise  # noqa: E402

CPU = torch.device("cpu")


def weight(bits: int, group: int, affine: bool, shape=(24, 256)) -> Weight:
    rng = np.random.default_rng(bits + group)
    codes = rng.integers(0, 1 << bits, shape).astype(np.uint8)
    scale = rng.uniform(0.01, 0.1, (shape[0], shape[1] // group)).astype(np.float32)
    bias = rng.uniform(-1, 1, scale.shape).astype(np.float32) if affine else None
    return Weight("w", pack(codes, bits), scale, bits, group, bias)


def product(w: Weight, dtype, rows: int = 3, bias: bool = False):
    """(kernel, what it gives, the exact product of the numbers it was given)."""
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.integers(-16, 17, (rows, w.shape[1])) / 16.0).to(dtype)
    b = torch.from_numpy(rng.integers(-16, 17, w.shape[0]) / 4.0).to(dtype) if bias else None
    op = linear(w, lambda dense: torch.from_numpy(dense.dense(np.float64)).to(dtype), CPU, dtype)
    exact = x.double().numpy() @ w.dense(np.float64).T + (0.0 if b is None else b.double().numpy())
    return op, op(x, b).double().numpy(), exact


def error(actual, exact) -> float:
    return float(((actual - exact) ** 2).sum() / (exact**2).sum())


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("bias", [False, True])
def test_float32_holds_every_group_exactly(bits, group, affine, bias):
    op, actual, exact = product(weight(bits, group, affine), torch.float32, bias=bias)
    assert op.kernel == ("int4pack" if bits == 4 else "dequantised at each use")
    assert error(actual, exact) < 1e-12


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_float64_dequantises(bits, affine):
    op, actual, exact = product(weight(bits, 32, affine), torch.float64)
    assert op.kernel == "dequantised at each use" and error(actual, exact) < 1e-28


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("dtype", "budget"), [(torch.bfloat16, 3e-5), (torch.float16, 3e-7)])
def test_half_precision_costs_its_roundings_and_no_more(bits, dtype, budget):
    _, actual, exact = product(weight(bits, 32, True), dtype)
    assert error(actual, exact) < budget


@pytest.mark.parametrize("rows", [1, 5])
def test_one_scale_a_row_takes_pytorchs_int8_kernel(rows):
    """As bitsandbytes and Kyutai's PyTorch q8 have it."""
    op, actual, exact = product(weight(8, 256, False), torch.float32, rows)
    assert op.kernel == "int8pack" and error(actual, exact) < 1e-12


def test_but_not_on_cuda_where_that_kernel_has_a_thread_for_a_row(monkeypatch):
    monkeypatch.setattr(torch_quantised, "Dequantised", lambda weight, device, dtype: f"dequantised on {device}")
    found = linear(weight(8, 256, False), lambda dense: None, torch.device("cuda"), torch.bfloat16)
    assert found == "dequantised on cuda"


@pytest.mark.parametrize("out", [1, 15, 16, 17])
def test_any_number_of_rows(out):
    op, actual, exact = product(weight(4, 32, True, (out, 64)), torch.float32)
    assert op.kernel == "int4pack" and actual.shape == (3, out) and error(actual, exact) < 1e-12


def test_activations_of_more_than_two_dimensions():
    w = quantise(Weight("w", np.ones((16, 64), np.float32)), 4)
    op = linear(w, lambda dense: None, CPU, torch.float32)
    assert op(torch.ones(2, 3, 64), None).shape == (2, 3, 16)


def test_what_is_held_is_about_as_small_as_the_codes():
    w = weight(4, 32, False, (64, 1024))
    op = linear(w, lambda dense: None, CPU, torch.float32)
    assert sum(tensor.nbytes for tensor in op.own) <= w.data.nbytes + 8 * w.scale.size
