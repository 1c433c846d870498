"""What is PyTorch's own: rings that grow or stay, threads, dtypes, a graph's rules, memory that runs out."""

import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
from helpers.checkpoints import DATA, GREEDY, golden, model, speech

torch = pytest.importorskip("torch")

import clearline  # noqa: E402
from clearline.backends import Wanted, get_backend, torch_devices, torch_run  # noqa: E402
from clearline.backends.torch_devices import memory_bandwidth  # noqa: E402
from clearline.backends.torch_graph import Graphs, clear, donate  # noqa: E402
from clearline.backends.torch_ops import attend, attend_exactly  # noqa: E402
from clearline.backends.torch_ring import TorchRing  # noqa: E402
from clearline.errors import BackendError  # noqa: E402
from clearline.ops import StateSpec  # noqa: E402

SPEC = StateSpec("ring", "ring", (2, 3, 200, 4), 2)
CPU = torch.device("cpu")


def test_a_ring_grows_and_keeps_what_it_holds():
    growing, full = (TorchRing(SPEC, torch.float32, CPU, full) for full in (False, True))
    assert growing.k.shape[2] == 64 and full.k.shape[2] == full.size == 202
    for start in range(0, 150, 2):
        rows = torch.randn(2, 2, 3, 4)
        at = torch.arange(start, start + 2).expand(2, 2)
        for ring in (growing, full):
            ring.reserve(2)
            ring.write(rows, -rows, at)
    full.use(150)
    assert growing.in_use == 202 and full.in_use == 202
    assert torch.equal(growing.k[:, :, :150], full.k[:, :, :150]) and torch.equal(growing.v[:, :, :150], -growing.k[:, :, :150])


@pytest.mark.parametrize(("end", "slots"), [(1, 64), (64, 64), (65, 128), (128, 128), (129, 202), (5000, 202)])
def test_a_full_ring_attends_to_few_slots_while_they_do(end, slots):
    assert TorchRing(SPEC, torch.float32, CPU, full=True).use(end) == slots


def test_the_lengths_are_told_before(monkeypatch):
    ring = TorchRing(SPEC, torch.float32, CPU, full=True)
    assert ring.lengths == [64, 128, 202] and sorted({ring.use(end) for end in range(300)}) == ring.lengths
    small = TorchRing(StateSpec("ring", "ring", (1, 1, 7, 4), 1), torch.float32, CPU, full=True)
    assert small.lengths == [8] and small.use(100) == 8


def test_donated_leaves_change_where_they_lie_and_only_in_lanes_that_take_part():
    old = {"carry": torch.zeros(3, 2), "position": torch.zeros(3, dtype=torch.int64)}
    addresses = {path: leaf.data_ptr() for path, leaf in old.items()}
    donate(old, {path: leaf + 1 for path, leaf in old.items()}, torch.tensor([True, False, True]))
    assert old["carry"].tolist() == [[1, 1], [0, 0], [1, 1]] and old["position"].tolist() == [1, 0, 1]
    assert {path: leaf.data_ptr() for path, leaf in old.items()} == addresses


def test_clearing_a_lane_leaves_the_others():
    state = {"carry": torch.ones(2, 2), "ring": TorchRing(SPEC, torch.float32, CPU, full=True)}
    state["ring"].kv += 1
    clear(state, 0)
    assert state["carry"].tolist() == [[0, 0], [1, 1]]
    assert not state["ring"].k[0].any() and not state["ring"].v[0].any() and state["ring"].k[1].all() and state["ring"].v[1].all()


class FakeCuda:
    """The part of `torch.cuda` that a capture uses, with a graph that is the function itself."""

    def __init__(self):
        self.captured = 0
        self.streams = []

    def __call__(self, monkeypatch):
        fake = self

        class Stream:
            def __init__(self, device=None):
                self.device = device

            def wait_stream(self, other): ...

        class Graph:
            def pool(self):
                return "pool"

            def replay(self):
                fake.replayed(self)

        def graph(which, pool=None, stream=None, capture_error_mode=""):
            fake.captured += 1
            fake.streams.append(stream)
            return nullcontext()

        for name, value in {
            "Stream": Stream, "current_stream": Stream, "stream": lambda s: nullcontext(), "CUDAGraph": Graph, "graph": graph,
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)


