"""The machine's own test: single operations of a backend against explicit arithmetic in float64.

Each operation runs on odd shapes, behind a transpose where memory order could matter, and past the end of its ring.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import erf
from typing import Any

import numpy as np

from clearline.lab.doctor.finding import CERTAIN, Chart, Finding
from clearline.ops import Backend, InputSpec, Ops, State, StateSpec, Weight, Weights

# Largest |difference| over the largest value that float32 rounding explains.
TOLERANCE = 1e-4
Step = Callable[[Ops, Weights, State, Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Trial:
    """One operation: the step that does it, what it is given, and what must come of the last of `steps` runs."""

    name: str
    step: Step
    inputs: Mapping[str, np.ndarray]
    expected: np.ndarray
    weights: Mapping[str, np.ndarray]
    state: tuple[StateSpec, ...] = ()
    steps: int = 1


def numbers(*shape: int, phase: float = 0.0) -> np.ndarray:
    """Deterministic values in -1..1, the same on every machine."""
    count = int(np.prod(shape))
    return np.sin(np.arange(count) * 1.7 + phase).reshape(shape)


def run(backend: Backend, trial: Trial) -> float:
    """Largest relative error of a trial's output."""
    # A backend keeps what it made of a weight under its name: each trial's must be its own.
    weights = {name: Weight(f"{trial.name}.{name}", array.astype(np.float32)) for name, array in trial.weights.items()}
    specs = {name: InputSpec(array.shape, array.dtype.kind == "i") for name, array in trial.inputs.items()}
    program = backend.compile(trial.step, weights, trial.state, specs)
    state = backend.state(trial.state)
    for _ in range(trial.steps):
        found = program.run(state, trial.inputs)["y"]
    return float(np.abs(found - trial.expected).max() / max(1e-30, float(np.abs(trial.expected).max())))


def trials() -> list[Trial]:
    """Every operation that a garbled model was once blamed on."""
    x, w = numbers(1, 5, 8), numbers(6, 8, phase=1.0)
    gain, bias = numbers(8, phase=2.0), numbers(8, phase=3.0)
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    turned = x.transpose(0, 2, 1)
    out = [
        Trial("linear", lambda ops, w, s, i: {"y": ops.linear(i["x"], w["w"])}, {"x": x}, x @ w.T, {"w": w}),
        Trial("linear of a transposed tensor", lambda ops, w, s, i: {"y": ops.linear(ops.transpose(i["x"], (0, 2, 1)), w["w"])},
              {"x": turned}, x @ w.T, {"w": w}),
        Trial("rms_norm", lambda ops, w, s, i: {"y": ops.rms_norm(i["x"], w["g"], 1e-8)}, {"x": x},
              x * gain / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-8), {"g": gain}),
        Trial("layer_norm", lambda ops, w, s, i: {"y": ops.layer_norm(i["x"], w["g"], w["b"], 1e-5)}, {"x": x},
              (x - mean) / np.sqrt(var + 1e-5) * gain + bias, {"g": gain, "b": bias}),
        Trial("embed", lambda ops, w, s, i: {"y": ops.embed(i["ids"], w["w"])}, {"ids": np.array([[4, -1, 0]])},
              np.stack([w[4], np.zeros(8), w[0]])[None], {"w": w}),
        Trial("nearest_code", lambda ops, w, s, i: {"y": ops.nearest_code(i["x"], w["w"])}, {"x": x},
              ((x[:, :, None] - w) ** 2).sum(-1).argmin(-1), {"w": w}),
        _convolution(), _transposed_convolution(), _attention(),
    ]  # fmt: skip
    formulas: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "silu": lambda v: v / (1 + np.exp(-v)),
        "gelu": lambda v: np.asarray(v * 0.5 * (1 + np.vectorize(erf)(v / np.sqrt(2)))),
        "elu": lambda v: np.where(v > 0, v, np.expm1(v)),
    }
    for name, formula in formulas.items():
        expected = np.asarray(formula(3 * x))
        out.append(Trial(name, _activated(name, False), {"x": 3 * x}, expected, {}))
        out.append(Trial(f"{name} of a transposed tensor", _activated(name, True), {"x": 3 * turned}, expected, {}))
    return [*out, _rope("interleaved"), _rope("halves")]


