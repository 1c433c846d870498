"""Every operation under every installed backend."""

import numpy as np
import pytest
from helpers.one_op import NAMES


@pytest.fixture(params=NAMES)
def backend(request) -> str:
    return request.param


@pytest.fixture
def draw():
    """draw(*shape): values that float32 holds exactly, so that every backend is given the same numbers."""
    rng = np.random.default_rng(20261120)
    return lambda *shape: rng.standard_normal(shape).astype(np.float32).astype(np.float64)
