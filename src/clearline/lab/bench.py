"""How fast is this model on this machine, where does the time go, and how far is that from what memory allows?"""

import copy
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from clearline.app import Model
from clearline.generate import Codec, Session
from clearline.generate.codec import Kind, Window
from clearline.ops import Leaf, Program, Weight, lazy

FRAME_MS = 80.0
PARTS = ("encode", "temporal", "depformer", "decode")
# Bytes of a value as it is kept; what is in whole numbers comes with a float32 scale for every 32.
_KEPT = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int16": 2 + 4 / 32, "int8": 1 + 4 / 32}


@dataclass(frozen=True)
class BenchReport:
    """Milliseconds a frame (medians), by part; gigabytes a frame must read, and GB/s the memory can that it is read
    from (NaN: nobody says).

    `overhead` is everything that is not inside a backend: sampling, alignment, Python. Where a frame is computed
    in one go (mlx; torch on CUDA or compiled) there are no parts to tell: `parts` is then empty and `overhead` None.
    """

    parts: dict[str, float]
    overhead: float | None
    frame: float
    p99: float
    frames: int
    bandwidth: float
    gigabytes: float

    @property
    def fraction_of_limit(self) -> float:
        """Share of the time that reading the bytes once at full bandwidth would take; NaN where that is not known."""
        return self.gigabytes / self.bandwidth * 1e3 / self.frame

    @property
    def speed(self) -> float:
        """Multiple of real time."""
        return FRAME_MS / self.frame

    @property
    def verdict(self) -> str:
        if self.p99 <= FRAME_MS:
            return f"real time with {self.speed:.1f}x to spare"
        if self.frame <= FRAME_MS:
            return f"real time on average ({self.speed:.1f}x), but 1 frame in 100 takes {self.p99:.0f} ms: expect dropouts"
        return f"too slow for conversation: a frame of 80 ms takes {self.frame:.0f} ms ({self.speed:.2f}x real time)"


def bench(model: Model, frames: int = 100, threads: int = 2, on_frame: Callable[[int, int], None] | None = None) -> BenchReport:
    """Step a session of `model` on noise for `frames` frames after a warm-up, and time every part."""
    clock: dict[str, float] = defaultdict(float)
    codec, programs, config = model.mimi, model.programs, model.generation()
    whole = lazy(model.backend) is not None or model.in_lanes(config)
    if not whole:
        codec, programs = _TimedCodec(codec, clock), copy.copy(programs)
        programs.temporal = _Timed(programs.temporal, "temporal", clock)
        programs.depth = [_Timed(program, "depformer", clock) for program in programs.depth]
    pcm = (np.random.default_rng(0).standard_normal((frames + 5, model.mimi.frame_size)) * 0.05).astype(np.float32)
    rows: list[dict[str, float]] = []
    totals: list[float] = []
    with model.session(config) if whole else Session(codec, programs, model.tokenizer, config) as session:
        for number, samples in enumerate(pcm):
            clock.clear()
            start = time.perf_counter()
            session.step(samples)
            total = (time.perf_counter() - start) * 1e3
            if number >= 5:
                rows.append({part: clock[part] * 1e3 for part in PARTS})
                totals.append(total)
            if on_frame is not None:
                on_frame(number, len(pcm))
    parts = {} if whole else {part: float(np.median([row[part] for row in rows])) for part in PARTS}
    overhead = None if whole else float(np.median([total - sum(row.values()) for row, total in zip(rows, totals, strict=True)]))
    return BenchReport(
        parts, overhead, float(np.median(totals)), float(np.percentile(totals, 99)), frames,
        _bandwidth(model, threads), frame_bytes(model, frames) / 1e9,
    )  # fmt: skip


def _bandwidth(model: Model, threads: int) -> float:
    """GB/s of the memory the model lies in: this machine's, or its device's own."""
    if model.backend.device == "cpu":
        return read_bandwidth(threads)
    found = getattr(model.backend, "bandwidth", lambda: None)()
    return math.nan if found is None else float(found)


def frame_bytes(model: Model, filled: int) -> int:
    """Bytes a frame cannot avoid reading: every matrix once, and the keys and values of `filled` positions."""
    cfg = model.config.transformer
    own = model.backend.dtype
    cached, dense, codec = (
        _KEPT[kept] for kept in (model.cache or own, model.weights or own, model.weights or model.mimi.backend.dtype)
    )
    cache = 2 * cached * cfg.num_kv_heads * cfg.head_dim * min(filled, cfg.context) * cfg.num_layers
    return int(matrix_bytes(model.programs.weights, dense) + matrix_bytes(model.mimi.weights, codec) + cache)


def matrix_bytes(weights: Mapping[str, Weight], dense: float = 4) -> int:
    """Bytes of the matrices as they are kept, `dense` a value where they are not quantised; embedding tables are left out, since
    a step reads single rows of them."""
    total = 0.0
    for name, weight in weights.items():
        if len(weight.shape) >= 2 and not any("emb" in part and "embedding" not in part for part in name.split(".")):
            total += weight.nbytes if weight.bits else weight.data.size * dense
    return int(total)


class Bandwidth:
    """DRAM read bandwidth: dot products over arrays far larger than the caches, a round at a time.

    On a shared machine it changes from minute to minute: rounds between the steps that are compared with it tell more than
    the best of some rounds before them.
    """

    def __init__(self, threads: int = 2, megabytes: int = 512) -> None:
        self._arrays = [np.ones(megabytes * 250_000 // threads, np.float32) for _ in range(threads)]
        self.rounds: list[float] = []  # GB/s

    def measure(self) -> float:
        """One round, in GB/s."""
        workers = [threading.Thread(target=np.dot, args=(array, array)) for array in self._arrays]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.rounds.append(sum(array.nbytes for array in self._arrays) / (time.perf_counter() - start) / 1e9)
        return self.rounds[-1]


def read_bandwidth(threads: int = 2, rounds: int = 5) -> float:
    """The best of `rounds`, in GB/s."""
    bandwidth = Bandwidth(threads)
    return max(bandwidth.measure() for _ in range(rounds))


class _Timed:
    """A program that adds the time it takes to a clock."""

    def __init__(self, program: Program, part: str, clock: dict[str, float]) -> None:
        self._program, self._part, self._clock = program, part, clock

    def run(self, state: dict[str, Leaf], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        start = time.perf_counter()
        outputs = self._program.run(state, inputs)
        self._clock[self._part] += time.perf_counter() - start
        return outputs


class _TimedCodec(Codec):
    """A codec whose programs are timed; it shares everything else with the one it is made from."""

    def __init__(self, codec: Codec, clock: dict[str, float]) -> None:
        self.__dict__ = dict(codec.__dict__)
        self._clock = clock

    def program(self, kind: Kind, num_codebooks: int, window: Window) -> Program:
        return _Timed(super().program(kind, num_codebooks, window), kind, self._clock)
