"""Streaming state: rings against a dictionary of absolute positions, and leaves that are taken once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearline.errors import SessionError
from clearline.ops import Ring, State, StateSpec, initial_state


def ring(capacity: int, rows: int = 1, batch: int = 1) -> Ring:
    return Ring(StateSpec("r", "ring", (batch, 2, capacity, 3), rows), np.float64)


def row(position: int, batch: int = 1) -> np.ndarray:
    """The key of a position, [B, 1, heads, D]: a number that says where it belongs."""
    return np.array([[[[1000.0 * b + position + 0.25 * h] * 3 for h in range(2)]] for b in range(batch)])


def check(ring: Ring, newest: dict[int, None], batch: int = 1) -> None:
    """The last `capacity` positions lie in slot p mod capacity (or p itself, while nothing has wrapped)."""
    assert ring.slots <= ring.capacity and ring.k.shape[2] == ring.slots + ring.rows
    kept = list(newest)[-ring.capacity :]
    for p in kept:
        slot = p % ring.capacity
        for b in range(batch):
            for h in range(2):
                assert (ring.k[b, h, slot] == 1000.0 * b + p + 0.25 * h).all()
                assert (ring.v[b, h, slot] == -(1000.0 * b + p + 0.25 * h)).all()
    if len(kept) < ring.slots:
        assert np.isnan(ring.k[:, :, len(kept) : ring.slots]).all()  # a stale read screams


@given(st.integers(1, 200), st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 2))
def test_commit_against_a_dictionary(capacity, chunks, batch):
    """Chunks of any size, larger than the ring too; memory grows, wraps, and never loses one of the newest."""
    r, seen = ring(capacity, batch=batch), {}
    for count in chunks:
        start = len(seen)
        rows = np.concatenate([row(start + i, batch) for i in range(count)], 1)
        r.commit(rows, -rows, np.full(batch, start))
        seen |= dict.fromkeys(range(start, start + count))
        check(r, seen, batch)


@given(st.integers(1, 150), st.integers(1, 4), st.integers(1, 350))
def test_settle_against_a_dictionary(capacity, rows, steps):
    """A fused operation writes each step's rows right behind the past; settling moves those that wrapped to their slots."""
    r, seen = ring(max(capacity, rows), rows), {}
    for _ in range(steps // rows):
        start = len(seen)
        at = min(start, r.capacity)
        for i in range(rows):
            r.k[:, :, at + i], r.v[:, :, at + i] = row(start + i)[:, 0], -row(start + i)[:, 0]
        r.settle(start)
        seen |= dict.fromkeys(range(start, start + rows))
    check(r, seen)


def test_a_long_context_costs_memory_only_when_it_is_used():
    r = ring(3000)
    assert r.slots <= 64
    r.commit(row(0), -row(0), np.array([0]))
    assert r.slots <= 64
    r.reserve(65)
    assert 65 <= r.slots <= 128
    r.reserve(10_000)
    assert r.slots == 3000


def test_initial_state():
    specs = [StateSpec("p", "position", (2,)), StateSpec("c", "carry", (2, 3)), StateSpec("r", "ring", (2, 1, 4, 8))]
    state = initial_state(specs, np.float32)
    assert state["p"].dtype == np.int64 and not state["p"].any()
    assert state["c"].dtype == np.float32 and state["c"].shape == (2, 3) and not state["c"].any()
    assert isinstance(state["r"], Ring) and state["r"].k.dtype == np.float32
    with pytest.raises(SessionError, match="two state leaves are called p"):
        initial_state([specs[0], specs[0]], np.float32)


def test_a_leaf_is_taken_once():
    state = State({"a.b": 1})
    assert state.at("a").take("b") == 1
    with pytest.raises(SessionError, match=r"a\.b does not exist or was already consumed"):
        state.at("a").take("b")
    state.at("a").put("b", 2)
    assert state.new == {"a.b": 2}
