"""Which backends there are, which of them run here, and which one is taken when nobody says.

A backend is a module with `devices()` and `make(wanted)` (see `wanted.BackendModule`) and a line in KINDS.
"""

import ctypes
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import cast

from clearline.backends.wanted import DEVICES, DTYPES, BackendModule, Wanted, is_device, known_device
from clearline.errors import BackendError
from clearline.ops import Backend

AUTO = "auto"
_ANY = Wanted()
COMPILED = "compiled"
# Below this many bytes of language model a CPU is done before an accelerator has been told what to do, 20 times a frame.
SMALL_BYTES = 400_000_000


@dataclass(frozen=True)
class Kind:
    """A backend by name: what it is, the package it needs, Clearline's extra that brings it, and the module it lives in."""

    name: str
    about: str
    package: str
    extra: str
    module: str

    @property
    def installed(self) -> bool:
        """Whether its package is here; a folder in the search path that only has the name is none."""
        found = find_spec(self.package)
        # mlx too is a folder without an __init__.py, but with a core.
        return found is not None and (found.origin is not None or find_spec(f"{self.package}.core") is not None)


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("onnx", "ONNX Runtime on the CPU, float32", "onnxruntime", "", "clearline.backends.onnx_run"),
        Kind("numpy64", "the float64 reference, slow", "numpy", "", "clearline.backends.numpy64"),
        Kind("torch", "PyTorch: CUDA, Metal (MPS), CPU", "torch", "torch", "clearline.backends.torch_run"),
        Kind("mlx", "MLX: Metal, CUDA, CPU", "mlx", "mlx", "clearline.backends.mlx_run"),
    )
}


@dataclass(frozen=True)
class Choice:
    """A backend and a device of it (None: its own choice), and why."""

    name: str
    device: str | None
    why: str


def backend_module(name: str) -> BackendModule:
    """The module of a backend. Raises BackendError when there is none of that name, or its library does not load."""
    if name not in KINDS:
        raise BackendError(f"there is no backend {name!r}; known: {', '.join((AUTO, *KINDS))}")
    kind = KINDS[name]
    if not kind.installed:
        raise BackendError(f"the {name} backend needs {kind.package}, not installed here: pip install 'clearline[{kind.extra}]'")
    try:
        return cast(BackendModule, import_module(kind.module))
    except (ImportError, OSError) as error:
        # A wheel for another driver or another processor: what the loader says is the only thing known about it.
        whole = f"; pip install 'clearline[{kind.extra}]' brings all that it needs" if kind.extra else ""
        found = find_spec(kind.package)
        where = "" if found is None or found.origin is None else f" at {found.origin}"
        raise BackendError(
            f"the {name} backend cannot be used: {kind.package}{where} does not load here ({error}){whole}"
        ) from error


def open_backend(name: str, wanted: Wanted, model_bytes: int | None = None) -> Backend:
    """The backend called `name`, or with "auto" the one that suits a language model of `model_bytes`; self-tested.

    A name may carry a device and a dtype, and that frames shall be compiled: "torch/cuda:1/bfloat16/compiled". Raises
    BackendError when it is unknown, not installed, lacks the device, or computes wrong numbers on this machine.
    """
    name, wanted = specified(name, wanted)
    if name == AUTO:
        return _chosen(choose(model_bytes, wanted.device), wanted)
    backend = backend_module(name).make(wanted)
    if name not in _TRUSTED:
        _trust(name, backend.device, wanted)
    return backend


def _chosen(choice: Choice, wanted: Wanted) -> Backend:
    """The backend that was chosen; what it refuses, another one that is named may have."""
    try:
        return open_backend(choice.name, replace(wanted, device=wanted.device or choice.device))
    except BackendError as error:
        raise BackendError(f"{error}. Nobody named a backend, so {choice.name} was chosen: {choice.why}") from error


def specified(name: str, wanted: Wanted = _ANY) -> tuple[str, Wanted]:
    """ "torch/cuda:1/bfloat16" is the backend torch, wanted on that device in that dtype; "torch/compiled" wants it compiled.

    Raises BackendError for what is neither, for two that differ, and for a device that no machine has.
    """
    name, *parts = name.split("/")
    for part in parts:
        if part == COMPILED:
            wanted = replace(wanted, compile=True)
        elif part in DTYPES:
            wanted = replace(wanted, dtype=_agreed("float types", wanted.dtype, part))
        elif is_device(part):
            wanted = replace(wanted, device=_agreed("devices", wanted.device, part))
        else:
            raise BackendError(f"{part!r} is no device ({DEVICES}) and no float type ({', '.join(DTYPES)}), and not {COMPILED!r}")
    if wanted.device is not None:
        known_device(wanted.device)
    return name, wanted


def _agreed(what: str, wanted: str | None, said: str) -> str:
    """What is `said`, unless another one is wanted already: BackendError."""
    if wanted not in (None, said):
        raise BackendError(f"two {what} are asked for, {wanted} and {said}: leave one out")
    return said


def get_backend(name: str, threads: int | None = None, device: str | None = None, dtype: str | None = None) -> Backend:
    """`open_backend`, for a name and single wishes."""
    return open_backend(name, Wanted(threads, device, dtype))


def choose(model_bytes: int | None = None, device: str | None = None) -> Choice:
    """The backend for a language model of `model_bytes` (None: a large one), from what is installed.

    Nothing is imported, unless there is an accelerator whose library has to be asked. Raises BackendError for a device that no
    machine has.
    """
    if device not in (None, "cpu"):
        owner = "torch" if known_device(device).startswith(("cuda", "mps")) else "mlx"
        return Choice(owner, device, f"--device {device} is a device of {owner}")
    if device == "cpu":
        return Choice("onnx", None, "the fastest on a CPU")
    if model_bytes is not None and model_bytes < SMALL_BYTES:
        return Choice("onnx", None, f"a model of {model_bytes / 1e6:.0f} MB is done sooner on the CPU than on an accelerator")
    mac = sys.platform == "darwin" and platform.machine() == "arm64"
    if not mac and not nvidia_driver():
        return Choice("onnx", None, "no accelerator was found: the fastest on a CPU")
    name, card = ("mlx", "this Mac's GPU") if mac else ("torch", "this NVIDIA card")
    kind = KINDS[name]
    if not kind.installed:
        return Choice("onnx", None, f"pip install 'clearline[{kind.extra}]' would run large models on {card}")
    try:
        found = backend_module(name).devices()
    except BackendError as error:
        return Choice("onnx", None, str(error))
    best = found[0]
    if best.fault or best.name == "cpu":
        # PyTorch names a card that it cannot use after the CPU that it can.
        fault = next((device.fault for device in found if device.fault), "it is built for the CPU only")
        return Choice("onnx", None, f"{kind.package} cannot use {card}: {fault}")
    return Choice(name, best.name, f"{kind.package} runs on {best.about}")


@cache
def nvidia_driver() -> bool:
    """Whether an NVIDIA driver is here, which is quickly seen; whether it works, PyTorch says."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


# The reference is what the others are tested against. ONNX Runtime on a CPU is the default that all tests run with; testing it
# at each start would take longer than the start. `clearline backends` tests it.
_TRUSTED = ("numpy64", "onnx")


@cache
def _trust(name: str, device: str, wanted: Wanted) -> None:
    from clearline.backends.selftest import self_test

    fault = self_test(backend_module(name).make(wanted)).fault
    if fault:
        raise BackendError(f"the {name} backend computes wrong numbers on {device}: {fault}. Use another (--backend onnx)")
