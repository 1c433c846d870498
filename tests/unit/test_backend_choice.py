"""Which backend is taken, what is refused, and what is said about it."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from clearline.backends import choose as chooser
from clearline.backends.choose import KINDS, SMALL_BYTES, Kind, choose, get_backend, open_backend, specified
from clearline.backends.wanted import Device, Wanted
from clearline.errors import BackendError

LARGE = 2 * SMALL_BYTES
ABSENT = replace(KINDS["torch"], package="a_package_that_is_not_there")


@pytest.fixture
def machine(monkeypatch):
    """machine(platform, processor, driver=..., torch=[devices] or None, mlx=...): choose as if on that machine."""

    def pretend(platform="linux", processor="x86_64", driver=False, **libraries):
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(chooser.platform, "machine", lambda: processor)
        monkeypatch.setattr(chooser, "nvidia_driver", lambda: driver)
        kinds = dict(KINDS)
        for name in ("torch", "mlx"):
            package = "numpy" if libraries.get(name) is not None else "a_package_that_is_not_there"
            kinds[name] = replace(kinds[name], package=package)
        monkeypatch.setattr(chooser, "KINDS", kinds)
        monkeypatch.setattr(chooser, "backend_module", lambda name: SimpleNamespace(devices=lambda: libraries[name]))

    return pretend


CARD = [Device("cuda", "an H200"), Device("cpu", "a CPU")]


@pytest.mark.parametrize(
    ("size", "machine_is", "expected", "reason"),
    [
        (LARGE, {}, ("onnx", None), "no accelerator"),
        (LARGE, {"driver": True}, ("onnx", None), r"pip install 'clearline\[torch\]'"),
        (LARGE, {"driver": True, "torch": CARD}, ("torch", "cuda"), "an H200"),
        (None, {"driver": True, "torch": CARD}, ("torch", "cuda"), "an H200"),
        (SMALL_BYTES - 1, {"driver": True, "torch": CARD}, ("onnx", None), "400 MB is done sooner"),
        (LARGE, {"torch": CARD}, ("onnx", None), "no accelerator"),
        (
            LARGE,
            {"driver": True, "torch": [Device("cpu", ""), Device("cuda", "", "too old")]},
            ("onnx", None),
            "card: too old",
        ),
        (LARGE, {"driver": True, "torch": [Device("cpu", "")]}, ("onnx", None), "built for the CPU only"),
        (LARGE, {"platform": "darwin", "processor": "arm64"}, ("onnx", None), r"pip install 'clearline\[mlx\]'"),
        (LARGE, {"platform": "darwin", "processor": "arm64", "mlx": [Device("metal", "M9")]}, ("mlx", "metal"), "M9"),
        (LARGE, {"platform": "darwin", "processor": "arm64", "mlx": [Device("metal", "M9", "broken")]}, ("onnx", None), "broken"),
        (LARGE, {"platform": "darwin", "processor": "x86_64", "mlx": [Device("metal", "M9")]}, ("onnx", None), "no accelerator"),
    ],
)
def test_the_choice_and_its_reason(machine, size, machine_is, expected, reason):
    machine(**machine_is)
    chosen = choose(size)
    assert (chosen.name, chosen.device) == expected
    import re

    assert re.search(reason, chosen.why), chosen.why


def test_a_library_that_does_not_load_is_no_choice_but_a_reason(machine, monkeypatch):
    machine(driver=True, torch=CARD)

    def fails(name):
        raise BackendError("torch does not load here (libcudart)")

    monkeypatch.setattr(chooser, "backend_module", fails)
    assert (choose(LARGE).name, choose(LARGE).why) == ("onnx", "torch does not load here (libcudart)")


@pytest.mark.parametrize(
    ("device", "name"), [("cpu", "onnx"), ("cuda", "torch"), ("cuda:1", "torch"), ("mps", "torch"), ("metal", "mlx")]
)
def test_a_device_names_its_backend(device, name):
    assert choose(LARGE, device).name == name


def test_without_a_word_a_small_model_runs_on_onnx():
    assert open_backend("auto", Wanted(), 10_000_000).name == "onnx"


def test_names_carry_devices_and_dtypes():
    assert specified("torch/cuda:1/bfloat16") == ("torch", Wanted(device="cuda:1", dtype="bfloat16"))
    assert specified("onnx", Wanted(threads=3)) == ("onnx", Wanted(threads=3))
    assert specified("mlx/cpu", Wanted(dtype="float16")) == ("mlx", Wanted(device="cpu", dtype="float16"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "no backend 'gpu'; known: auto, onnx, numpy64, torch, mlx"),
        ("onnx/cuda", "onnx backend has no device 'cuda'; it runs on: cpu"),
        ("onnx/bfloat16", "onnx backend does not compute in 'bfloat16'; known: float32"),
        ("numpy64/float32", "numpy64 backend does not compute in 'float32'; known: float64"),
    ],
)
def test_what_there_is_not_is_refused(name, message):
    with pytest.raises(BackendError, match=message):
        get_backend(name)


@pytest.mark.parametrize("device", ["moon", "", "gpu", "CUDA", "cuda:x", "cuda:-1", "cpu:0"])
def test_a_device_that_no_machine_has_is_refused_before_a_library_is_missed(device, monkeypatch):
    monkeypatch.setattr(chooser, "KINDS", {"torch": ABSENT, "mlx": replace(ABSENT, name="mlx"), "onnx": KINDS["onnx"]})
    for ask in (
        lambda: choose(LARGE, device),
        lambda: open_backend("auto", Wanted(device=device)),
        lambda: open_backend("torch", Wanted(device=device)),
    ):
        with pytest.raises(BackendError, match=f"there is no device '{device}'; known: cpu, mps, cuda, cuda:1 and so on, metal"):
            ask()


@pytest.mark.parametrize("part", ["moon", "float8", ""])
def test_a_name_that_carries_what_is_neither_device_nor_float_type(part):
    with pytest.raises(BackendError, match=f"'{part}' is no device .*metal.* and no float type .*bfloat16"):
        specified(f"torch/{part}")


@pytest.mark.parametrize(("name", "wanted", "message"), [
    ("torch/cpu", Wanted(device="cuda"), "two devices are asked for, cuda and cpu: leave one out"),
    ("torch/cuda:0/cuda:1", Wanted(), "two devices are asked for, cuda:0 and cuda:1"),
    ("torch/bfloat16", Wanted(dtype="float32"), "two float types are asked for, float32 and bfloat16"),
])  # fmt: skip
def test_of_two_devices_or_float_types_none_is_taken_silently(name, wanted, message):
    with pytest.raises(BackendError, match=message):
        open_backend(name, wanted)
    assert specified("torch/cpu/float32", Wanted(device="cpu", dtype="float32"))[1] == Wanted(device="cpu", dtype="float32")


def test_a_folder_of_the_same_name_is_no_library(monkeypatch, tmp_path):
    """`python -m clearline` beside a folder mlx/ of models: Python would import it."""
    for name in ("only_a_folder", "made_as_mlx_is"):
        (tmp_path / name / "weights").mkdir(parents=True)
    (tmp_path / "made_as_mlx_is" / "core.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert not replace(ABSENT, package="only_a_folder").installed and replace(ABSENT, package="made_as_mlx_is").installed


def test_what_is_not_installed_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(chooser, "KINDS", {"torch": ABSENT})
    with pytest.raises(BackendError, match=r"not installed here: pip install 'clearline\[torch\]'"):
        get_backend("torch")


def test_what_does_not_load_is_refused_with_what_the_loader_says(monkeypatch):
    broken = Kind("torch", "", "numpy", "torch", "clearline.no_such_module")
    monkeypatch.setattr(chooser, "KINDS", {"torch": broken})
    with pytest.raises(
        BackendError,
        match=r"numpy at .*numpy/__init__.py does not load here .*no_such_module.*; pip install 'clearline\[torch\]' brings",
    ):
        get_backend("torch")


def test_a_backend_that_computes_wrong_numbers_is_refused_with_the_operation(monkeypatch):
    """Only the machine it is wrong on can find that out: the self-test runs when a backend is first opened."""
    from clearline.backends.numpy64 import Numpy64

    def make(wanted):
        backend = Numpy64()
        backend._ops.activation = lambda x, name, alpha=1.0: x * 0.999
        return backend

    monkeypatch.setattr(chooser, "KINDS", {"odd": Kind("odd", "", "numpy", "", "")})
    monkeypatch.setattr(chooser, "backend_module", lambda name: SimpleNamespace(make=make))
    with pytest.raises(BackendError, match=r"odd backend computes wrong numbers on cpu: silu \(error .*Use another"):
        get_backend("odd")


# -- PyTorch's devices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        (["The NVIDIA driver on your system is too old (found version 11040)."], "driver is too old.*update the driver"),
        (["Found no NVIDIA driver on your system."], "no NVIDIA card with a driver"),
        (["CUDA error: no kernel image is available for execution on the device"], "without code for this card"),
        (["sm_120 is not compatible with the current PyTorch installation"], "without code for this card"),
        (["CUDA error: something nobody has seen"], "CUDA does not start.*something nobody has seen"),
        ([], "no NVIDIA card"),
    ],
)
def test_what_pytorch_says_about_a_driver_becomes_what_to_do(said, understood):
    pytest.importorskip("torch")
    import re

    from clearline.backends.torch_devices import driver_message

    assert re.search(understood, driver_message(said))


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "cuda cannot be used: this PyTorch .* without CUDA"),
        ("cuda:3", "cuda:3 cannot be used"),
        ("mps", "mps cannot be used: this PyTorch .* without Metal"),
        ("tpu", "no device 'tpu'; known: cpu, mps, cuda"),
        ("cuda:x", "no device 'cuda:x'"),
    ],
)
def test_devices_that_are_not_here(device, message):
    torch = pytest.importorskip("torch")
    if torch.backends.cuda.is_built() or torch.backends.mps.is_built():
        pytest.skip("this PyTorch has accelerators")
    with pytest.raises(BackendError, match=message):
        get_backend("torch", device=device)


def test_a_numbered_card_that_is_not_there(monkeypatch):
    torch = pytest.importorskip("torch")
    from clearline.backends import torch_devices

    monkeypatch.setattr(torch_devices, "cuda_fault", lambda: "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert torch_devices.checked_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(BackendError, match="no device cuda:2: 2 CUDA devices are here"):
        torch_devices.checked_device("cuda:2")


@pytest.mark.parametrize("dtype", ["int8", "float8"])
def test_dtypes_that_do_not_exist(dtype):
    pytest.importorskip("torch")
    with pytest.raises(BackendError, match=f"does not compute in '{dtype}'; known: float64, float32, bfloat16, float16"):
        get_backend("torch", dtype=dtype)
