"""Attention over a ring against attention over the whole history, which never forgets and never wraps."""

import math

import numpy as np
import pytest
from helpers.one_op import check, program

from clearline.ops import StateSpec


class History:
    """Every key and value ever seen, in lists; softmax of the visible ones, key by key."""

    def __init__(self, context: int, window_rows: int) -> None:
        self.context, self.window_rows = context, window_rows
        self.keys: list[np.ndarray] = []  # of each position: [batch, kv heads, dim]
        self.values: list[np.ndarray] = []

    def attend(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        batch, rows, heads, dim = q.shape
        first = len(self.keys)
        self.keys += list(k.transpose(1, 0, 2, 3))
        self.values += list(v.transpose(1, 0, 2, 3))
        share = heads // k.shape[2]
        y = np.zeros(q.shape)
        for row in range(rows):
            t = first + row
            end = t - t % self.window_rows + self.window_rows - 1
            seen = [p for p in range(t + 1) if p > end - self.context]
            for b in range(batch):
                for h in range(heads):
                    scores = [float(q[b, row, h] @ self.keys[p][b, h // share]) / math.sqrt(dim) for p in seen]
                    weights = [math.exp(s - max(scores)) for s in scores]
                    for p, weight in zip(seen, weights, strict=True):
                        y[b, row, h] += weight / sum(weights) * self.values[p][b, h // share]
        return y


def compare(backend, draw, *, context, rows, window_rows, heads, kv_heads, dim, batch, steps, capacity=None) -> None:
    """`steps` steps of `rows` rows each; the ring holds what the model would give it unless told otherwise."""
    capacity = max(1, context - window_rows) if capacity is None else capacity
    ring = StateSpec("layer.ring", "ring", (batch, kv_heads, capacity, dim), rows)

    def step(ops, w, s, i):
        y, new = ops.ring_attend(i["q"], i["k"], i["v"], s.at("layer").take("ring"), i["p"], context, window_rows)
        s.at("layer").put("ring", new)
        return {"y": y}

    def inputs(number: int) -> dict[str, np.ndarray]:
        q, k, v = 2 * draw(batch, rows, heads, dim), 2 * draw(batch, rows, kv_heads, dim), draw(batch, rows, kv_heads, dim)
        return {"q": q, "k": k, "v": v, "p": np.full(batch, number * rows)}

    compiled, state = program(backend, step, {}, inputs(0), [ring])
    history = History(context, window_rows)
    for number in range(steps):
        given = inputs(number)
        y = np.asarray(compiled.run(state, given)["y"])
        check(backend, y, history.attend(given["q"], given["k"], given["v"]))


@pytest.mark.parametrize("context", [1, 2, 3, 8])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (3, 1)])
@pytest.mark.parametrize("dim", [8, 6])
def test_one_row_a_step_well_past_the_ring(backend, draw, context, heads, kv_heads, dim):
    compare(
        backend,
        draw,
        context=context,
        rows=1,
        window_rows=1,
        heads=heads,
        kv_heads=kv_heads,
        dim=dim,
        batch=1,
        steps=3 * context + 5,
    )


@pytest.mark.parametrize("context", [2, 3, 4, 7, 10])
@pytest.mark.parametrize("window_rows", [1, 2])
@pytest.mark.parametrize("dim", [8, 4])
def test_two_rows_a_step_as_mimi_streams(backend, draw, context, window_rows, dim):
    """With window_rows 2 the first row of a frame lacks the oldest key; with 1 it does not (Kyutai's whole-file call)."""
    compare(
        backend, draw, context=context, rows=2, window_rows=window_rows, heads=2, kv_heads=2, dim=dim, batch=1, steps=context + 6
    )


@pytest.mark.parametrize(("rows", "window_rows"), [(1, 1), (2, 1), (2, 2), (4, 4), (4, 2)])
def test_batches(backend, draw, rows, window_rows):
    compare(backend, draw, context=6, rows=rows, window_rows=window_rows, heads=4, kv_heads=2, dim=8, batch=2, steps=9)


@pytest.mark.parametrize("capacity", [7, 8, 20])
def test_a_ring_larger_than_needed_changes_nothing(backend, draw, capacity):
    compare(backend, draw, context=8, rows=1, window_rows=1, heads=2, kv_heads=2, dim=8, batch=1, steps=45, capacity=capacity)


@pytest.mark.parametrize("context", [64, 65, 66, 100, 130])
def test_around_the_sizes_to_which_memory_grows(backend, draw, context):
    """Rings begin with 64 slots and double up to their capacity: no growth and no wrap may lose or move a row."""
    compare(backend, draw, context=context, rows=1, window_rows=1, heads=1, kv_heads=1, dim=8, batch=1, steps=2 * context + 6)


def test_two_rows_around_the_sizes_to_which_memory_grows(backend, draw):
    compare(backend, draw, context=100, rows=2, window_rows=2, heads=1, kv_heads=1, dim=8, batch=1, steps=110)


def test_states_are_independent(backend, draw):
    """Two states through one program, in turn: each as if it were alone."""
    context = 4
    ring = StateSpec("ring", "ring", (1, 1, context - 1, 8), 1)

    def step(ops, w, s, i):
        y, new = ops.ring_attend(i["q"], i["k"], i["v"], s.take("ring"), i["p"], context, 1)
        s.put("ring", new)
        return {"y": y}

    def inputs(number):
        return {"q": draw(1, 1, 1, 8), "k": draw(1, 1, 1, 8), "v": draw(1, 1, 1, 8), "p": np.array([number])}

    compiled, one = program(backend, step, {}, inputs(0), [ring])
    _, two = program(backend, step, {}, inputs(0), [ring])
    histories = [History(context, 1), History(context, 1)]
    for number in range(12):
        for state, history in zip((one, two), histories, strict=True):
            given = inputs(number)
            y = np.asarray(compiled.run(state, given)["y"])
            check(backend, y, history.attend(given["q"], given["k"], given["v"]))
