"""Convolutions against their sums, one tap at a time."""

import numpy as np
import pytest
from helpers.one_op import check, once

SHAPES = [(1, 1, 1), (2, 3, 4), (1, 5, 2)]  # batch, channels in, channels out


@pytest.mark.parametrize(("batch", "channels", "out"), SHAPES)
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "rows"),
    [
        (1, 1, 1, 5),
        (3, 1, 1, 7),
        (7, 1, 1, 7),
        (3, 1, 2, 9),
        (3, 1, 4, 20),
        (8, 4, 1, 20),
        (8, 4, 1, 22),
        (4, 2, 1, 4),
        (5, 2, 1, 12),
        (3, 3, 1, 9),
    ],
)
def test_conv1d_is_a_valid_correlation(backend, draw, batch, channels, out, kernel, stride, dilation, rows):
    x, w = draw(batch, rows, channels), draw(out, channels, kernel)
    y = once(backend, lambda ops, k, i: ops.conv1d(i["x"], k["w"], stride, dilation), {"w": w}, x=x)
    length = (rows - dilation * (kernel - 1) - 1) // stride + 1
    expected = np.zeros((batch, length, out))
    for b in range(batch):
        for t in range(length):
            for o in range(out):
                taps = (w[o, c, j] * x[b, t * stride + j * dilation, c] for j in range(kernel) for c in range(channels))
                expected[b, t, o] = sum(taps)
    check(backend, y, expected)


@pytest.mark.parametrize(("batch", "channels", "out"), SHAPES)
@pytest.mark.parametrize(
    ("kernel", "stride", "rows"), [(1, 1, 3), (2, 2, 3), (4, 2, 1), (4, 2, 5), (16, 8, 3), (5, 2, 4), (3, 1, 6), (7, 3, 2)]
)
def test_conv_transpose1d_spreads_and_adds(backend, draw, batch, channels, out, kernel, stride, rows):
    x, w = draw(batch, rows, channels), draw(channels, out, kernel)
    if channels > 1 and out == 1:
        pytest.skip("this shape means a channel-wise one")
    y = once(backend, lambda ops, k, i: ops.conv_transpose1d(i["x"], k["w"], stride), {"w": w}, x=x)
    expected = np.zeros((batch, (rows - 1) * stride + kernel, out))
    for b in range(batch):
        for t in range(rows):
            for j in range(kernel):
                for o in range(out):
                    expected[b, t * stride + j, o] += sum(w[c, o, j] * x[b, t, c] for c in range(channels))
    check(backend, y, expected)


@pytest.mark.parametrize(("kernel", "stride", "rows"), [(4, 2, 1), (4, 2, 3), (3, 2, 4), (2, 2, 2)])
@pytest.mark.parametrize("channels", [2, 5])
def test_channel_wise_conv_transpose1d(backend, draw, channels, kernel, stride, rows):
    x, w = draw(2, rows, channels), draw(channels, 1, kernel)
    y = once(backend, lambda ops, k, i: ops.conv_transpose1d(i["x"], k["w"], stride), {"w": w}, x=x)
    expected = np.zeros((2, (rows - 1) * stride + kernel, channels))
    for b in range(2):
        for t in range(rows):
            for j in range(kernel):
                for c in range(channels):
                    expected[b, t * stride + j, c] += w[c, 0, j] * x[b, t, c]
    check(backend, y, expected)
