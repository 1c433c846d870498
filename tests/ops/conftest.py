"""Every operation under every backend."""

import pytest
from helpers.one_op import NAMES

from clearline.backends import get_backend
from clearline.errors import BackendError


@pytest.fixture(params=NAMES)
def backend(request) -> str:
    try:
        get_backend(request.param)
    except BackendError as error:
        pytest.skip(str(error))  # an optional backend that is not installed here
    return request.param


@pytest.fixture
def draw():
    """draw(*shape): values that float32 holds exactly, so that every backend is given the same numbers."""
    import numpy as np

    rng = np.random.default_rng(20261120)
    return lambda *shape: rng.standard_normal(shape).astype(np.float32).astype(np.float64)
