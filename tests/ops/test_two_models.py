"""Two models on one backend object: their weights have the same names, and neither gets the other's."""

import numpy as np
import pytest
from helpers.checkpoints import BACKENDS

from clearline.backends import get_backend
from clearline.ops import InputSpec, Weight


@pytest.mark.parametrize("name", BACKENDS)
def test_weights_of_the_same_name(name):
    backend = get_backend(name)
    x = np.ones((1, 8), np.float32)
    programs = [
        backend.compile(
            lambda ops, w, s, i: {"y": ops.linear(i["x"], w["w"])},
            {"w": Weight("w", np.full((4, 8), value, np.float32))},
            [],
            {"x": InputSpec(x.shape)},
        )
        for value in (1.0, 2.0)
    ]
    assert [float(program.run({}, {"x": x})["y"][0, 0]) for program in programs] == [8.0, 16.0]
