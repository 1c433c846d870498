"""A step of a single operation, compiled and run on a backend."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clearline.backends import get_backend
from clearline.ops import InputSpec, Program, StateSpec, Weight
from helpers.checkpoints import BACKENDS

# Every installed backend in its own float type; torch in float64 too.
NAMES = sorted([*BACKENDS, *(f"{name}/float64" for name in BACKENDS if name == "torch")])
# Largest error allowed, relative to the largest magnitude expected: some roundings of the backend's own float type.
TOLERANCE = {"numpy64": 1e-12, "torch/float64": 1e-12}
FLOAT32 = 5e-6


def program(
    backend: str,
    operation: Callable[[Any, Any, Any, Mapping[str, Any]], Mapping[str, Any]],
    weights: Mapping[str, np.ndarray | Weight],
    inputs: Mapping[str, np.ndarray],
    state: Sequence[StateSpec] = (),
) -> tuple[Program, dict]:
    """The step `operation(ops, weights, state, inputs)` and its fresh state; int arrays are ids, others samples."""
    chosen = get_backend(backend)
    named = {name: w if isinstance(w, Weight) else Weight(name, np.asarray(w, np.float32)) for name, w in weights.items()}
    specs = {name: InputSpec(array.shape, array.dtype.kind == "i") for name, array in inputs.items()}
    return chosen.compile(operation, named, list(state), specs), chosen.state(state)


def once(backend: str, operation: Callable[..., Any], weights: Mapping[str, Any] | None = None, **inputs: np.ndarray) -> np.ndarray:
    """The result of `operation(ops, weights, inputs)` on arrays."""
    compiled, state = program(backend, lambda ops, w, s, x: {"y": operation(ops, w, x)}, weights or {}, inputs)
    return np.asarray(compiled.run(state, inputs)["y"])


def check(backend: str, actual: np.ndarray, expected: Any, tolerance: float = FLOAT32) -> None:
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    if expected.dtype.kind == "i":
        np.testing.assert_array_equal(actual, expected)
        return
    limit = TOLERANCE.get(backend, tolerance) * max(1.0, np.abs(expected).max(initial=0.0))
    assert np.isfinite(actual).all()
    assert np.abs(actual - expected).max(initial=0.0) <= limit
