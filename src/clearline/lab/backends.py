"""Backends beside each other on this machine: what is installed and right, how fast it is, and where their tokens part."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from clearline.app import Model, load
from clearline.backends.choose import KINDS, backend_module, get_backend, open_backend
from clearline.backends.selftest import self_test
from clearline.backends.wanted import Device, Wanted
from clearline.errors import ClearlineError, ConfigError
from clearline.generate import Frame
from clearline.lab.compare.choice import Choice, choice_at
from clearline.lab.live import Live, frames_of
from clearline.trace import LOGITS, TOKENS, MemoryRecorder, Trace

# Frames that are timed, and those before them that are not: rings grow, and libraries choose their kernels.
WARM_UP = 4
_TOKENS_IN_ORDER = ("codes_in", "row", "text_token", "audio_tokens", "codes_out")


@dataclass(frozen=True)
class Survey:
    """One backend on this machine. `missing` is how to install it, `fault` what is wrong with it (both may be empty).

    operations: how many its self-test ran; worst: the operation nearest to its budget, with its normalised mean squared
    error; frame_ms: median milliseconds of a frame (NaN: not measured), on `device` in `dtype`.
    """

    name: str
    about: str
    missing: str
    fault: str
    devices: list[Device]
    device: str = ""
    dtype: str = ""
    operations: int = 0
    worst: str = ""
    worst_error: float = float("nan")
    frame_ms: float = float("nan")

    @property
    def usable(self) -> bool:
        return not self.missing and not self.fault


def survey(name: str, model: str, frames: int, device: str | None = None, on_frame: Callable[[int], None] | None = None) -> Survey:
    """Look at one backend, test every operation, and time `frames` frames of `model` (0: none)."""
    kind = KINDS[name]
    if not kind.installed:
        extra = f"pip install 'clearline[{kind.extra}]'"
        return Survey(name, kind.about, extra, "", [])
    devices: list[Device] = []
    try:
        devices = backend_module(name).devices()
        # By name: nobody has to be told that the best one is missing, when it says so in the list.
        device = device or next((found.name for found in devices if not found.fault), None)
        backend = get_backend(name, device=device)
        tested = self_test(backend)
        worst = max(tested.measured, key=lambda m: m.error / m.budget if m.error == m.error else np.inf)
        found = Survey(
            name, kind.about, "", tested.fault, devices, backend.device, backend.dtype,
            len(tested.measured), worst.name, worst.error,
        )  # fmt: skip
        if found.fault or not frames:
            return found
        loaded = load(model, backend=name, device=device)
        return replace(found, frame_ms=_frame_ms(loaded, frames, on_frame or (lambda i: None)))
    except ClearlineError as error:
        return Survey(name, kind.about, "", str(error), devices)
    except Exception as error:  # whatever a driver or a compiler throws is the finding
        return Survey(name, kind.about, "", f"{type(error).__name__}: {str(error)[:200]}", devices)


def _frame_ms(model: Model, frames: int, on_frame: Callable[[int], None]) -> float:
    pcm = (np.random.default_rng(0).standard_normal((frames + WARM_UP, model.mimi.frame_size)) * 0.05).astype(np.float32)
    times = []
    with model.session(seed=0) as session:
        for number, samples in enumerate(pcm):
            started = time.perf_counter()
            session.step(samples)
            times.append(time.perf_counter() - started)
            on_frame(number)
    return float(np.median(times[WARM_UP:])) * 1e3


# The facts of a run that are told beside its hashes.
_SETTINGS = ("seed", "preset", "text_sampling", "audio_sampling", "quantize", "kernels", "compiled")


@dataclass(frozen=True)
class BackendRun:
    """One backend's run of the recording, beside the first one's.

    equal_frames: how many frames have the same tokens (all `frames` of them: identical); boundary: what differs first;
    choice: the two tokens there, with the margins by which each side chose its own (None where no logits decide); hashes: of the
    model's weights and configuration; settings: of the run.
    """

    name: str
    device: str
    dtype: str
    frames: int
    frame_ms: float
    equal_frames: int
    boundary: str | None = None
    choice: Choice | None = None
    logit_error: float = float("nan")
    hashes: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def identical(self) -> bool:
        return self.boundary is None

    @property
    def speed(self) -> float:
        """Multiple of real time."""
        return 80.0 / max(self.frame_ms, 1e-9)

    @property
    def tokens(self) -> str:
        """Against the first one's, in words."""
        if self.identical:
            return "identical"
        parted = f"identical up to frame {self.equal_frames}, then {self.boundary} differs"
        if self.choice is None:
            return parted
        choice = self.choice
        kind = "a tie" if choice.tie else "not a tie"
        margins = f"margins {choice.margin_a:.1e} and {choice.margin_b:.1e}, logits {choice.logit_gap:.1e} apart: {kind}"
        return f"{parted}: {choice.stream} {choice.token_a} or {choice.token_b} ({margins})"


