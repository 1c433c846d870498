"""Rotary and sinusoidal positions, far out too."""

import math

import numpy as np
import pytest
from helpers.one_op import once

POSITIONS = [0, 1, 2, 1000, 4095, 100_000]


def rotated(x, position, period, layout):
    """Pair i of row t turned by (position + t) period^(-2i/D); and how far float32 angles may be off."""
    batch, rows, heads, dim = x.shape
    y, slack = np.empty(x.shape), np.empty(x.shape)
    for b in range(batch):
        for t in range(rows):
            for i in range(dim // 2):
                first, second = (2 * i, 2 * i + 1) if layout == "interleaved" else (i, dim // 2 + i)
                exponent = 2 * i / dim * math.log(period)
                angle = (position[b] + t) * math.exp(-exponent)
                # Rounded to 24 bits: the exponent, twice; the frequency, with an exponential off in its last place; the angle.
                uncertain = 0.0 if i == 0 else angle * (2 * exponent + 3) * 2.0**-24
                for h in range(heads):
                    re, im = x[b, t, h, first], x[b, t, h, second]
                    y[b, t, h, first] = re * math.cos(angle) - im * math.sin(angle)
                    y[b, t, h, second] = re * math.sin(angle) + im * math.cos(angle)
                    slack[b, t, h, [first, second]] = uncertain * math.hypot(re, im) + 2e-6
    return y, slack


@pytest.mark.parametrize("layout", ["interleaved", "halves"])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(("batch", "rows", "heads", "dim"), [(1, 1, 2, 8), (1, 2, 1, 64), (2, 3, 3, 6), (1, 1, 1, 2)])
@pytest.mark.parametrize("period", [10_000.0, 100.0])
def test_rope(backend, draw, layout, position, batch, rows, heads, dim, period):
    x = draw(batch, rows, heads, dim)
    at = np.array([position] * batch) + np.arange(batch)  # the rows of a batch are at positions of their own
    y = once(backend, lambda ops, k, i: ops.rope(i["x"], i["p"], period, layout), x=x, p=at)
    expected, slack = rotated(x, at, period, layout)
    assert y.shape == x.shape and (np.abs(y - expected) <= slack).all()


def test_the_two_layouts_differ(backend, draw):
    x, p = draw(1, 1, 1, 8), np.array([3])
    a, b = (once(backend, lambda ops, k, i, n=n: ops.rope(i["x"], i["p"], 1e4, n), x=x, p=p) for n in ("interleaved", "halves"))
    assert np.abs(a - b).max() > 0.1


def test_a_rotation_keeps_lengths(backend, draw):
    x = draw(1, 2, 2, 16)
    y = once(backend, lambda ops, k, i: ops.rope(i["x"], i["p"], 1e4, "interleaved"), x=x, p=np.array([77_777]))
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(("rows", "dim"), [(1, 4), (2, 32), (3, 6)])
def test_sin_embedding(backend, position, rows, dim):
    """Cosines first, then sines, with exponents i / (D/2 - 1): Kyutai's create_sin_embedding."""
    at = np.array([position, position + 7])
    y = once(backend, lambda ops, k, i: ops.sin_embedding(i["p"], rows, dim, 10_000.0), p=at)
    assert y.shape == (2, rows, dim)
    for b in range(2):
        for t in range(rows):
            for i in range(dim // 2):
                phase = (at[b] + t) / 10_000.0 ** (i / (dim // 2 - 1))
                slack = 2e-6 + 4 * phase * 2.0**-24 * (i > 0)
                assert abs(y[b, t, i] - math.cos(phase)) <= slack
                assert abs(y[b, t, dim // 2 + i] - math.sin(phase)) <= slack
