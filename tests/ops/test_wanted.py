"""What a backend is asked to keep in fewer bits, and does not have."""

import pytest

from clearline.backends import native, open_backend
from clearline.backends.wanted import Wanted
from clearline.errors import BackendError


def test_an_unknown_cache_and_a_backend_without_it():
    with pytest.raises(BackendError, match="int4"):
        open_backend("onnx", Wanted(cache="int4"))
    with pytest.raises(BackendError, match="numpy64"):
        open_backend("numpy64", Wanted(cache="int8"))


@pytest.mark.parametrize("option", ["cache int8", "weights int16"])
def test_needs_clearlines_own_operations(monkeypatch, option):
    monkeypatch.setattr(native, "missing", lambda: "nobody built them")
    monkeypatch.setattr(native, "operations", frozenset)
    with pytest.raises(BackendError, match=rf"--{option} needs .* nobody built them"):
        open_backend("onnx", Wanted(**dict([option.split()])))


def test_weights_no_backend_has():
    with pytest.raises(BackendError, match=r"int4.* known: int16"):
        open_backend("onnx", Wanted(weights="int4"))
    with pytest.raises(BackendError, match="numpy64 backend does not keep weights in 'int16'"):
        open_backend("numpy64", Wanted(weights="int16"))


def test_kernels_nobody_has(monkeypatch):
    monkeypatch.setenv("CLEARLINE_KERNELS", "avx1024")
    native.missing.cache_clear()
    try:
        with pytest.raises(BackendError, match="'avx1024'; known: avx512, avx2, plain, onnxruntime"):
            native.missing()
    finally:
        native.missing.cache_clear()