def compare_backends(names: Sequence[str], live: Live, on_frame: Callable[[str, int, int | None], None]) -> list[BackendRun]:
    """Run the recording under every backend (a name may carry device and dtype) and compare each with the first."""
    if len(names) < 2:
        raise ConfigError(f"--backends takes two or more names, divided by commas; known: {', '.join(KINDS)}")
    for name in names:  # before the first one spends its time
        open_backend(name, Wanted())
    runs: list[BackendRun] = []
    first: Trace | None = None
    for name in names:
        trace, run = _run(name, live, on_frame)
        runs.append(run if first is None else _against(first, trace, run))
        first = first or trace
    return runs


def _run(name: str, live: Live, on_frame: Callable[[str, int, int | None], None]) -> tuple[Trace, BackendRun]:
    model = load(live.model, backend=name)
    recorder = MemoryRecorder(TOKENS | LOGITS)
    pcm = frames_of(live, model.mimi.sample_rate, model.mimi.frame_size)
    times = [time.perf_counter()]

    def count(frame: Frame, number: int, total: int | None) -> None:
        times.append(time.perf_counter())
        on_frame(name, number, total)

    model.run(pcm.reshape(-1), model.mimi.sample_rate, live.settings, tail=0, recorder=recorder, on_frame=count)
    frame_ms = float(np.median(np.diff(times))) * 1e3 if len(times) > 1 else float("nan")
    trace = recorder.trace()
    return trace, BackendRun(
        name, model.backend.device, model.backend.dtype, trace.steps, frame_ms, trace.steps,
        hashes=model.checkpoint.hashes(), settings={fact: trace.facts[fact] for fact in _SETTINGS},
    )  # fmt: skip


def _against(first: Trace, other: Trace, run: BackendRun) -> BackendRun:
    """Where the tokens part, in the order in which a frame makes them, and by how little."""
    found = [(frame, order, name) for order, name in enumerate(_TOKENS_IN_ORDER)
             if (frame := _first_frame(first, other, name)) is not None]  # fmt: skip
    if not found:
        return replace(run, logit_error=_logit_error(first, other, run.frames))
    frame, _, name = min(found)
    choice = choice_at(first, other, name, frame) if name in ("text_token", "audio_tokens") else None
    return replace(run, equal_frames=frame, boundary=name, choice=choice, logit_error=_logit_error(first, other, frame))


def _first_frame(a: Trace, b: Trace, name: str) -> int | None:
    if name not in a.columns or name not in b.columns:
        return None
    x, y = a.columns[name], b.columns[name]
    differs = (x != y).reshape(len(x), -1).any(1) if len(x) == len(y) else np.ones(1, bool)
    return int(differs.argmax()) if differs.any() else None


def _logit_error(a: Trace, b: Trace, frames: int) -> float:
    """Largest difference of text logits over the frames before the tokens part, relative to the largest of them."""
    x, y = (trace.columns["text_logits"][:frames].astype(np.float64) for trace in (a, b))
    return float(np.abs(x - y).max() / max(float(np.abs(x).max()), 1e-30)) if len(x) else float("nan")
