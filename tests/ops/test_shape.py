"""Operations that move elements; expectations index one element at a time."""

import itertools

import numpy as np
import pytest
from helpers.one_op import check, once


def cells(*shape: int):
    return itertools.product(*(range(n) for n in shape))


@pytest.mark.parametrize(("before", "after"), [((2, 6), (3, 4)), ((5,), (5, 1, 1)), ((2, 3, 4), (24,)), ((1, 7, 1), (7,))])
def test_reshape_keeps_row_major_order(backend, draw, before, after):
    x = draw(*before)
    y = once(backend, lambda ops, w, i: ops.reshape(i["x"], after), x=x)
    assert y.shape == after and y.ravel().tolist() == x.ravel().tolist()


@pytest.mark.parametrize("axes", [(0, 2, 1, 3), (3, 2, 1, 0), (1, 0, 3, 2), (0, 1, 2, 3)])
def test_transpose(backend, draw, axes):
    x = draw(2, 3, 4, 5)
    y = once(backend, lambda ops, w, i: ops.transpose(i["x"], axes), x=x)
    assert y.shape == tuple(x.shape[a] for a in axes)
    for at in cells(*x.shape):
        assert y[tuple(at[a] for a in axes)] == x[at]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_concat_then_split_is_the_same(backend, draw, axis, count):
    shapes = [[2, 3, 4] for _ in range(count)]
    for i, shape in enumerate(shapes):
        shape[axis] = i + 1
    xs = {f"x{i}": draw(*shape) for i, shape in enumerate(shapes)}
    joined = once(backend, lambda ops, w, i: ops.concat([i[name] for name in xs], axis), **xs)
    start = 0
    for i, x in enumerate(xs.values()):
        part = [slice(None)] * 3
        part[axis] = slice(start, start + i + 1)
        assert joined[tuple(part)].tolist() == x.tolist()
        start += i + 1
    for i, x in enumerate(xs.values()):
        sizes = [j + 1 for j in range(count)]
        piece = once(backend, lambda ops, w, v, i=i, sizes=sizes: ops.split(v["x"], sizes, axis)[i], x=joined)
        assert piece.tolist() == x.tolist()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (1, 3), (0, 3), (2, 3)])
def test_slice(backend, draw, axis, start, stop):
    x = draw(3, 4, 5)
    y = once(backend, lambda ops, w, i: ops.slice(i["x"], axis, start, stop), x=x)
    part = [slice(None)] * 3
    part[axis] = slice(start, stop)
    assert y.tolist() == x[tuple(part)].tolist()


@pytest.mark.parametrize("axis", [-1, -2])
def test_split_and_slice_count_axes_from_the_end_too(backend, draw, axis):
    x = draw(2, 4, 4)
    y = once(backend, lambda ops, w, i: ops.split(i["x"], (1, 3), axis)[1], x=x)
    assert y.tolist() == (x[..., 1:] if axis == -1 else x[:, 1:]).tolist()


def test_ids_stay_whole_numbers(backend):
    ids = np.array([[3, -1, 2**40], [7, 0, 5]])
    y = once(backend, lambda ops, w, i: ops.concat([ops.slice(i["ids"], 1, 2, 3), ops.reshape(i["ids"], (2, 3))], 1), ids=ids)
    assert y.dtype == np.int64 and y.tolist() == [[2**40, 3, -1, 2**40], [5, 7, 0, 5]]


def test_arithmetic_of_positions(backend):
    position = np.array([0, 5, 10**9])
    y = once(backend, lambda ops, w, i: (i["p"] + 3) * 2 - 1, p=position)
    assert y.dtype == np.int64 and y.tolist() == [5, 15, 2 * 10**9 + 5]


def test_arithmetic_of_arrays_broadcasts(backend, draw):
    a, b = draw(2, 3, 4), draw(2, 1, 4)
    y = once(backend, lambda ops, w, i: (i["a"] + i["b"]) * i["b"] - i["a"], a=a, b=b)
    check(
        backend, y, [[[(a[i, j, k] + b[i, 0, k]) * b[i, 0, k] - a[i, j, k] for k in range(4)] for j in range(3)] for i in range(2)]
    )


@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_where_equal(backend, draw, shape):
    ids = np.array([4, 0]) if shape == (2,) else np.array([[4, 0, 4], [1, 2, 3]])
    a, b = draw(2, 1, 5), draw(2, 3, 5)
    y = once(backend, lambda ops, w, i: ops.where_equal(i["ids"], 4, i["a"], i["b"]), ids=ids, a=a, b=b)
    for i, j, k in cells(2, 3, 5):
        chosen = ids[i] if shape == (2,) else ids[i, j]
        assert y[i, j, k] == pytest.approx(a[i, 0, k] if chosen == 4 else b[i, j, k], rel=1e-6)
