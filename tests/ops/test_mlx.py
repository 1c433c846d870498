"""The MLX backend where the common tests do not look: packed weights as they are, rings in place, batch-mates, threads, devices."""

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from helpers.checkpoints import DATA, model, speech
from helpers.one_op import FLOAT32, check

mx = pytest.importorskip("mlx.core")

import clearline  # noqa: E402
from clearline.backends import get_backend  # noqa: E402
from clearline.backends.mlx_devices import gpu  # noqa: E402
from clearline.backends.mlx_ops import MlxOps  # noqa: E402
from clearline.backends.mlx_run import Mlx, _MlxProgram  # noqa: E402
from clearline.backends.mlx_weights import MlxWeights  # noqa: E402
from clearline.backends.selftest import cases, measure  # noqa: E402
from clearline.config import Sampling  # noqa: E402
from clearline.errors import BackendError  # noqa: E402
from clearline.generate.guess import WholeStep  # noqa: E402
from clearline.ops import InputSpec, StateSpec, Weight  # noqa: E402
from clearline.ops.weight import quantise  # noqa: E402


def run_once(backend, operation, weights, **inputs):
    specs = {name: InputSpec(x.shape, x.dtype.kind == "i") for name, x in inputs.items()}
    program = backend.compile(lambda ops, w, s, i: {"y": operation(ops, w, i)}, weights, [], specs)
    return program.run({}, inputs)["y"]


# -- quantised weights -------------------------------------------------------------------------------


def mlx_weight(draw, bits: int, group: int, out: int = 24, width: int = 128) -> tuple[Weight, list]:
    """A matrix as `mx.quantize` packs it, as the checkpoint reader hands it on, and MLX's own three arrays."""
    parts = mx.quantize(mx.array(draw(out, width).astype(np.float32)), group_size=group, bits=bits)
    codes, scales, biases = (np.array(part) for part in parts)
    return Weight("w", codes.view(np.uint8), scales, bits, group, biases), list(parts)


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


def attention(backend, batch, heads, dim, context, rows=1):
    """A program that rotates and attends, as a layer does, and what makes its state."""
    spec = StateSpec("ring", "ring", (batch, heads, context - rows, dim), rows)

    def step(ops, w, s, i):
        q, k = (ops.rope(i[name], i["p"], 10_000.0, "interleaved") for name in "qk")
        y, new = ops.ring_attend(q, k, i["v"], s.take("ring"), i["p"], context, rows)
        s.put("ring", new)
        return {"y": y}

    shape = (batch, rows, heads, dim)
    inputs = {"q": InputSpec(shape), "k": InputSpec(shape), "v": InputSpec(shape), "p": InputSpec((batch,), ids=True)}
    return backend.compile(step, {}, [spec], inputs), lambda: backend.state([spec])


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


# -- compiling, threads, devices ---------------------------------------------------------------------


@pytest.mark.skipif(gpu()[1] != "" and shutil.which("g++") is None, reason="on a CPU mx.compile needs g++")
def test_compiled_is_the_same(draw):
    """`mx.compile`, which a GPU uses: through every growth of the ring and its wrap, and on leaves that come from NumPy."""
    context, heads, dim = 130, 2, 8
    plain, fresh = attention(Mlx(compiled=False), 1, heads, dim, context)
    fused, fresh_fused = attention(Mlx(compiled=True), 1, heads, dim, context)
    states = fresh(), fresh_fused()
    for t in range(2 * context):
        given = {name: draw(1, 1, heads, dim) for name in "qkv"} | {"p": np.array([t])}
        a, b = (program.run(state, given)["y"] for program, state in zip((plain, fused), states, strict=True))
        check("mlx", b, a, FLOAT32)


@pytest.mark.skipif(gpu()[1] != "" and shutil.which("g++") is None, reason="on a CPU mx.compile needs g++")
def test_what_is_prepared_is_not_traced_again_however_long_the_past_becomes(draw, monkeypatch):
    backend, context = Mlx(compiled=True), 200
    program, fresh = attention(backend, 1, 2, 8, context)
    traced = []
    honest = MlxOps.ring_attend
    monkeypatch.setattr(MlxOps, "ring_attend", lambda self, *given: traced.append(given[3].k.shape[2]) or honest(self, *given))
    program.prepare()
    assert traced == [64, 128, 200]
    state = fresh()
    for t in range(context + 20):
        program.run(state, {name: draw(1, 1, 2, 8) for name in "qkv"} | {"p": np.array([t])})
    assert len(traced) == 3 and state["ring"].slots == 200