def _activated(name: str, transposed: bool) -> Step:
    def step(ops: Ops, w: Weights, s: State, i: Mapping[str, Any]) -> dict[str, Any]:
        return {"y": ops.activation(ops.transpose(i["x"], (0, 2, 1)) if transposed else i["x"], name)}

    return step


def _rope(layout: str) -> Trial:
    x, half = numbers(1, 3, 2, 6), 3
    expected = np.zeros_like(x)
    for t in range(3):
        for i in range(half):
            a, b = (2 * i, 2 * i + 1) if layout == "interleaved" else (i, half + i)
            angle = (5 + t) * 10_000.0 ** (-2 * i / 6)
            c, s = np.cos(angle), np.sin(angle)
            expected[0, t, :, a] = x[0, t, :, a] * c - x[0, t, :, b] * s
            expected[0, t, :, b] = x[0, t, :, a] * s + x[0, t, :, b] * c
    return Trial(
        f"rope, {layout}", lambda ops, w, s, i: {"y": ops.rope(i["x"], i["at"], 10_000.0, layout)},  # type: ignore[arg-type]
        {"x": x, "at": np.array([5])}, expected, {},
    )  # fmt: skip


def _convolution() -> Trial:
    x, w = numbers(1, 9, 3), numbers(4, 3, 3, phase=1.0)
    expected = np.zeros((1, 4, 4))
    for t in range(4):
        for j in range(3):
            expected[0, t] += w[:, :, j] @ x[0, 2 * t + j]
    return Trial("conv1d", lambda ops, w, s, i: {"y": ops.conv1d(i["x"], w["w"], 2)}, {"x": x}, expected, {"w": w})


def _transposed_convolution() -> Trial:
    x, w = numbers(1, 4, 3), numbers(3, 5, 4, phase=1.0)
    expected = np.zeros((1, 10, 5))
    for t in range(4):
        for j in range(4):
            expected[0, 2 * t + j] += w[:, :, j].T @ x[0, t]
    return Trial(
        "conv_transpose1d", lambda ops, w, s, i: {"y": ops.conv_transpose1d(i["x"], w["w"], 2)}, {"x": x}, expected, {"w": w}
    )  # fmt: skip


def _attention(context: int = 4, steps: int = 11) -> Trial:
    """Query, key and value of step n are n times a fixed row: past the end of the ring, old ones must be gone."""
    grow = 0.1 * numbers(1, 1, 2, 4, phase=4.0)  # small: every visible row must matter
    rows = [n * grow for n in range(steps)]
    expected = np.zeros((1, 1, 2, 4))
    seen = rows[-context:]
    for h in range(2):
        scores = np.array([rows[-1][0, 0, h] @ row[0, 0, h] for row in seen]) / 2.0
        p = np.exp(scores - scores.max())
        expected[0, 0, h] = sum(p_n / p.sum() * row[0, 0, h] for p_n, row in zip(p, seen, strict=True))

    def step(ops: Ops, w: Weights, s: State, i: Mapping[str, Any]) -> dict[str, Any]:
        position, last = s.take("position"), s.take("last")
        y, ring = ops.ring_attend(last, last, last, s.take("ring"), position, context, 1)
        s.put("ring", ring)
        s.put("position", position + 1)
        s.put("last", last + i["grow"])
        return {"y": y}

    state = (
        StateSpec("position", "position", (1,)), StateSpec("last", "carry", (1, 1, 2, 4)),
        StateSpec("ring", "ring", (1, 2, context - 1, 4), 1),
    )  # fmt: skip
    return Trial("ring_attend past the end of its ring", step, {"grow": grow}, expected, {}, state, steps)


def look_at_machine(backend: Backend, chart: Chart) -> None:
    """Every trial on `backend`."""
    errors = {trial.name: run(backend, trial) for trial in trials()}
    bad = {name: error for name, error in errors.items() if not error <= TOLERANCE}
    if not bad:
        chart.passed("machine", f"{len(errors)} operations of the backend {backend.name} give what arithmetic says")
        return
    listed = ", ".join(f"{name} ({error:.0e})" for name, error in bad.items())
    chart.found(Finding(
        "broken-operation", "broken machine", "machine", f"the backend {backend.name} computes wrongly on this machine: {listed}",
        f"{len(bad)} of {len(errors)} operations differ from float64 arithmetic by more than {TOLERANCE:g} of the largest value",
        "use another backend (--backend), and report this with `clearline bugreport`", CERTAIN,
    ))  # fmt: skip
