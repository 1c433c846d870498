"""MLX's one thread, what is compiled in it and when, and sessions that share it."""

import shutil
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from helpers.checkpoints import DATA, model, speech
from helpers.one_op import FLOAT32, check

mx = pytest.importorskip("mlx.core")

from helpers.mlx_steps import attention, mlx_weight, run_once  # noqa: E402

import clearline  # noqa: E402
from clearline.backends import get_backend, mlx_thread  # noqa: E402
from clearline.backends.mlx_devices import gpu  # noqa: E402
from clearline.backends.mlx_ops import MlxOps  # noqa: E402
from clearline.backends.mlx_run import Mlx, _MlxProgram  # noqa: E402
from clearline.config import Sampling  # noqa: E402
from clearline.generate.guess import WholeStep  # noqa: E402
from clearline.ops import InputSpec, Weight  # noqa: E402


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


def test_who_stops_waiting_takes_back_what_has_not_begun(monkeypatch):
    """Ctrl-C, while the thread works for somebody else."""
    backend, held, done = Mlx(), threading.Event(), []
    other = threading.Thread(target=backend.alone, args=(held.wait,))
    other.start()

    class Interrupted(Future):
        def result(self, timeout=None):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlx_thread, "Future", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            backend.alone(lambda: done.append("begun all the same"))
    held.set()
    other.join()
    assert backend.alone(lambda: "next") == "next" and not done


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