@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_that_replaces_another_is_itself_in_every_thread(compiled):
    """Compiled steps are found by an address, which a later program may get; MLX forgets them in one thread only."""
    threads = [ThreadPoolExecutor(1) for _ in range(2)]
    for value in range(20):
        weights = {"w": Weight("w", np.full((4, 4), value, np.float32))}
        given = {"x": np.ones((1, 4), np.float32)}
        backend = Mlx(compiled=compiled)
        step = lambda ops, w, s, i: {"y": ops.linear(i["x"], w["w"])}  # noqa: E731
        program = backend.compile(step, weights, [], {"x": InputSpec((1, 4))})
        for thread in threads:
            assert thread.submit(program.run, {}, given).result()["y"].tolist() == [[4.0 * value] * 4]
        program._call = None  # which holds it in a circle
        del program, backend


def test_sessions_may_be_stepped_when_the_main_thread_has_ended():
    """And in what runs at the end of a program: the thread that works for them is there as long as anybody is."""
    program = """
import atexit, threading, numpy as np, clearline
session = clearline.load({folder!r}, backend="mlx/cpu").session(seed=1)
frame = np.zeros(1920, np.float32)
def go():
    threading.main_thread().join()
    print(len([session.step(frame) for _ in range(4)]), flush=True)
atexit.register(lambda: print(session.step(frame) is not None))
threading.Thread(target=go).start()
"""
    code = program.format(folder=str(DATA / "moshi_d1"))
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stdout) == (0, "4\nTrue\n"), found.stderr


def test_what_a_step_raises_belongs_to_who_waits_for_it():
    def fails():
        raise KeyError("mine")

    backend = Mlx()
    with pytest.raises(KeyError, match="mine"):
        backend.alone(fails)
    assert backend.alone(lambda: backend.alone(lambda: threading.current_thread().name)) == "mlx"


@pytest.mark.parametrize("case", ["moshi_d1", "formats/hibiki"])
def test_a_conversation_is_prepared_in_all_its_programs(case, monkeypatch):
    """With guidance they are others: two models step by step."""
    loaded, prepared, parts = clearline.load(DATA / case, backend="mlx/cpu"), [], []
    guided = loaded.checkpoint.config.conditioner is not None
    settings = {"guidance": 3.0} if guided else {}
    monkeypatch.setattr("clearline.backends.mlx_run._MlxProgram.prepare", lambda self: prepared.append(self))
    loaded.prepare(live=True, **settings)
    assert not prepared  # on the CPU nothing is compiled
    monkeypatch.setattr(loaded.backend, "compiled", True)
    loaded.prepare(**settings)
    assert not prepared
    loaded.prepare(live=True, on_part=lambda done, total: parts.append((done, total)), **settings)
    used, honest = [], _MlxProgram.later
    monkeypatch.setattr(
        "clearline.backends.mlx_run._MlxProgram.later", lambda self, *given: used.append(self) or honest(self, *given)
    )
    with loaded.session(seed=1, **settings) as session:
        for _ in range(4):
            session.step(np.zeros(1920, np.float32))
    assert used and set(used) <= set(prepared) and parts[-1] == (len(prepared) - 1, len(prepared))


def test_weights_are_there_when_a_model_is_loaded():
    loaded = clearline.load(DATA / "moshi_d1", backend="mlx/cpu")
    held = set(loaded.backend.weights._made)
    with loaded.session(seed=1) as session:
        session.step(np.zeros(1920, np.float32))
    lm = {id(weight) for weight in loaded.programs.weights.values()}
    assert held and {key for key in loaded.backend.weights._made if key[0] in lm} <= held


def test_noise_keeps_its_digits_where_activations_do_not():
    """A guess of bfloat16 noise would be wrong too often."""
    value = np.float32(1 + 2**-20)
    for wide, kept in ((True, value), (False, np.float32(1))):
        spec = {"x": InputSpec((1,), wide=wide)}
        program = Mlx(dtype="bfloat16").compile(lambda ops, w, s, i: {"y": i["x"]}, {}, [], spec)
        assert program.run({}, {"x": np.array([value])})["y"] == kept
    whole = WholeStep(model("moshi_d1", "mlx/cpu").config, Sampling(), Sampling())
    assert {name for name, spec in whole.inputs().items() if spec.wide} == {"text_noise", "audio_noise"}


def test_weights_are_made_while_a_step_is_traced(draw, monkeypatch):
    """Laid out at first use, which for a compiled step is in the middle of its trace: packed, table, taps and all."""
    packed, _ = mlx_weight(draw, 4, 32)
    weights = {"w": packed, "c": Weight("c", draw(5, 24, 3).astype(np.float32))}

    def operation(ops, w, i):
        y = ops.conv1d(ops.linear(ops.embed(i["ids"], w["w"]), w["w"]), w["c"], 1)
        return ops.nearest_code(y, w["c2"])

    weights["c2"] = Weight("c2", draw(7, 5).astype(np.float32))
    ids = np.array([[3, 9, -1, 0, 23]])
    # Not by `compile`, which has it done before.
    with monkeypatch.context() as patch:
        patch.setattr("clearline.backends.mlx_run._MlxProgram.lay_out", lambda self: None)
        found = [run_once(Mlx(compiled=compiled), operation, weights, ids=ids) for compiled in (False, True)]
    np.testing.assert_array_equal(*found)


