"""What is asked of a backend, and what it says about the machine: words that the backends and their choice share."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from clearline.errors import BackendError
from clearline.ops import Backend

DTYPES = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Wanted:
    """How a backend shall run; None leaves it to the backend. `dtype` is that of weights and activations.

    `cache` "int8": keys and values in int8, a quarter of the bytes; `weights` "int16" or "int8": dense matrices in
    so many bits. All are the onnx backend's, and their results are no longer quite those of float32. `compile`: fuse whole
    frames with torch.compile (the torch backend).
    """

    threads: int | None = None
    device: str | None = None
    dtype: str | None = None
    cache: str | None = None
    weights: str | None = None
    compile: bool = False


@dataclass(frozen=True)
class Device:
    """A place where a backend could run here: `name` as in `--device`, what it is, and why it cannot be used ("": it can)."""

    name: str
    about: str
    fault: str = ""


class BackendModule(Protocol):
    """What the module of a backend offers. Importing it may fail where its library is not installed."""

    def devices(self) -> list[Device]:
        """Where it could run, the best first; faulty ones with their fault. Makes nothing, holds nothing."""

    def make(self, wanted: Wanted) -> Backend:
        """A backend. Raises BackendError for a device or dtype that is not to be had."""


DEVICES = "cpu, mps, cuda, cuda:1 and so on, metal"


def is_device(name: str) -> bool:
    """Whether some backend on some machine has a device of that name."""
    return re.fullmatch(r"cpu|mps|metal|cuda(:\d{1,3})?", name) is not None


def known_device(name: str) -> str:
    """The name of a device that some machine has; BackendError for any other."""
    if not is_device(name):
        raise BackendError(f"there is no device {name!r}; known: {DEVICES}")
    return name


def only(
    name: str,
    wanted: Wanted,
    devices: Sequence[str],
    dtypes: Sequence[str],
    caches: Sequence[str] = (),
    weights: Sequence[str] = (),
) -> None:
    """Refuse a device, a dtype, a cache or weights that a backend does not have."""
    if wanted.device is not None and wanted.device not in devices:
        raise BackendError(f"the {name} backend has no device {wanted.device!r}; it runs on: {', '.join(devices)}")
    if wanted.dtype is not None and wanted.dtype not in dtypes:
        raise BackendError(f"the {name} backend does not compute in {wanted.dtype!r}; known: {', '.join(dtypes)}")
    refuse_kept(name, wanted, caches, weights)


def refuse_kept(name: str, wanted: Wanted, caches: Sequence[str] = (), weights: Sequence[str] = ()) -> None:
    """Refuse a kind of cache or of weights that is not among a backend's, and what only PyTorch compiles."""
    if wanted.compile and name != "torch":
        raise BackendError(f"--compile is for --backend torch; the {name} backend has no such choice")
    if wanted.weights is not None and wanted.weights not in weights:
        known = ", ".join(weights) or "only as --dtype and --quantize say"
        raise BackendError(f"the {name} backend does not keep weights in {wanted.weights!r}; known: {known}")
    if wanted.cache is not None and wanted.cache not in caches:
        raise BackendError(f"the {name} backend has no {wanted.cache!r} cache; known: {', '.join(caches) or 'only its own dtype'}")
