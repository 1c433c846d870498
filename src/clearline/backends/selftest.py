"""Does a backend compute right numbers on this machine? Every operation once, against the float64 reference.

Inputs and weights have few binary digits, so that every float type holds them exactly, but for one case that has them all. The
shapes are small and awkward on purpose: odd sizes, transposed and sliced inputs, positions far out, rings that wrap; and some
are as in large models, where a GPU has other kernels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clearline.backends.numpy64 import Numpy64
from clearline.errors import BackendError
from clearline.ops import Array, Backend, InputSpec, Ops, State, StateSpec, Weight, Weights
from clearline.ops.weight import quantise

# Largest normalised mean squared error, sum (y - r)^2 / sum r^2, by the type of the activations: some roundings each.
BUDGETS = {"float64": 1e-26, "float32": 1e-12, "float16": 1e-6, "bfloat16": 1e-4}


@dataclass(frozen=True)
class Case:
    """One operation: the step, its weights, the inputs of each step, the state it needs."""

    name: str
    step: Callable[[Ops, Weights, State, Mapping[str, Array]], dict[str, Array]]
    weights: Mapping[str, Weight]
    inputs: Sequence[Mapping[str, np.ndarray]]
    state: tuple[StateSpec, ...] = ()
    quantised: bool = False
    allowance: float = 1.0  # times the budget, where a library is known to round more


@dataclass(frozen=True)
class Measured:
    """An operation's error on a backend; `error` is NaN when it gave no numbers, `failure` what it raised."""

    name: str
    error: float
    budget: float
    failure: str = ""

    @property
    def passed(self) -> bool:
        return not self.failure and self.error <= self.budget  # NaN does not pass


@dataclass(frozen=True)
class SelfTest:
    """All operations; `fault` names the ones that are wrong, and is empty when none is."""

    measured: list[Measured]

    @property
    def fault(self) -> str:
        wrong = [m.name + (f" ({m.failure})" if m.failure else f" (error {m.error:.1e}, at most {m.budget:.0e})")
                 for m in self.measured if not m.passed]  # fmt: skip
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        return ", ".join(wrong[:3]) + more


def self_test(backend: Backend) -> SelfTest:
    """Run every case; takes a fraction of a second."""
    return SelfTest([measure(case, backend) for case in cases()])


def measure(case: Case, backend: Backend) -> Measured:
    """One case on `backend` against the reference. Raises BackendError when the device fails, or is full."""
    budget = case.allowance * max(BUDGETS[backend.dtype], getattr(backend, "quantised_budget", 0.0) if case.quantised else 0.0)
    try:
        outputs, expected = run(case, backend), run(case, Numpy64())
    except BackendError as error:  # which would be said of every later case as well
        raise BackendError(f"the self-test of {backend.name} stopped at {case.name}: {error}") from error
    except Exception as error:  # whatever a driver or a compiler throws is the finding
        return Measured(case.name, float("nan"), budget, f"{type(error).__name__}: {str(error)[:120]}")
    return Measured(case.name, max(nmse(y, r) for y, r in zip(outputs, expected, strict=True)), budget)


def run(case: Case, backend: Backend) -> list[np.ndarray]:
    """The output of every step."""
    inputs = {name: InputSpec(x.shape, x.dtype.kind == "i") for name, x in case.inputs[0].items()}
    # A backend may keep what it made of a weight under its name.
    weights = {name: replace(weight, name=f"{case.name}: {name}") for name, weight in case.weights.items()}
    program = backend.compile(case.step, weights, case.state, inputs)
    state = backend.state(case.state)
    return [np.asarray(program.run(state, given)["y"]) for given in case.inputs]


def nmse(actual: np.ndarray, expected: np.ndarray) -> float:
    """Normalised mean squared error; of token ids 0 when all are equal and 1 when one is not. NaN where there are no numbers."""
    if actual.shape != expected.shape:
        return float("nan")
    if expected.dtype.kind == "i":
        return 0.0 if (actual == expected).all() else 1.0
    wide = actual.astype(np.float64)
    return float(((wide - expected) ** 2).sum() / max(float((expected**2).sum()), 1e-300))


def cases() -> list[Case]:
    """Every operation of `clearline.ops.Ops`, some in several ways."""
    return [*_arithmetic(), *_activations(), *_shapes(), *_positions(), *_convolutions(), *_quantised()]


def _draw(seed: int, *shape: int) -> np.ndarray:
    """Sixteenths in -2..2, which every float type holds."""
    return np.random.default_rng(seed).integers(-32, 33, shape) / 16.0