def test_threads_may_share_a_backend(draw):
    """As the sessions of a batch do: each gives what it gives alone."""
    program, fresh = attention(get_backend("mlx/cpu"), 1, 2, 8, 20)
    given = [{name: draw(1, 1, 2, 8) for name in "qkv"} | {"p": np.array([t])} for t in range(30)]

    def outputs() -> list[np.ndarray]:
        state = fresh()
        return [program.run(state, step)["y"] for step in given]

    expected, found = outputs(), {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: outputs()})) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(3):
        np.testing.assert_array_equal(found[i], expected)


def test_a_batch_of_sessions_is_each_of_them_alone():
    """Stepped on two threads at once, sampled, with the codec: bit for bit."""
    loaded = model("moshi_d1", "mlx/cpu")
    pcm = speech(12).reshape(12, -1)
    with loaded.batch([1, 2], workers=2) as batch:
        together = [batch.step(np.stack([frame, frame[::-1]])) for frame in pcm]
    for i, seed in enumerate((1, 2)):
        with loaded.session(seed=seed) as session:
            for frame, both in zip(pcm, together, strict=True):
                alone, found = session.step(frame[:: -1 if i else 1]), both[i]
                assert alone.text_token == found.text_token
                assert (alone.pcm is None and found.pcm is None) or np.array_equal(alone.pcm, found.pcm)


@pytest.mark.skipif(not gpu()[1], reason="this MLX has a GPU")
class TestWithoutGpu:
    def test_a_version_that_computes_wrong_numbers_is_refused(self, monkeypatch):
        from clearline.backends import mlx_devices

        for found, refused in (("0.31.2", True), ("0.32.0", True), ("0.32.1", False), ("0.33.0.dev2026", False), ("1.0", False)):
            monkeypatch.setattr(mlx_devices, "version", lambda name, found=found: found)
            assert bool(mlx_devices.devices()[1].fault) is refused
            if refused:
                with pytest.raises(BackendError, match=rf"MLX {found} is too old, .*; pip install 'mlx>=0.32.1'"):
                    get_backend("mlx/cpu")

    def test_the_gpu_is_refused_with_the_reason(self):
        name, fault = gpu()
        with pytest.raises(BackendError, match=f"device {name} cannot be used: this MLX") as told:
            get_backend("mlx", device=name)
        assert fault in str(told.value) and "--device cpu" in str(told.value)

    def test_the_cpu_is_taken_and_the_reason_said(self, caplog):
        from clearline.backends import mlx_run

        mlx_run._say_once.cache_clear()
        assert get_backend("mlx").device == "cpu"
        assert "mlx runs on the CPU: this MLX" in caplog.text

    def test_nothing_is_said_when_the_cpu_was_asked_for(self, caplog):
        from clearline.backends import mlx_run

        mlx_run._say_once.cache_clear()
        assert get_backend("mlx", device="cpu").device == "cpu" and not caplog.text

    def test_a_gpu_that_is_found_and_does_not_start_is_refused(self, monkeypatch):
        from clearline.backends import mlx_devices

        mlx_devices._start_fault.cache_clear()
        monkeypatch.setattr(mlx_devices.mx.metal, "is_available", lambda: True)  # this build has nothing to start
        with pytest.raises(BackendError, match="device metal cannot be used: the GPU that MLX finds does not start"):
            get_backend("mlx", device="metal")
        assert get_backend("mlx").device == "cpu" and mlx_devices.devices()[0].fault.endswith("without gpu backend")


@pytest.mark.skipif(gpu()[0] == "metal", reason="this is a Mac")
def test_metal_is_a_macs():
    with pytest.raises(BackendError, match="device metal cannot be used: Metal needs a Mac"):
        get_backend("mlx", device="metal")


@pytest.mark.parametrize(("device", "dtype", "message"), [("cuda:7", None, "no device 'cuda:7'"), ("cpu", "float64", "float64")])
def test_what_mlx_does_not_have(device, dtype, message):
    with pytest.raises(BackendError, match=message):
        get_backend("mlx", device=device, dtype=dtype)


def test_full_float32_unless_told_otherwise():
    """MLX multiplies float32 in TF32 on GPUs that can; the variable is read at the first product."""
    import os

    assert os.environ["MLX_ENABLE_TF32"] == "0"


def test_out_of_memory_is_told_with_what_to_do():
    def fails(text):
        raise RuntimeError(text)

    backend = Mlx()
    for text in (
        "[metal::malloc] Attempting to allocate 99 bytes which is greater than the maximum",
        "[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
    ):
        with pytest.raises(BackendError, match=r"cpu is out of memory with \d+\.\d GB .*--quantize"):
            backend.alone(lambda text=text: fails(text))
    with pytest.raises(RuntimeError, match="something else"):
        backend.alone(lambda: fails("something else"))
