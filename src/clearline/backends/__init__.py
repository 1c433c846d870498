"""Backends: siblings that execute the one model definition. None imports another."""

from clearline.backends.choose import AUTO, KINDS, get_backend, open_backend, specified
from clearline.backends.wanted import DTYPES, Wanted

BACKENDS = tuple(KINDS)
DEFAULT_BACKEND = AUTO

__all__ = ["AUTO", "BACKENDS", "DEFAULT_BACKEND", "DTYPES", "KINDS", "Wanted", "get_backend", "open_backend", "specified"]