def test_a_capture_runs_with_nobody_active_and_happens_once(monkeypatch):
    """On a stand-in for CUDA: what is captured, when, and that warming up changes no lane."""
    fake = FakeCuda()
    fake(monkeypatch)
    active, state, seen = torch.tensor([True, False]), torch.zeros(2), []

    def step():
        seen.append(active.tolist())
        graphs.beside(lambda: beside.append(len(seen)))()
        state.copy_(torch.where(active, state + 1, state))
        return state

    replays, beside = [], []
    fake.replayed = lambda graph: replays.append(active.tolist())
    graphs = Graphs(torch.device("cuda:1"), active)
    for _ in range(3):
        assert graphs.run("a", step) is state
    graphs.run("b", step)
    assert fake.captured == 2 and len(replays) == 4
    # PyTorch's own stream for captures is that of the first card it captured on.
    assert {stream.device for stream in fake.streams} == {torch.device("cuda:1")}
    assert beside == list(range(1, len(seen) + 1))
    assert all(lanes == [False, False] for lanes in seen) and not state.any()
    assert active.tolist() == [True, False] and replays[0] == [True, False]


def test_what_is_compiled_is_so_before_it_is_captured_and_beside_nothing(monkeypatch):
    fake = FakeCuda()
    fake(monkeypatch)
    fake.replayed = lambda graph: None
    active, order = torch.tensor([True]), []

    def compile(function, **options):
        def fast(nothing):
            order.append(("compiled", bool(active), fake.captured))
            return function(nothing)

        return fast

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(torch.cuda, "stream", lambda s: order.append("stream") or nullcontext())
    graphs = Graphs(torch.device("cuda"), active, compiles=True)

    def step():
        graphs.beside(lambda: order.append("noise"))()

    graphs.run("a", step)
    graphs.run("a", step)
    # As it is, followed, compiled, twice to warm up on a stream of its own, and captured: always with nobody active.
    once = ("compiled", False, 0)
    assert order == ["noise", "noise", once, "stream", once, once, ("compiled", False, 1)]
    assert fake.captured == 1 and active.all()


def test_a_capture_that_fails_is_told_as_it_failed_and_leaves_the_lanes_as_they_were(monkeypatch):
    """Out of memory beside another stream: a capture with a stream that nobody waits for ends with an error of its own."""
    fake, waits = FakeCuda(), []
    fake(monkeypatch)
    monkeypatch.setattr(torch.cuda.Stream, "wait_stream", lambda self, other: waits.append((self, other)))
    active = torch.tensor([True])
    graphs = Graphs(torch.device("cuda"), active)

    def step():
        graphs.beside(lambda: None)
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        graphs.run("a", step)
    assert waits[-1][1] is graphs._side and active.all()


def test_on_a_card_float32_is_float32_and_the_card_has_a_number(monkeypatch):
    """Some environments, and some programs, have asked for TF32; "cuda" is another card where a thread has chosen one."""
    monkeypatch.setattr(torch_run, "checked_device", torch.device)
    try:
        for name, number in (("cuda", 0), ("cuda:1", 1)):
            torch.set_float32_matmul_precision("high")
            backend = torch_run.make(Wanted(device=name))
            assert torch.get_float32_matmul_precision() == "highest"
            assert backend.device == name and backend.weights.device == torch.device("cuda", number)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_card_is_not_in_inference_mode_and_the_cpu_is(monkeypatch):
    """Graphs captured in it would keep others of the process from being captured."""
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    for device, inference in (("cuda", False), ("cpu", True)):
        with torch_run.Torch(torch.device(device), torch.float32).running():
            assert torch.is_inference_mode_enabled() is inference and not torch.is_grad_enabled()


def test_memory_that_pytorch_keeps_for_later_is_free(monkeypatch):
    """A batch that is gone makes room for the next one, though the card has not got its memory back."""
    figures = {"mem_get_info": (10, 100), "memory_reserved": 50, "memory_allocated": 30}
    for name, figure in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, figure=figure: figure)
    assert torch_devices.free_memory(torch.device("cuda")) == 10 + 50 - 30 and torch_devices.free_memory(CPU) is None


