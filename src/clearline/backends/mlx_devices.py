"""MLX's devices: which are here, what keeps the GPU from being used, and what to do when memory runs out."""

import os
import platform
import re
from functools import cache
from importlib.metadata import version

import mlx.core as mx

from clearline.backends.mlx_thread import on_thread
from clearline.backends.wanted import Device, Wanted, only
from clearline.errors import BackendError

# Newer MLX multiplies float32 matrices in TF32 where a GPU can (Apple's M5, CUDA): ten bits of mantissa, and other tokens.
# It reads this at its first product. Whoever has set it to 1 gets what they asked for.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

# Older ones give a new model the compiled steps of one that is gone (before 0.32.1), abort where Metal's memory runs out, cannot
# compile an embedding with a norm, or read reversed arrays wrongly in fused kernels (before 0.32.0).
OLDEST = (0, 32, 1)
DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


def devices() -> list[Device]:
    """The GPU that belongs to this build of MLX or to this machine, with what is wrong with it, then the CPU."""
    name, fault = gpu()
    about = f"MLX {version('mlx')} on {'Metal' if name == 'metal' else 'CUDA'}"
    cpu = f"MLX {version('mlx')}; on Linux slow, with the reference BLAS"
    return [Device(name, about, fault or version_fault()), Device("cpu", cpu, version_fault())]


def version_fault() -> str:
    """Why this version of MLX is not used, or nothing."""
    found = version("mlx")
    if tuple(int(part) for part in re.findall(r"\d+", found)[:3]) >= OLDEST:
        return ""
    oldest = ".".join(map(str, OLDEST))
    return f"MLX {found} is too old, and computes wrong numbers in places; pip install 'mlx>={oldest}'"


def gpu() -> tuple[str, str]:
    """The GPU's name as in `--device`, and why it cannot be used, or nothing."""
    if mx.metal.is_available():
        return "metal", _start_fault()
    if hasattr(mx, "cuda") and mx.cuda.is_available():
        return "cuda", _start_fault()
    if platform.system() == "Darwin":
        return "metal", "this MLX finds no Metal; it needs a Mac with Apple Silicon, and macOS 14 or newer"
    build = "on a machine with a card, pip uninstall mlx-cpu && pip install 'mlx[cuda12]' brings CUDA"
    return "cuda", f"this MLX has no CUDA, or finds no card ({build})"


@cache
def _start_fault() -> str:
    """Why the GPU that MLX finds does not compute, or nothing; a driver or a card that does not suit this build says so now."""

    def compute() -> None:
        with mx.stream(mx.gpu):
            mx.eval(mx.zeros(1) + 1)

    try:
        on_thread(compute)
    except (RuntimeError, ValueError) as error:
        return f"the GPU that MLX finds does not start: {_first_line(error)}"
    return ""


def checked_device(wanted: Wanted) -> tuple[str, str]:
    """The device to use, and why it is the CPU where nobody asked for that. Raises BackendError when it is not to be had."""
    if fault := version_fault():
        raise BackendError(f"the mlx backend cannot be used: {fault}")
    name, fault = gpu()
    only("mlx", wanted, ("metal", "cuda", "cpu"), tuple(DTYPES))
    theirs = "Metal needs a Mac" if name == "cuda" else "CUDA needs an NVIDIA card, and this is a Mac"
    other = "" if wanted.device in (None, "cpu", name) else theirs
    if wanted.device not in (None, "cpu") and (fault or other):
        said = other or fault
        raise BackendError(
            f"device {wanted.device} cannot be used: {said}. MLX also runs on the CPU (--device cpu); onnx is faster there"
        )
    if wanted.device is not None or not fault:
        return wanted.device or name, ""
    return "cpu", f"mlx runs on the CPU: {fault}. Of mlx/cpu this is not said; --backend onnx is faster"


def free_memory(device: str) -> int | None:
    """Bytes that weights and state may still take; None where nobody says. A Mac's GPU shares the machine's memory: Metal
    recommends how much of it to use."""
    if device == "cpu":
        return None
    info = mx.device_info()
    if (free := info.get("free_memory")) is not None:
        return int(free)
    most = info.get("max_recommended_working_set_size") or info.get("total_memory")
    return None if not most else max(0, int(most) - mx.get_active_memory())


def memory_message(device: str, error: Exception) -> str:
    """Out of memory in the middle of things."""
    held = mx.get_active_memory() / 1e9
    advice = "quantise the model (--quantize q8 or q4), take --dtype bfloat16, or hold fewer conversations at once"
    return f"{device} is out of memory with {held:.1f} GB of weights and state on it: {_first_line(error)}. {advice}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