def _digits(seed: int, *shape: int) -> np.ndarray:
    """Normal numbers with all the digits of float32."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _weights(**arrays: np.ndarray) -> dict[str, Weight]:
    return {name: Weight(name, array.astype(np.float32)) for name, array in arrays.items()}


def _case(name: str, operation: Callable[[Ops, Weights, Any], Any], weights: Mapping[str, Weight], **inputs: np.ndarray) -> Case:
    return Case(name, lambda ops, w, s, x: {"y": operation(ops, w, x)}, weights, [inputs])


def _arithmetic() -> list[Case]:
    x, w, b = _draw(1, 2, 3, 33), _draw(2, 17, 33), _draw(3, 17)
    ids = np.array([[4, -1, 0], [6, 6, 2]])
    whole = np.rint(_draw(4, 40, 5))
    fine_x, fine_w = (_digits(seed, *shape) for seed, shape in ((30, (3, 256)), (31, (64, 256))))
    return [
        _case("linear", lambda ops, k, i: ops.linear(i["x"], k["w"], k["b"]), _weights(w=w, b=b), x=x),
        _case("linear of one row", lambda ops, k, i: ops.linear(i["x"], k["w"]), _weights(w=w), x=x[:1, 0]),
        # A GPU may multiply with ten bits of mantissa (TF32) and call it float32.
        _case(
            "linear of all digits", lambda ops, k, i: ops.linear(i["x"], k["w"]), _weights(w=fine_w), x=fine_x.astype(np.float32)
        ),
        _case("linear of a slice", lambda ops, k, i: ops.linear(ops.slice(i["x"], 2, 5, 22), k["w"]), _weights(w=w[:, :17]), x=x),
        _case("embed", lambda ops, k, i: ops.embed(i["ids"], k["t"]), _weights(t=_draw(5, 7, 6)), ids=ids),
        _case("scale", lambda ops, k, i: ops.scale(i["x"], k["g"]), _weights(g=_draw(6, 33)), x=x),
        _case("bias", lambda ops, k, i: ops.bias(i["x"], k["g"]), _weights(g=_draw(6, 33)), x=x),
        _case("rms_norm", lambda ops, k, i: ops.rms_norm(i["x"], k["g"], 1e-8), _weights(g=_draw(6, 33)), x=x),
        _case("layer_norm", lambda ops, k, i: ops.layer_norm(i["x"], k["g"], k["b"], 1e-5), _weights(g=w[0], b=w[1]), x=x),
        _case("nearest_code", lambda ops, k, i: ops.nearest_code(i["x"], k["c"]), _weights(c=whole), x=np.rint(_draw(7, 2, 9, 5))),
        _case("add, subtract, multiply", lambda ops, k, i: (i["x"] + i["z"]) * i["x"] - i["z"], {}, x=x, z=_draw(8, 2, 3, 33)),
    ]


def _activations() -> list[Case]:
    x = _draw(9, 3, 4, 37)

    def of(name: str, what: Callable[[Ops, Array], Array], kind: str) -> Case:
        return _case(f"{name}{kind}", lambda ops, k, i: ops.activation(what(ops, i["x"]), name), {}, x=x)

    # What Candle's Metal ELU got wrong: an input that does not lie in memory in order.
    return [
        *(of(name, lambda ops, x: x, "") for name in ("silu", "gelu", "elu", "sigmoid", "tanh", "relu")),
        *(of(name, lambda ops, x: ops.transpose(x, (0, 2, 1)), " of a transposed array") for name in ("elu", "silu", "gelu")),
        of("elu", lambda ops, x: ops.slice(x, 2, 3, 20), " of a slice"),
    ]


def _shapes() -> list[Case]:
    x, ids = _draw(10, 2, 4, 6), np.array([3, -1])
    return [
        _case("reshape of a transposed array", lambda ops, k, i: ops.reshape(ops.transpose(i["x"], (2, 0, 1)), (3, 16)), {}, x=x),
        _case("concat", lambda ops, k, i: ops.concat((i["x"], ops.slice(i["x"], 1, 1, 3)), 1), {}, x=x),
        _case("split", lambda ops, k, i: ops.concat(ops.split(i["x"], (1, 3, 2), -1)[::-1], 2), {}, x=x),
        _case("where_equal", lambda ops, k, i: ops.where_equal(i["ids"], -1, i["x"], i["z"]), {}, x=x, z=-x, ids=ids),
    ]


def _positions() -> list[Case]:
    x, at = _draw(11, 2, 3, 4, 16), np.array([2, 5000])
    return [
        _case("rope, interleaved", lambda ops, k, i: ops.rope(i["x"], i["p"], 10_000.0, "interleaved"), {}, x=x, p=at),
        _case("rope, halves", lambda ops, k, i: ops.rope(i["x"], i["p"], 10_000.0, "halves"), {}, x=x, p=at),
        _case("sin_embedding", lambda ops, k, i: ops.sin_embedding(i["p"], 3, 16, 10_000.0), {}, p=at),
        _ring("ring_attend", 1, 2, 2, 1),
        _ring("ring_attend, two rows a step", 2, 2, 2, 1),
        _ring("ring_attend, shared keys", 1, 4, 2, 1),
        _ring("ring_attend, shared keys, a batch", 1, 4, 2, 2),
        # The sizes of fused kernels; Metal's exponentials there are a few roundings off.
        *(replace(_ring(f"ring_attend, {dim} wide", 1, 2, 2, 1, dim), allowance=20) for dim in (64, 128)),
    ]


def _ring(name: str, rows: int, heads: int, kv_heads: int, batch: int, dim: int = 16) -> Case:
    """Three times around a ring of seven keys."""
    context = 7

    def step(ops: Ops, w: Weights, s: State, i: Mapping[str, Array]) -> dict[str, Array]:
        y, ring = ops.ring_attend(i["q"], i["k"], i["v"], s.take("ring"), i["p"], context, rows)
        s.put("ring", ring)
        return {"y": y}

    inputs = [
        {
            "q": _draw(20 + n, batch, rows, heads, dim), "k": _draw(50 + n, batch, rows, kv_heads, dim),
            "v": _draw(80 + n, batch, rows, kv_heads, dim), "p": np.full(batch, n * rows),
        }
        for n in range(3 * context // rows)
    ]  # fmt: skip
    return Case(name, step, {}, inputs, (StateSpec("ring", "ring", (batch, kv_heads, context - rows, dim), rows),))


def _convolutions() -> list[Case]:
    x = _draw(12, 2, 20, 6)
    return [
        _case("conv1d", lambda ops, k, i: ops.conv1d(i["x"], k["w"], 1), _weights(w=_draw(13, 5, 6, 7)), x=x),
        _case("conv1d with stride", lambda ops, k, i: ops.conv1d(i["x"], k["w"], 4), _weights(w=_draw(14, 5, 6, 8)), x=x),
        _case("conv1d with dilation", lambda ops, k, i: ops.conv1d(i["x"], k["w"], 1, 2), _weights(w=_draw(15, 5, 6, 3)), x=x),
        _case("conv_transpose1d", lambda ops, k, i: ops.conv_transpose1d(i["x"], k["w"], 4), _weights(w=_draw(16, 6, 5, 8)), x=x),
        _case("conv_transpose1d, channel-wise", lambda ops, k, i: ops.conv_transpose1d(i["x"], k["w"], 2), _weights(w=_draw(17, 6, 1, 4)), x=x),  # noqa: E501
    ]  # fmt: skip


def _quantised() -> list[Case]:
    x, long = _draw(18, 2, 128), _draw(24, 1, 1024)
    found = []
    for bits in (8, 4):
        for group in (32, 64):
            symmetric = quantise(Weight("w", _draw(19, 16, 128)), bits, group, np.float16)
            assert symmetric.scale is not None
            offsets = (-symmetric.scale * (symmetric.zero - 1)).astype(np.float32)
            affine = Weight("w", symmetric.data, symmetric.scale, bits, group, offsets)
            for kind, weight in (("", symmetric), (", affine", affine)):
                name = f"linear, {bits} bits in groups of {group}{kind}"
                case = _case(name, lambda ops, k, i: ops.linear(i["x"], k["w"]), {"w": weight}, x=x)
                found.append(replace(case, quantised=True))

    # What stands around a product in a layer, and may be computed with it.
    def layer(ops: Ops, k: Weights, i: Any) -> Any:
        y = ops.linear(ops.rms_norm(i["x"], k["g"], 1e-8), k["up"])
        gate, up = ops.split(y, (128, 128), -1)
        return i["x"] + ops.linear(ops.activation(gate, "silu") * up, k["down"])

    for bits in (8, 4):
        weights = {
            "up": quantise(Weight("up", _draw(20, 256, 128)), bits),
            "down": quantise(Weight("down", _draw(21, 128, 128)), bits),
        }
        case = _case(f"a gated layer, {bits} bits", layer, weights | _weights(g=_draw(22, 128)), x=x)
        found.append(replace(case, quantised=True))
    for bits in (8, 4):
        large = {"w": quantise(Weight("w", _draw(23, 64, 1024)), bits)}
        case = _case(f"linear of a long row, {bits} bits", lambda ops, k, i: ops.linear(i["x"], k["w"]), large, x=long)
        found.append(replace(case, quantised=True))
    whole = quantise(Weight("w", _draw(19, 16, 128)), 8, 128, np.float16)
    case = _case("linear, 8 bits, one scale a row", lambda ops, k, i: ops.linear(i["x"], k["w"]), {"w": whole}, x=x)
    return [*found, replace(case, quantised=True)]
