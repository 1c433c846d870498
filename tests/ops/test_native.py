"""Clearline's own operations: equal to float64 under each instruction set, the same bytes for every thread count and batch."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import pytest

from clearline.backends import native
from clearline.backends.numpy64 import Numpy64
from clearline.backends.onnx_run import Onnx
from clearline.backends.onnx_trace import trace
from clearline.backends.selftest import nmse
from clearline.ops import InputSpec, StateSpec, Weight
from clearline.ops.rounding import affine
from clearline.ops.weight import quantise

pytestmark = pytest.mark.skipif(
    "Product" not in native.operations(), reason=f"here products are ONNX Runtime's ({native.kernels()})"
)

SETS = ["avx512", "avx2"] if native.kernels() == "avx512" else ["avx2"]


@pytest.fixture(params=SETS)
def instructions(request, monkeypatch) -> str:
    monkeypatch.setenv("CLEARLINE_KERNELS", "" if request.param == "avx512" else request.param)
    return request.param


def matrix(name: str, rows: int, columns: int, bits: int, group: int, kind: str) -> Weight:
    rng = np.random.default_rng([rows, columns, bits])
    dense = Weight(name, rng.standard_normal((rows, columns), np.float32))
    if kind == "affine":
        return affine(dense, group)
    made = quantise(dense, bits, group, ml_dtypes.bfloat16 if kind == "narrow" else np.float32)
    if kind != "offset":
        return made
    assert made.scale is not None
    return Weight(name, made.data, made.scale, bits, group, rng.standard_normal(made.scale.shape, np.float32))


def run(backend, step: Callable, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    program = backend.compile(step, {}, [], {name: InputSpec(x.shape) for name, x in inputs.items()})
    return program.run({}, inputs)


KINDS = [(bits, group, kind) for bits in (4, 8) for group in (32, 64, 128) for kind in ("symmetric", "narrow", "offset")]
KINDS += [(4, 32, "affine"), (4, 64, "affine"), (8, 256, "symmetric"), (8, 16, "symmetric")]


@pytest.mark.parametrize(("bits", "group", "kind"), KINDS)
def test_product_is_that_of_float64(instructions, bits, group, kind):
    for rows, columns, count in ((1, 256, 1), (40, 512, 1), (528, 256, 3)):
        weight = matrix("w", rows, columns, bits, group, kind)
        x = np.random.default_rng(1).standard_normal((1, count, columns), np.float32) * np.geomspace(
            0.01, 30, columns, dtype=np.float32
        )

        def step(ops, w, s, i, weight=weight):
            return {"y": ops.linear(i["x"], weight)}

        backend = Onnx(2)
        assert nmse(run(backend, step, x=x)["y"], run(Numpy64(), step, x=x)["y"]) < backend.quantised_budget


def layer(bits: int, columns: int = 512) -> Callable:
    up, down = (matrix(name, rows, columns, bits, 32, "symmetric") for name, rows in (("up", 2 * columns), ("down", columns)))
    gain = Weight("gain", np.random.default_rng(2).standard_normal((1, 1, columns), np.float32))

    def step(ops, w, s, i):
        a, b = ops.split(ops.linear(ops.rms_norm(i["x"], gain, 1e-8), up), (columns, columns), -1)
        return {"y": i["x"] + ops.linear(ops.activation(a, "silu") * b, down)}

    return step


@pytest.mark.parametrize("bits", [4, 8])
def test_norm_gate_and_sum_are_part_of_the_product(instructions, bits):
    x = np.random.default_rng(3).standard_normal((1, 2, 512), np.float32)
    y = run(Onnx(2), layer(bits), x=x)["y"]
    assert nmse(y, run(Numpy64(), layer(bits), x=x)["y"]) < 1e-7
    graph = trace(layer(bits), {}, [], {"x": InputSpec(x.shape)}, native=native.operations())
    assert graph.nodes == ["Product", "Product"]


def test_same_bytes_for_any_threads_and_rows(instructions):
    x = np.random.default_rng(4).standard_normal((1, 5, 1024), np.float32)
    for bits in (4, 8):
        step = layer(bits, 1024)  # large enough for large and small parts
        whole = run(Onnx(1), step, x=x)["y"]
        for threads in (2, 3):
            assert run(Onnx(threads), step, x=x)["y"].tobytes() == whole.tobytes()
        alone = [run(Onnx(2), step, x=x[:, i : i + 1])["y"][0, 0] for i in range(5)]
        assert np.stack(alone).tobytes() == whole[0].tobytes()


DENSE = {
    # the operation, the weight's shape, the input's
    "linear": (lambda ops, x, w: ops.linear(x, w), (48, 96), (1, 3, 96)),
    "linear, rows that fill no panel": (lambda ops, x, w: ops.linear(x, w), (37, 64), (1, 1, 64)),
    "convolution": (lambda ops, x, w: ops.conv1d(x, w, 4), (32, 16, 8), (1, 36, 16)),
    "convolution of many rows": (lambda ops, x, w: ops.conv1d(x, w, 1), (64, 64, 3), (1, 1003, 64)),
    "transposed convolution": (lambda ops, x, w: ops.conv_transpose1d(x, w, 4), (32, 16, 8), (1, 9, 32)),
    "transposed convolution, uneven": (lambda ops, x, w: ops.conv_transpose1d(x, w, 3), (32, 16, 5), (1, 9, 32)),
    "codebook": (lambda ops, x, w: ops.nearest_code(x, w), (300, 32), (1, 5, 32)),
}


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("bits", [32, 16, 8])
def test_dense_products_are_those_of_float64(instructions, name, bits):
    what, shape, given = DENSE[name]
    rng = np.random.default_rng(7)
    weight, bias = Weight("w", rng.standard_normal(shape, np.float32)), Weight("b", rng.standard_normal(shape[0], np.float32))

    def step(ops, w, s, i):
        y = what(ops, i["x"], weight)
        return {"y": ops.scale(ops.bias(y, bias), bias) if y.shape[-1] == shape[0] else y}

    x = rng.standard_normal(given, np.float32)
    runs = [run(Onnx(threads, bits=bits), step, x=x)["y"] for threads in (1, 2, 3)]
    assert all(y.tobytes() == runs[0].tobytes() for y in runs)
    error = nmse(runs[0], run(Numpy64(), step, x=x)["y"])
    exact = bits == 32 or name == "codebook"
    assert exact or error > 1e-12, "those were not fewer bits"
    if bits == 8 and name == "codebook":
        return  # other codes may be nearest
    assert error < (1e-12 if exact else 1e-8 if bits == 16 else 1e-4)
    graph = trace(step, {}, [], {"x": InputSpec(x.shape)}, native=native.operations(), bits=bits)
    assert "Product" in graph.nodes and "MatMul" not in graph.nodes


def test_a_sum_over_rows_that_threads_share(instructions):
    rng = np.random.default_rng(10)
    weight = Weight("w", rng.standard_normal((64, 64, 3), np.float32))

    def step(ops, w, s, i):
        return {"y": i["r"] + ops.conv1d(i["x"], weight, 1)}

    inputs = {"x": rng.standard_normal((1, 1003, 64), np.float32), "r": rng.standard_normal((1, 1001, 64), np.float32)}
    expected = run(Numpy64(), step, **inputs)["y"]
    assert all(nmse(run(Onnx(threads), step, **inputs)["y"], expected) < 1e-12 for threads in (1, 2, 3))


def test_bias_factor_and_sum_are_part_of_the_product():
    rng = np.random.default_rng(8)
    weight, vector = (Weight(name, rng.standard_normal(shape, np.float32)) for name, shape in (("w", (32, 32)), ("v", (32,))))

    def step(ops, w, s, i):
        return {"y": i["x"] + ops.scale(ops.linear(ops.layer_norm(i["x"], vector, vector, 1e-5), weight, vector), vector)}

    graph = trace(step, {}, [], {"x": InputSpec((1, 2, 32))}, native=native.operations())
    assert graph.nodes == ["Product"]

    def used_twice(ops, w, s, i):
        y = ops.linear(i["x"], weight)
        return {"y": y + i["x"], "z": y * i["x"]}

    x = rng.standard_normal((1, 1, 32), np.float32)
    outputs, expected = run(Onnx(), used_twice, x=x), run(Numpy64(), used_twice, x=x)
    assert all(nmse(outputs[name], expected[name]) < 1e-12 for name in "yz")


def test_a_chain_has_room_for_its_neediest():
    weight, gain = matrix("w", 256, 1024, 8, 32, "symmetric"), Weight("gain", np.ones((1, 1, 1024), np.float32))

    def step(ops, w, s, i):
        return {"y": ops.activation(ops.linear(ops.rms_norm(i["x"], gain, 1e-8), weight), "elu")}

    x = np.random.default_rng(11).standard_normal((1, 3, 1024), np.float32)
    assert nmse(run(Onnx(2), step, x=x)["y"], run(Numpy64(), step, x=x)["y"]) < 1e-7


@pytest.mark.parametrize("seed", range(12))
def test_results_that_live_together_do_not_touch(seed):
    rng = np.random.default_rng(seed)
    weights = [Weight(f"w{i}", rng.standard_normal((48, 48), np.float32) / 7) for i in range(4)]
    plan = rng.integers(0, [4, 8, 4], (30, 3))

    def step(ops, w, s, i):
        made = [i["x"]]
        for what, back, number in plan:
            a, b = made[-1], made[-1 - back % len(made)]
            match what:
                case 0:
                    made.append(ops.activation(a, "elu"))
                case 1:
                    made.append(ops.linear(a, weights[number]))
                case 2:
                    made.append(b + ops.linear(a, weights[number]))
                case _:  # none of ours: what follows is another chain
                    made.append(ops.activation(a, "tanh"))
        return {str(n): made[n] for n in (1, 9, 18, 27, 30)}

    x = rng.standard_normal((1, 2, 48), np.float32)
    results, expected = run(Onnx(2), step, x=x), run(Numpy64(), step, x=x)
    assert all(nmse(results[name], expected[name]) < 1e-10 for name in expected)
    model = onnx.load_from_string(trace(step, {}, [], {"x": InputSpec(x.shape)}, native=native.operations()).model)
    operations = [node.op_type for node in model.graph.node]
    assert operations.count("Chain") <= 1 + operations.count("Tanh") and "Product" not in operations


@pytest.mark.parametrize("size", [1, 15, 16, 17, 40_003])
def test_elu_is_that_of_float64(instructions, size):
    def step(ops, w, s, i):
        return {"y": ops.activation(i["x"], "elu")}

    x = np.linspace(-100, 100, size, dtype=np.float32).reshape(1, 1, size)
    y = run(Onnx(2), step, x=x)["y"]
    assert nmse(y, run(Numpy64(), step, x=x)["y"]) < 1e-12
    x[0, 0, 0] = np.nan
    assert np.isnan(run(Onnx(2), step, x=x)["y"]).sum() == 1


def test_sessions_in_many_threads_do_not_disturb_each_other():
    rng, results = np.random.default_rng(9), {}
    inputs = [rng.standard_normal((1, 1, 1024), np.float32) for _ in range(6)]
    step = layer(4, 1024)
    program = Onnx(3).compile(step, {}, [], {"x": InputSpec((1, 1, 1024))})
    expected = [program.run({}, {"x": x})["y"].tobytes() for x in inputs]

    def talk(number: int) -> None:
        results[number] = {program.run({}, {"x": inputs[number]})["y"].tobytes() for _ in range(150)}

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[number] for number in range(len(inputs))] == [{y} for y in expected]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_computes_the_same():
    code = """