def test_of_several_threads_one_captures(monkeypatch):
    fake, inside, most = FakeCuda(), [], []
    fake(monkeypatch)
    fake.replayed = lambda graph: None
    both = [Graphs(torch.device("cuda"), torch.tensor([True])) for _ in range(2)]

    def step():
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()

    threads = [threading.Thread(target=graphs.run, args=("a", step)) for graphs in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 6 and set(most) == {1}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_fused_attention_of_cuda_and_the_formula_of_the_cpu(dtype, tolerance, rows):
    q, k, v = (torch.randn(2, 4, n, 16, dtype=dtype) for n in (rows, 50, 50))
    hidden = torch.rand(2, 1, rows, 50) < 0.5
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, -torch.inf)
    fused, formula = attend(q, k, v, mask), attend_exactly(q, k, v, mask)
    assert fused.dtype == formula.dtype == dtype
    assert (fused - formula).abs().max() <= tolerance


@pytest.mark.parametrize("threads", [2, 3])
def test_thread_counts_do_not_change_a_token(threads):
    """PyTorch's libraries do not promise that the bits of long sums stay: tokens have to."""
    before = torch.get_num_threads()
    try:
        models = [clearline.load(DATA / "moshi_d1", backend="torch", threads=n) for n in (1, threads)]
        replies = []
        for n, loaded in zip((1, threads), models, strict=True):
            torch.set_num_threads(n)
            replies.append(loaded.run(speech(10), 24_000, seed=5, tail=0))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(replies[0].codes_out, replies[1].codes_out)
    np.testing.assert_array_equal(replies[0].text_tokens, replies[1].text_tokens)
    np.testing.assert_allclose(replies[0].pcm, replies[1].pcm, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near_and_leaves_the_codec_in_float32(dtype):
    half, whole = clearline.load(DATA / "moshi_d1", backend="torch", dtype=dtype), model("moshi_d1", "torch")
    assert (half.backend.dtype, half.mimi.backend.dtype) == (dtype, "float32")
    g = golden("moshi_d1")
    np.testing.assert_array_equal(half.mimi.encode(g["pcm"]), whole.mimi.encode(g["pcm"]))
    generators = [m.generator(GREEDY) for m in (half, whole)]
    for t, codes in enumerate(g["forced_user_codes"][:40]):
        a, b = (gen.step(codes, int(g["forced_text"][t]), g["forced_audio"][t]) for gen in generators)
        scale = np.abs(b.text_logits).max()
        assert a.text_logits.dtype == np.float32
        assert 0 < np.abs(a.text_logits - b.text_logits).max() <= (0.05 if dtype == "bfloat16" else 0.006) * scale


def test_weights_are_there_when_a_model_is_loaded_not_at_its_first_frame():
    loaded = clearline.load(DATA / "moshi_d1", backend="torch")
    held = loaded.backend.weights.bytes
    assert held >= 0.9 * sum(weight.data.size * 4 for weight in loaded.programs.weights.values())
    loaded.generator(GREEDY).step(np.zeros(8, np.int64))
    assert loaded.backend.weights.bytes == held


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has"),
            r"cpu is out of memory .* 2\.50 GiB more",
        ),
        (
            RuntimeError("MPS backend out of memory (MPS allocated: 9 GB). Tried to allocate 1 GB"),
            r"out of memory .* 1 GB more .* q8 or q4",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
            r"99 bytes more",
        ),
        (
            RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors"),
            r"cpu failed \(CUDA error: .*driver",
        ),
    ],
)
def test_a_device_that_fails_says_what_to_do(error, message):
    with pytest.raises(BackendError, match=message), get_backend("torch").running():
        raise error


def test_other_errors_are_not_dressed_up():
    with pytest.raises(RuntimeError, match="shapes"), get_backend("torch").running():
        raise RuntimeError("shapes do not match")


def test_the_bandwidth_of_a_card_is_that_of_copies(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert memory_bandwidth(CPU) is None  # whose memory is everybody's
    monkeypatch.setattr(torch_devices, "free_memory", lambda device: 1 << 24)
    ticks = iter(range(100))
    monkeypatch.setattr(torch_devices.time, "perf_counter", lambda: next(ticks))
    assert memory_bandwidth(CPU) == 2 * (1 << 22) / 1e9  # a quarter of what is free, in a second
