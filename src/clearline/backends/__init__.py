"""Backends: siblings that execute the one model definition. None imports another."""

from collections.abc import Callable

from clearline.errors import BackendError
from clearline.ops import Backend


def _numpy64(threads: int | None) -> Backend:
    from clearline.backends.numpy64 import Numpy64

    return Numpy64()


def _onnx(threads: int | None) -> Backend:
    from clearline.backends.onnx_run import Onnx

    return Onnx(threads)


BACKENDS: dict[str, Callable[[int | None], Backend]] = {"onnx": _onnx, "numpy64": _numpy64}
DEFAULT_BACKEND = "onnx"


def get_backend(name: str, threads: int | None = None) -> Backend:
    """The backend called `name`; `threads` limits it (None: it chooses). Raises BackendError for an unknown name."""
    if name not in BACKENDS:
        raise BackendError(f"there is no backend {name!r}; known: {', '.join(BACKENDS)}")
    return BACKENDS[name](threads)
