"""PyTorch's devices: which are here, what is wrong with the others, and what to do when memory runs out."""

import re
import time
import warnings
from typing import TYPE_CHECKING

import torch

from clearline.backends.wanted import Device
from clearline.errors import BackendError

if TYPE_CHECKING:
    from clearline.backends.torch_weights import TorchWeights


def devices() -> list[Device]:
    """CUDA cards, Metal, the CPU; an accelerator that cannot be used only where there is reason to expect it."""
    found: list[Device] = []
    fault = cuda_fault()
    if not fault:
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            about = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"
            found.append(Device(f"cuda:{i}" if i else "cuda", about))
    if torch.backends.mps.is_built():
        found.append(Device("mps", "Metal", mps_fault()))
    found.append(Device("cpu", f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"))
    if fault and _expected():
        found.append(Device("cuda", "NVIDIA", fault))
    return found


def checked_device(name: str | None) -> torch.device:
    """The device called `name`, or the best. Raises BackendError with what is wrong."""
    if name is None:
        return torch.device(next(device.name for device in devices() if not device.fault))
    if not re.fullmatch(r"cpu|mps|cuda(:\d{1,3})?", name):
        raise BackendError(f"the torch backend has no device {name!r}; known: cpu, mps, cuda, cuda:1 and so on")
    kind, _, number = name.partition(":")
    fault = cuda_fault() if kind == "cuda" else mps_fault() if kind == "mps" else ""
    if fault:
        raise BackendError(f"device {name} cannot be used: {fault}")
    if number and int(number) >= torch.cuda.device_count():
        raise BackendError(f"there is no device {name}: {torch.cuda.device_count()} CUDA devices are here, numbered from 0")
    return torch.device(name)


def cuda_fault() -> str:
    """Why CUDA cannot be used, or nothing."""
    if not torch.backends.cuda.is_built():
        return f"this PyTorch ({torch.__version__}) is built without CUDA; install a CUDA build, see https://pytorch.org"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            usable = torch.cuda.is_available()
            if usable:
                torch.zeros(1, device="cuda")  # a card whose kernels this build lacks says so only now
                return ""
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:
            return driver_message([str(error), *(str(warning.message) for warning in told)])
    return driver_message([str(warning.message) for warning in told])


def driver_message(texts: list[str]) -> str:
    """What PyTorch says about a driver, as what to do about it."""
    text = " ".join(" ".join(texts).split())
    built = f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda}"
    if "too old" in text:
        return (
            f"the NVIDIA driver is too old: {built}; update the driver, or install a PyTorch built for an older CUDA ({text[:200]})"
        )
    if "no kernel image" in text or "not compatible with the current PyTorch" in text:
        return f"{built} without code for this card; install another build of PyTorch ({text[:200]})"
    if "no NVIDIA driver" in text or "no CUDA-capable device" in text or not text:
        return f"no NVIDIA card with a driver was found ({built})"
    return f"CUDA does not start ({built}): {text[:300]}"


def mps_fault() -> str:
    """Why Metal cannot be used, or nothing."""
    if not torch.backends.mps.is_built():
        return f"this PyTorch ({torch.__version__}) is built without Metal"
    if not torch.backends.mps.is_available():
        return "Metal needs macOS 14 or newer and an Apple GPU"
    return ""


def _expected() -> bool:
    return torch.backends.cuda.is_built()


def free_memory(device: torch.device) -> int | None:
    """Bytes free on the device, those that PyTorch keeps for later among them; None where nobody says."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free: int = torch.cuda.mem_get_info(device)[0] + kept
        return free
    return None


def memory_bandwidth(device: torch.device, size: int = 1 << 30) -> float | None:
    """GB/s, read and written, of the best of ten copies of `size` bytes; None where nobody says what is free."""
    free = free_memory(device)
    if free is None:
        return None
    a = torch.empty(min(size, free // 4), dtype=torch.uint8, device=device)
    b, best = torch.empty_like(a), 0.0
    for _ in range(10):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        b.copy_(a)
        torch.cuda.synchronize(device)
        best = max(best, 2 * a.nbytes / (time.perf_counter() - started) / 1e9)
    return best


def memory_message(weights: "TorchWeights", error: Exception) -> str:
    """Out of memory in the middle of things, or nothing when it is something else."""
    text = str(error)
    if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in text and "can't allocate memory" not in text:
        return ""
    wanted = re.search(r"(?:[Tt]ried to allocate) ([\d.]+ \w+)", text)
    more = f" and {wanted[1]} more wanted" if wanted else ""
    return f"{weights.device} is out of memory with {weights.bytes / 1e9:.1f} GB of weights on it{more}: {ADVICE}"


def device_message(device: torch.device, error: Exception) -> str:
    """A device that failed, or nothing when it is something else."""
    text = str(error)
    if "CUDA error" not in text and "CUDA driver" not in text:
        return ""
    return f"{device} failed ({text.splitlines()[0][:200]}); its state is lost: start again, and look at what the driver logged"


ADVICE = "quantise the model (--quantize q8 or q4), hold fewer conversations at once, or use --device cpu"
