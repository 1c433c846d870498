"""The MLX backend where the common tests do not look: packed weights as they are, rings in place, batch-mates."""

import ml_dtypes
import numpy as np
import pytest
from helpers.one_op import FLOAT32, check

mx = pytest.importorskip("mlx.core")

from helpers.mlx_steps import attention, mlx_weight, run_once  # noqa: E402

from clearline.backends import get_backend  # noqa: E402
from clearline.backends.mlx_run import Mlx  # noqa: E402
from clearline.backends.mlx_weights import MlxWeights  # noqa: E402
from clearline.backends.selftest import cases, measure  # noqa: E402
from clearline.ops import Weight  # noqa: E402
from clearline.ops.weight import quantise  # noqa: E402

# -- quantised weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_mlx_own_weights_are_used_as_they_are(draw, bits, group):
    """Not one bit changes on the way, and the product is MLX's own."""
    weight, parts = mlx_weight(draw, bits, group)
    backend = Mlx()
    packed = backend.weights.packed(weight)
    assert (packed.bits, packed.group) == (bits, group)
    for ours, theirs in zip(packed.arrays, parts, strict=True):
        assert ours.dtype == theirs.dtype and mx.array_equal(ours, theirs).item()
    x = draw(3, 128)
    y = run_once(backend, lambda ops, w, i: ops.linear(i["x"], w["w"]), {"w": weight}, x=x)
    own = mx.quantized_matmul(mx.array(x.astype(np.float32)), *parts, transpose=True, group_size=group, bits=bits)
    np.testing.assert_array_equal(y, np.array(own))
    check("mlx", y, x @ weight.dense(np.float64).T)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64, 256])