import os, numpy as np
from clearline.backends.onnx_run import Onnx
from clearline.ops import InputSpec, Weight
from clearline.ops.weight import quantise
weight = quantise(Weight("w", np.random.default_rng(0).standard_normal((1024, 1024), np.float32)), 4)
program = Onnx(2).compile(lambda ops, w, s, i: {"y": ops.linear(i["x"], weight)}, {}, [], {"x": InputSpec((1, 1, 1024))})
x = np.ones((1, 1, 1024), np.float32)
before = program.run({}, {"x": x})["y"]
child = os.fork()
again = [program.run({}, {"x": x})["y"] for _ in range(50)]
right = all((y == before).all() for y in again)
if child == 0:
    os._exit(0 if right else 3)
assert right and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows(instructions, value):
    x = np.ones((1, 1, 512), np.float32)
    x[0, 0, 77] = value
    assert np.isnan(run(Onnx(), layer(4), x=x)["y"]).all()


def test_without_them_it_is_onnx_runtimes_product():
    backend = Onnx()
    backend.native = frozenset()
    weight = matrix("w", 64, 128, 8, 32, "symmetric")

    def step(ops, w, s, i):
        return {"y": ops.linear(i["x"], weight)}

    x = np.random.default_rng(5).standard_normal((1, 1, 128), np.float32)
    error = nmse(run(backend, step, x=x)["y"], run(Numpy64(), step, x=x)["y"])
    assert 1e-6 < error < backend.quantised_budget


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2)])
def test_embeddings_are_rows_of_their_tables_and_their_sum(shape):
    tables = [Weight(name, np.random.default_rng(i).standard_normal((7 + i, 48), np.float32)) for i, name in enumerate("ab")]

    def step(ops, w, s, i):
        first, second = ops.split(i["ids"], (shape[1], shape[1]), 1)
        return {"y": ops.embed(first, tables[0]) + ops.embed(second, tables[1]), "z": ops.embed(first, tables[0])}

    inputs = {"ids": InputSpec((shape[0], 2 * shape[1]), True)}
    graph = trace(step, {}, [], inputs, native=native.operations())
    assert "Embed" in graph.nodes and "Gather" not in graph.nodes and "Add" not in graph.nodes
    assert ("Slice" in graph.nodes) == (shape[0] > 1), "one row of ids is read where it is"
    ids = np.array([0, -1, 6, 5, 3, -1, 2, 1])[: 2 * shape[0] * shape[1]].reshape(shape[0], -1)
    results, expected = (backend.compile(step, {}, [], inputs).run({}, {"ids": ids}) for backend in (Onnx(), Numpy64()))
    for name in "yz":
        assert (results[name] == expected[name].astype(np.float32)).all()


