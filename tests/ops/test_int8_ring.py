"""Keys and values in int8: close to float32 past the wrap, every row within half a step, the same bytes twice."""

import numpy as np
import pytest

from clearline.backends import native, open_backend
from clearline.backends.onnx_ring import Int8Ring, OrtRing
from clearline.backends.wanted import Wanted
from clearline.errors import BackendError
from clearline.ops import InputSpec, StateSpec

pytestmark = pytest.mark.skipif("Attend" not in native.operations(), reason=f"no operations of our own: {native.missing()}")

CONTEXT, HEADS, DIM = 97, 4, 64
RING = StateSpec("ring", "ring", (1, HEADS, CONTEXT - 1, DIM))


def step(ops, w, s, x):
    y, ring = ops.ring_attend(x["q"], x["k"], x["v"], s.take("ring"), x["p"], CONTEXT, 1)
    s.put("ring", ring)
    return {"y": y}


def play(cache: str | None, rows: np.ndarray, threads: int = 1) -> tuple[np.ndarray, OrtRing]:
    """Rows [N, 3, heads, dim] of queries, keys and values, one a step -> outputs [N, heads, dim], the ring."""
    backend = open_backend("onnx", Wanted(threads=threads, cache=cache))
    shape = (1, 1, HEADS, rows.shape[-1])
    spec = StateSpec("ring", "ring", (1, HEADS, CONTEXT - 1, rows.shape[-1]))
    inputs = {name: InputSpec(shape) for name in "qkv"} | {"p": InputSpec((1,), True)}
    program, state = backend.compile(step, {}, [spec], inputs), backend.state([spec])
    out = []
    for position, row in enumerate(rows):
        given = {name: x.reshape(shape) for name, x in zip("qkv", row, strict=True)}
        out.append(program.run(state, given | {"p": np.array([position])})["y"][0, 0])
    return np.stack(out), state["ring"]


@pytest.fixture
def rows() -> np.ndarray:
    return some_rows(3)


def some_rows(seed: int) -> np.ndarray:
    """Louder with time, and with channels of very different size, as keys have."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((3 * CONTEXT, 3, HEADS, DIM)).astype(np.float32)
    rows[:, 1] *= np.geomspace(0.05, 3, DIM, dtype=np.float32)
    return rows * np.geomspace(0.05, 1, len(rows), dtype=np.float32)[:, None, None, None]


@pytest.mark.parametrize("seed", range(3, 11))
def test_follows_float32_past_the_wrap(seed):
    rows = some_rows(seed)
    exact, ring = play(None, rows)
    assert type(ring) is OrtRing
    rough, ring = play("int8", rows)
    assert type(ring) is Int8Ring
    assert ring.k.dtype == ring.v.dtype == np.int8
    error = np.abs(rough - exact).reshape(len(rows), -1).max(1) / np.abs(exact).reshape(len(rows), -1).max(1)
    # Half a step in 127 of the largest of 32 values, in keys (through the softmax) and in values.
    assert error.max() < 0.03
    assert np.median(error) < 0.01
    assert error.max() > 1e-5, "that was not int8"


def test_holds_every_row_as_it_was(rows):
    _, ring = play("int8", rows)
    for number, (array, scale) in enumerate(((ring.k, ring.k_scale), (ring.v, ring.v_scale)), 1):
        steps = scale[0].repeat(32, -1)
        held = array[0] * steps
        for position in range(len(rows) - CONTEXT + 2, len(rows)):
            slot = position % RING.shape[2]
            assert (np.abs(held[:, slot] - rows[position, number]) <= 0.501 * steps[:, slot]).all()


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """q [heads, D], k and v [heads, N, D] -> [heads, D], in float64."""
    scores = np.einsum("hd,hnd->hn", q.astype(np.float64), k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return np.einsum("hn,hnd->hd", weights / weights.sum(1, keepdims=True), v)


@pytest.mark.parametrize("name", [native.kernels(), "avx2", "plain"])
@pytest.mark.parametrize("dim", [32, 64, 96, 128])
@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 64, 90])
def test_is_the_attention_of_what_it_holds(monkeypatch, name, dim, count):
    monkeypatch.setenv("CLEARLINE_KERNELS", name)
    rng = np.random.default_rng([dim, count])
    rows = rng.standard_normal((count, 3, 4, dim)).astype(np.float32) * np.geomspace(0.1, 2, dim, dtype=np.float32)
    out, ring = play("int8", rows)
    assert type(ring) is Int8Ring
    held = [
        (array[0] * scale[0].astype(np.float64).repeat(32, -1))[:, :count]
        for array, scale in ((ring.k, ring.k_scale), (ring.v, ring.v_scale))
    ]
    expected = attention(rows[-1, 0], *held)
    # Queries and weights have 16 bits: a hundred times finer than the codes.
    assert np.abs(out[-1] - expected).max() < 2e-4 * np.abs(expected).max()


def test_a_shout_changes_no_other_row(rows):
    loud = rows.copy()
    loud[200] *= 50
    exact, _ = play(None, loud)
    rough, ring = play("int8", loud)
    assert np.abs(rough[200] - exact[200]).max() <= 0.02 * np.abs(exact[200]).max()
    _, quiet = play("int8", rows)
    others = np.delete(np.arange(RING.shape[2]), 200 % RING.shape[2])
    assert (ring.k[:, :, others] == quiet.k[:, :, others]).all()


@pytest.mark.parametrize(("cache", "which"), [(cache, which) for cache in ("int8", None) for which in range(3)])
def test_what_is_not_a_number_shows(rows, cache, which):
    rows[250, which, 1, 3] = np.nan
    out, _ = play(cache, rows)
    assert np.isfinite(out[:250]).all()
    assert np.isfinite(out[250:, 0]).all()
    # A query is gone with its step; keys and values stay. A value spoils those that share its scale.
    spoiled = {0: out[250, 1], 1: out[250:, 1], 2: out[250:, 1, :32] if cache else out[250:, 1, 3]}[which]
    assert np.isnan(spoiled).all()


def test_same_bytes_for_any_thread_count(rows):
    assert play("int8", rows)[0].tobytes() == play("int8", rows, threads=3)[0].tobytes()


def test_short_rings_stay_float32():
    backend = open_backend("onnx", Wanted(cache="int8"))
    assert type(backend.state([StateSpec("ring", "ring", (1, 2, 8, 16))])["ring"]) is OrtRing


def test_head_dimensions_it_cannot_have():
    backend = open_backend("onnx", Wanted(cache="int8"))
    ring = StateSpec("ring", "ring", (1, HEADS, CONTEXT - 1, 12))
    inputs = {name: InputSpec((1, 1, HEADS, 12)) for name in "qkv"} | {"p": InputSpec((1,), True)}
    with pytest.raises(BackendError, match="head dimensions in multiples of 32, not 12"):
        backend.compile(step, {}, [ring], inputs)
