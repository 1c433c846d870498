"""Backends stay in step: the same operations with the same arguments, right within the budget of their float type."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
from helpers.checkpoints import BACKENDS

from clearline.backends import get_backend
from clearline.backends.numpy64 import Numpy64, NumpyOps
from clearline.backends.selftest import BUDGETS, Measured, SelfTest, cases, measure, nmse, self_test
from clearline.errors import BackendError
from clearline.ops.interface import OpsOf

OPERATIONS = {name: function for name, function in vars(OpsOf).items() if not name.startswith("_")}


def operations_of(backend: str) -> type:
    """The class that supplies a backend's operations."""
    if backend == "numpy64":
        return NumpyOps
    if backend == "onnx":
        from clearline.backends.onnx_ops import TraceOps as Operations
    elif backend == "torch":
        from clearline.backends.torch_ops import TorchOps as Operations
    elif backend == "mlx":
        from clearline.backends.mlx_ops import MlxOps as Operations
    else:
        raise AssertionError(f"say here where the operations of {backend} are")
    return Operations


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_signatures(backend, name):
    """Names, order, kinds and defaults of the arguments are the interface's."""
    expected = [(p.name, p.kind, p.default) for p in inspect.signature(OPERATIONS[name]).parameters.values()]
    actual = inspect.signature(getattr(operations_of(backend), name)).parameters.values()
    assert [(p.name, p.kind, p.default) for p in actual] == expected


VARIANTS = [*BACKENDS, *(f"torch/{dtype}" for dtype in ("float64", "bfloat16", "float16") if "torch" in BACKENDS)]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("number", range(len(cases())))
def test_every_operation_is_within_its_budget(variant, number):
    found = measure(cases()[number], get_backend(variant))
    assert found.passed, found


def test_the_self_test_knows_every_operation():
    """An operation that is added to the interface needs a case."""
    asked: set[str] = set()

    class Watching(NumpyOps):
        def __getattribute__(self, name):
            if name in OPERATIONS:
                asked.add(name)
            return super().__getattribute__(name)

    backend = Numpy64()
    backend._ops = Watching()
    assert not self_test(backend).fault
    assert asked == set(OPERATIONS)


def broken(name: str, wrong) -> Numpy64:
    """The reference with one operation replaced."""
    backend = Numpy64()
    right = getattr(backend._ops, name)
    setattr(backend._ops, name, lambda *given, **named: wrong(right, *given, **named))
    return backend


def test_an_elu_that_is_wrong_where_memory_is_not_in_order_is_named():
    """What Candle's Metal backend did: right on ordinary arrays, wrong on transposed ones."""

    def elu(right, x, name, alpha=1.0):
        y = right(x, name, alpha)
        return y if name != "elu" or x.flags.c_contiguous else np.ascontiguousarray(y).ravel()[::-1].reshape(y.shape)

    fault = self_test(broken("activation", elu)).fault
    assert "elu of a transposed array" in fault and "elu of a slice" in fault and "silu" not in fault


def test_a_ring_that_forgets_after_the_wrap_is_named():
    def attend(right, q, k, v, ring, position, context, window_rows):
        return right(q, k, v, ring, position, context - (position[0] > 12), window_rows)

    assert "ring_attend" in self_test(broken("ring_attend", attend)).fault


def test_ten_bits_of_mantissa_are_not_float32():
    """TF32, as a GPU may multiply: exact on numbers with few digits."""

    def tf32(right, x, *given):
        single = np.ascontiguousarray(x, np.float32)
        return right((single.view(np.uint32) & 0xFFFFE000).view(np.float32).astype(np.float64), *given)

    backend = broken("linear", tf32)
    backend.dtype = "float32"
    fault = self_test(backend).fault
    assert "linear of all digits" in fault and "one row" not in fault


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_errors_of_a_thousandth_and_values_that_are_no_numbers_are_seen(factor):
    fault = self_test(broken("linear", lambda right, *given: factor * right(*given))).fault
    assert fault.startswith("linear (error")


def test_an_operation_that_raises_is_named_with_what_it_raised():
    def raises(right, *given):
        raise RuntimeError("no kernel image is available")

    assert "rms_norm (RuntimeError: no kernel image is available)" in self_test(broken("rms_norm", raises)).fault


def test_a_device_that_fails_stops_the_test_and_says_so_itself():
    """A full card computes no wrong numbers, and would refuse every operation."""

    def full(right, *given):
        raise BackendError("cuda is out of memory: quantise the model")

    with pytest.raises(BackendError) as told:
        self_test(broken("rms_norm", full))
    assert str(told.value) == "the self-test of numpy64 stopped at rms_norm: cuda is out of memory: quantise the model"


def test_a_long_list_of_faults_is_cut():
    wrong = Measured("x", 1.0, 1e-6)
    assert SelfTest([replace(wrong, name=n) for n in "abcde"]).fault.endswith("and 2 more")


def test_nmse():
    assert nmse(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 0
    assert nmse(np.array([1.1]), np.array([1.0])) == pytest.approx(0.01)
    assert nmse(np.array([3, 4]), np.array([3, 5])) == 1
    assert np.isnan(nmse(np.zeros(2), np.zeros(3)))
    assert all(BUDGETS[narrow] > BUDGETS[wide] for wide, narrow in (("float64", "float32"), ("float32", "float16")))