def test_symmetric_groups_keep_their_values(draw, bits, group):
    """GGUF's and our own: the offset -2^(bits-1) scale is exact, and a group of 256 is two of 128."""
    weight = quantise(Weight("w", draw(16, 512).astype(np.float32)), bits, group, np.float16)
    packed = Mlx().weights.packed(weight)
    values = mx.dequantize(*packed.arrays, group_size=packed.group, bits=packed.bits)
    assert np.abs(np.array(values) - weight.dense(np.float32)).max() <= 1e-6 * np.abs(weight.dense(np.float32)).max()
    scale, bias = (np.array(part) for part in packed.arrays[1:])
    np.testing.assert_array_equal(np.repeat(weight.scale, group // packed.group, 1), scale)
    np.testing.assert_array_equal(-scale * weight.zero, bias)


def test_groups_that_mlx_does_not_have_are_dequantised(draw):
    weight = quantise(Weight("w", draw(8, 64).astype(np.float32)), 8, 16)
    assert Mlx().weights.packed(weight) is None
    x = draw(2, 64)
    y = run_once(Mlx(), lambda ops, w, i: ops.linear(i["x"], w["w"]), {"w": weight}, x=x)
    check("mlx", y, x @ weight.dense(np.float64).T)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_embeddings(draw, bits):
    """MLX checkpoints quantise their tables too: rows are looked up packed, and -1 is exactly nothing."""
    weight, _ = mlx_weight(draw, bits, 32)
    ids = np.array([[3, -1], [23, 0]])
    y = run_once(Mlx(), lambda ops, w, i: ops.embed(i["ids"], w["w"]), {"w": weight}, ids=ids)
    assert not y[0, 1].any()
    check("mlx", y, np.where(ids[..., None] < 0, 0, weight.dense(np.float64)[ids]))


@pytest.mark.parametrize(("kind", "stays"), [(np.float16, True), (np.float32, False)])
def test_on_a_gpu_scales_are_narrow_only_where_nothing_is_lost(draw, kind, stays):
    weight = quantise(Weight("w", draw(8, 64).astype(np.float32)), 8, 32, kind)
    packed = MlxWeights(mx.float16, cpu=False).packed(weight)
    assert all((part.dtype == mx.float16) == stays for part in packed.arrays[1:])
    np.testing.assert_array_equal(np.array(packed.arrays[1].astype(mx.float32)), weight.scale)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_products_are_summed_in_float32(draw, dtype):
    """MLX's CPU sums quantised products in the type it is given: over 4096 values bfloat16 would be far off."""
    kind = np.float16 if dtype == "float16" else ml_dtypes.bfloat16
    weight = quantise(Weight("w", np.abs(draw(4, 4096)).astype(np.float32)), 4, 32, kind)  # scales that the type holds
    x = np.ones((1, 4096))
    y = run_once(Mlx(dtype=dtype), lambda ops, w, i: ops.linear(i["x"], w["w"]), {"w": weight}, x=x)
    expected = x @ weight.dense(np.float64).T
    assert np.abs(y / expected - 1).max() < 2.0 ** (-8 if dtype == "bfloat16" else -11)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("number", range(len(cases())))
def test_every_operation_in_half_precision(dtype, number):
    found = measure(cases()[number], get_backend(f"mlx/cpu/{dtype}"))
    assert found.passed, found


# -- the ring ----------------------------------------------------------------------------------------


def turned(x: np.ndarray, position: np.ndarray) -> np.ndarray:
    """x [n, dim] rotated to its positions, in float64 with float32 angles."""
    dim = x.shape[1]
    frequency = np.exp(np.arange(dim // 2, dtype=np.float32) * np.float32(-np.log(10_000.0) * 2 / dim))
    angle = (position[:, None].astype(np.float32) * frequency).astype(np.float64)
    pairs = (x[:, 0::2] + 1j * x[:, 1::2]) * np.exp(1j * angle)
    return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)


def test_right_past_4096_frames(draw):
    """Where moshi_mlx garbles: its ring of 4096 is read as if the newest keys came last (oracle/mlx_past_the_wrap.py)."""
    context, dim, steps = 3000, 8, 4400
    program, fresh = attention(get_backend("mlx/cpu"), 1, 1, dim, context)
    state = fresh()
    q, k, v = (draw(steps, dim) for _ in "qkv")
    keys = turned(2 * k, np.arange(steps))
    for t in range(steps):
        given = {name: x[t].reshape(1, 1, 1, dim) for name, x in (("q", 2 * q), ("k", 2 * k), ("v", v))}
        y = program.run(state, given | {"p": np.array([t])})["y"]
        if t % 97 == 0 or t in (2999, 3000, 4095, 4096, 4097) or t == steps - 1:
            seen = slice(max(0, t + 1 - context), t + 1)
            scores = keys[seen] @ turned(2 * q[t : t + 1], np.array([t]))[0] / np.sqrt(dim)
            weights = np.exp(scores - scores.max())
            assert np.abs(y.reshape(dim) - weights @ v[seen] / weights.sum()).max() < 5e-5, t
    assert state["ring"].slots == context, "the ring holds the window and not a slot more"


def test_rings_are_written_in_place(draw):
    """A step must not copy the cache: 32 MB here, gigabytes in a large model."""
    backend = get_backend("mlx/cpu")
    program, fresh = attention(backend, 1, 8, 128, 4096)
    state = fresh()
    backend.alone(lambda: state["ring"].reserve(4096))
    size = 2 * 4 * 4096 * 8 * 128
    given = {name: draw(1, 1, 8, 128) for name in "qkv"}
    program.run(state, given | {"p": np.array([4000])})
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    program.run(state, given | {"p": np.array([4001])})
    assert mx.get_peak_memory() - held < size / 4


@pytest.mark.parametrize("rows", [1, 2])
def test_batch_mates_change_nothing(draw, rows):
    """Bit for bit the same whoever shares the batch, at whatever positions they are; and what it is alone."""
    context, heads, dim = 6, 2, 8
    backend = get_backend("mlx/cpu")
    program, fresh = attention(backend, 3, heads, dim, context, rows)
    single, alone = attention(backend, 1, heads, dim, context, rows)
    one, other, lone = fresh(), fresh(), alone()
    for n in range(12):
        mine = {name: draw(1, rows, heads, dim) for name in "qkv"}
        at = n * rows

        def among(shift: int, mine=mine, at=at) -> dict[str, np.ndarray]:
            mates = {name: np.concatenate([draw(1, rows, heads, dim), x, draw(1, rows, heads, dim)]) for name, x in mine.items()}
            return mates | {"p": np.array([at + shift, at, at + 2 * shift])}

        first = program.run(one, among(0))["y"][1]
        second = program.run(other, among(4 * rows))["y"][1]
        np.testing.assert_array_equal(first, second)
        check("mlx", first[None], single.run(lone, mine | {"p": np.array([at])})["y"], FLOAT32)
