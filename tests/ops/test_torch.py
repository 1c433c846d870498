"""The same operations against PyTorch's own, in float64, where PyTorch happens to be installed."""

import numpy as np
import pytest
from helpers.one_op import check, once

torch = pytest.importorskip("torch")
functional = torch.nn.functional


def tensor(x: np.ndarray):
    return torch.from_numpy(x)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(7, 1, 1), (8, 4, 1), (3, 1, 2), (4, 2, 1)])
def test_conv1d(backend, draw, kernel, stride, dilation):
    x, w = draw(2, 20, 3), draw(4, 3, kernel)
    y = once(backend, lambda ops, k, i: ops.conv1d(i["x"], k["w"], stride, dilation), {"w": w}, x=x)
    expected = functional.conv1d(tensor(x).transpose(1, 2), tensor(w), stride=stride, dilation=dilation).transpose(1, 2)
    check(backend, y, expected.numpy())


@pytest.mark.parametrize(("kernel", "stride"), [(16, 8), (4, 2), (5, 2)])
@pytest.mark.parametrize("groups", [1, 3])
def test_conv_transpose1d(backend, draw, kernel, stride, groups):
    x, w = draw(2, 5, 3), draw(3, 1 if groups == 3 else 4, kernel)
    y = once(backend, lambda ops, k, i: ops.conv_transpose1d(i["x"], k["w"], stride), {"w": w}, x=x)
    expected = functional.conv_transpose1d(tensor(x).transpose(1, 2), tensor(w), stride=stride, groups=groups).transpose(1, 2)
    check(backend, y, expected.numpy())


@pytest.mark.parametrize("name", ["silu", "gelu", "elu", "sigmoid", "tanh", "relu"])
def test_activations(backend, draw, name):
    x = 3 * draw(4, 9)
    y = once(backend, lambda ops, k, i: ops.activation(i["x"], name), x=x)
    of = getattr(functional, name, None) or getattr(torch, name)
    check(backend, y, of(tensor(x)).numpy())


def test_norms(backend, draw):
    x, g, b = draw(2, 3, 16), draw(16), draw(16)
    y = once(backend, lambda ops, k, i: ops.layer_norm(i["x"], k["g"], k["b"], 1e-5), {"g": g, "b": b}, x=x)
    check(backend, y, functional.layer_norm(tensor(x), (16,), tensor(g), tensor(b), 1e-5).numpy())
    y = once(backend, lambda ops, k, i: ops.rms_norm(i["x"], k["g"], 1e-8), {"g": g}, x=x)
    check(backend, y, functional.rms_norm(tensor(x), (16,), tensor(g), 1e-8).numpy())


def test_rope_angles_are_pytorchs_float32_ones(backend, draw):
    """Far out, what matters is how the angle is rounded: Kyutai multiplies float32 positions and float32 frequencies."""
    x, position, dim = draw(1, 1, 2, 64), 100_000, 64
    frequency = torch.exp(torch.arange(dim // 2, dtype=torch.float32) * (-np.log(10_000.0) * 2 / dim))
    angle = (frequency * torch.tensor([float(position)])).double()
    pairs = tensor(x).reshape(1, 1, 2, dim // 2, 2)
    turned = torch.view_as_complex(pairs) * torch.polar(torch.ones_like(angle), angle)
    y = once(backend, lambda ops, k, i: ops.rope(i["x"], i["p"], 10_000.0, "interleaved"), x=x, p=np.array([position]))
    # The two libraries' exponentials may differ in their last place, which 100 000 multiplies.
    check("float32", y, torch.view_as_real(turned).reshape(x.shape).numpy(), tolerance=0.01)


def test_ring_attend_without_a_past(backend, draw):
    q, k, v = draw(1, 4, 2, 8), draw(1, 4, 2, 8), draw(1, 4, 2, 8)
    from helpers.one_op import program

    from clearline.ops import StateSpec

    def step(ops, w, s, i):
        y, new = ops.ring_attend(i["q"], i["k"], i["v"], s.take("ring"), i["p"], 50, 1)
        s.put("ring", new)
        return {"y": y}

    given = {"q": q, "k": k, "v": v, "p": np.array([0])}
    compiled, state = program(backend, step, {}, given, [StateSpec("ring", "ring", (1, 2, 49, 8), 4)])
    heads = (tensor(x).transpose(1, 2) for x in (q, k, v))
    expected = functional.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2)
    check(backend, np.asarray(compiled.run(state, given)["y"]), expected.numpy())
