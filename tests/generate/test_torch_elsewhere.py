"""A frame on a device that is not here: PyTorch's fake tensors compute shapes, types and devices, no values.

They refuse a sum of tensors of two devices, and any look at a value: what would wait for a card inside a frame, and what a graph
capture forbids.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from helpers.checkpoints import model

torch = pytest.importorskip("torch")

from torch._subclasses import fake_tensor  # noqa: E402
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend  # noqa: E402

from clearline.backends.torch_quantised import Int4Cuda  # noqa: E402
from clearline.backends.torch_run import Torch  # noqa: E402
from clearline.config.checkpoint import WORST  # noqa: E402
from clearline.config.lm import UNGENERATED  # noqa: E402
from clearline.generate import Codec, LMPrograms, torch_frame  # noqa: E402
from clearline.generate.guess import HEARD  # noqa: E402
from clearline.ops.weight import Weight, quantise  # noqa: E402

LANES = 3


class CalledGraphs:
    """As on a card, but called: there is nothing to capture with."""

    prepares = True

    def __init__(self, device: Any, active: Any, compiles: bool) -> None:
        pass

    def run(self, key: Any, function: Any) -> Any:
        return function()

    def beside(self, function: Any) -> Any:
        function()
        return lambda: None


@pytest.fixture(scope="module")
def far() -> Any:
    _setup_privateuseone_for_python_backend("far")
    return torch.device("far:0")


@pytest.fixture(scope="module")
def mode() -> Any:
    return fake_tensor.FakeTensorMode()  # one for all: constants are kept from one test to the next


@pytest.fixture
def fake(mode: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    made = torch.tensor

    def tensor(values: Any, device: Any = None, **kind: Any) -> Any:
        # `torch.tensor` goes past fake tensors to the device.
        here = made(values, **kind)
        return here if device is None else torch.empty_like(here, device=device)

    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch_frame, "Graphs", CalledGraphs)
    monkeypatch.setattr(fake_tensor, "CONSTANT_NUMEL_LIMIT", 0)  # else single numbers are computed with, in earnest
    with mode:
        yield


def frame_of(case: str, far: Any, guided: bool = False, bits: int = 0) -> torch_frame.TorchFrame:
    """The case's model, bfloat16 with a float32 codec, in lanes on the far device."""
    here = model(case, "numpy64")
    backend = Torch(far, torch.bfloat16)
    weights = dict(here.checkpoint.lm_weights())
    if bits:
        weights = {name: quantise(w, bits) if w.data.ndim == 2 and w.shape[1] % 32 == 0 else w for name, w in weights.items()}
    programs = LMPrograms(here.config, backend, weights)
    codec = Codec(here.checkpoint.mimi_config, Torch(far, torch.float32), here.checkpoint.mimi_weights())
    guide = None
    if guided:
        worst = here.checkpoint.lm_weights(WORST)["text_emb.weight"]
        guide = LMPrograms(here.config, backend, weights | {"text_emb.weight": worst})
    return torch_frame.TorchFrame(codec, programs, LANES, guide)


def a_frame(frame: torch_frame.TorchFrame) -> dict[str, Any]:
    """A frame of all three parts, two of the lanes active."""
    cfg, some = frame.cfg, np.array([True, False, True])
    frame.encode(some, np.zeros((LANES, 1920), np.float32), np.full((LANES, max(1, cfg.user_streams)), HEARD))
    found = frame.language(some, np.full((LANES, 1 + cfg.dep_q), UNGENERATED), some, details=True)
    frame.decode(some)
    return found


@pytest.mark.parametrize("bits", [0, 8, 4])
@pytest.mark.parametrize("case", ["moshi_d1", "odd", "stt"])
@pytest.mark.usefixtures("fake")
def test_a_whole_frame_stays_on_its_device_and_never_waits_for_it(case: str, bits: int, far: Any) -> None:
    frame = frame_of(case, far, bits=bits)
    frame.prepare()
    frame.begin(1, model(case, "numpy64").generation(seed=2**64 - 1))
    for _ in range(2):
        found = a_frame(frame)
    assert {tensor.device for tensor in found.values()} == {far}
    assert found["text_logits"].shape == (LANES, frame.cfg.text_card_out)
    frame.jump(1, np.zeros((frame.cfg.streams, 2), np.int64), 5)
    frame.restart_hearing(1)


@pytest.mark.usefixtures("fake")
def test_with_guidance_and_a_voice_prompt_too(far: Any) -> None:
    frame = frame_of("formats/hibiki", far, guided=True)
    frame.begin(0, model("formats/hibiki", "numpy64").generation(guidance=3.0))
    assert a_frame(frame)["text_logits"].shape == (LANES, frame.cfg.text_card_out)
    frame.replay(0, np.zeros(frame.cfg.transformer.dim, np.float32))


@pytest.mark.usefixtures("fake")
def test_a_look_at_a_value_or_a_foreign_tensor_would_be_noticed(far: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = frame_of("moshi_d1", far)
    row = frame._row
    monkeypatch.setattr(frame, "_row", lambda: row() * int(frame.active.any()))
    with pytest.raises(fake_tensor.DataDependentOutputException):
        a_frame(frame)
    monkeypatch.setattr(frame, "_row", lambda: row() + torch.ones(LANES, 1, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="same device"):
        a_frame(frame)


@pytest.mark.parametrize("width", [32, 64, 128, 4096])
@pytest.mark.usefixtures("fake")
def test_the_int4_kernel_of_cuda_takes_what_it_is_given(width: int, far: Any) -> None:
    values = np.random.default_rng(0).standard_normal((48, width)).astype(np.float32)
    product = Int4Cuda(quantise(Weight("w", values), 4), far)
    y = product(torch.zeros(2, 1, width, dtype=torch.bfloat16, device=far), None)
    assert (y.shape, y.dtype, y.device) == ((2, 1, 48), torch.bfloat16, far)