@pytest.mark.parametrize("wrong", [-2, 7, 1 << 40])
def test_an_id_that_is_no_row_is_refused(wrong):
    table = Weight("table", np.zeros((7, 16), np.float32))
    program = Onnx().compile(lambda ops, w, s, i: {"y": ops.embed(i["ids"], table)}, {}, [], {"ids": InputSpec((1, 1), True)})
    with pytest.raises(Exception, match="neither -1 nor a row of its embedding table"):
        program.run({}, {"ids": np.array([[wrong]])})


@pytest.mark.parametrize("name", [*SETS, "plain"])
@pytest.mark.parametrize("dim", [16, 48, 64, 128, 512])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("layout", ["interleaved", "halves", "keys alone"])
def test_attention_is_that_of_float64_past_the_wrap(monkeypatch, name, dim, rows, layout):
    monkeypatch.setenv("CLEARLINE_KERNELS", "" if name == "avx512" else name)
    heads, kv_heads, context, rng = 4, 2, 21, np.random.default_rng(6)
    ring = StateSpec("ring", "ring", (1, kv_heads, context - rows, dim), rows)
    wide = (heads + 2 * kv_heads) * dim

    def step(ops, w, s, i):
        # As a layer has them: queries and keys turned together, values beside them.
        qk, v = ops.split(i["x"], ((heads + kv_heads) * dim, kv_heads * dim), -1)
        sides = ops.reshape(qk, (1, rows, heads + kv_heads, dim))
        turned = ops.rope(sides, i["p"], 10_000.0, "halves" if layout == "halves" else "interleaved")
        q, k = ops.split(turned, (heads, kv_heads), 2)
        if layout == "keys alone":
            q = ops.slice(sides, 2, 0, heads)
        y, new = ops.ring_attend(q, k, ops.reshape(v, (1, rows, kv_heads, dim)), s.take("ring"), i["p"], context, rows)
        s.put("ring", new)
        return {"y": y}

    inputs = {"x": InputSpec((1, rows, wide)), "p": InputSpec((1,), True)}
    nodes = trace(step, {}, [ring], inputs, native=native.operations()).nodes
    assert "Attend" in nodes
    # It turns both where both are turned alike, and then reads them where they are.
    assert ("RotaryEmbedding" in nodes) == ("Slice" in nodes) == (layout == "keys alone")
    backends = [Onnx(2), Numpy64()]
    programs = [backend.compile(step, {}, [ring], inputs) for backend in backends]
    states = [backend.state([ring]) for backend in backends]
    for position in range(0, 3 * context, rows):
        given = {"x": rng.standard_normal((1, rows, wide), np.float32), "p": np.array([position])}
        y, expected = (program.run(state, given)["y"] for program, state in zip(programs, states, strict=True))
        assert nmse(y, expected) < 1e-12


def test_a_part_of_what_was_turned_is_not_turned_by_itself():
    dim, context, rng = 32, 9, np.random.default_rng(12)
    ring = StateSpec("ring", "ring", (1, 1, context - 1, dim))

    def step(ops, w, s, i):
        turned = ops.rope(i["x"], i["p"], 10_000.0, "interleaved")  # one head, twice as wide as those that attend
        q, k = ops.split(turned, (dim, dim), 3)
        y, new = ops.ring_attend(q, k, i["v"], s.take("ring"), i["p"], context, 1)
        s.put("ring", new)
        return {"y": y}

    inputs = {"x": InputSpec((1, 1, 1, 2 * dim)), "v": InputSpec((1, 1, 1, dim)), "p": InputSpec((1,), True)}
    backends = [Onnx(), Numpy64()]
    programs = [backend.compile(step, {}, [ring], inputs) for backend in backends]
    states = [backend.state([ring]) for backend in backends]
    for position in range(3 * context):
        given = {name: rng.standard_normal(inputs[name].shape, np.float32) for name in "xv"} | {"p": np.array([position])}
        y, expected = (program.run(state, given)["y"] for program, state in zip(programs, states, strict=True))
        assert nmse(y, expected) < 1e-12
