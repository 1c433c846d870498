"""Clearline's own operations for ONNX Runtime, compiled when the package is built: products, attention, embeddings, ELU.

`operations.c` says what they compute, `kernels.c` how.
"""

import ctypes
import functools
import os
from pathlib import Path

from clearline.errors import BackendError

# One name everywhere: ONNX Runtime loads whatever path it is given.
LIBRARY = Path(__file__).parent / "clearline_operations.so"
# As in kernels.h: channels of a cached row with one scale, and the largest head dimension.
SCALED, MOST_DIM = 32, 512
# Whether they have threads of their own (team.h); elsewhere ONNX Runtime's do their work.
TEAM = os.name == "posix"
_KERNELS = ("avx512", "avx2", "plain", "onnxruntime")


@functools.cache
def missing() -> str | None:
    """Why ONNX Runtime's own operations are used instead of all of ours; None when ours run on this machine."""
    wanted = os.environ.get("CLEARLINE_KERNELS", "")
    if wanted not in ("", *_KERNELS):
        raise BackendError(f"CLEARLINE_KERNELS is {wanted!r}; known: {', '.join(_KERNELS)}")
    if wanted == "onnxruntime":
        return "CLEARLINE_KERNELS=onnxruntime forbids them"
    if not LIBRARY.exists():
        return f"{LIBRARY.name} was not built: there was no C compiler when Clearline was installed"
    try:
        ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        return f"{LIBRARY.name} was built for another machine than this one: {error}"
    return None


@functools.cache
def kernels() -> str:
    """The instruction set they run with: avx512, avx2, or plain, for which products are not written; onnxruntime where `missing`.

    The environment variable CLEARLINE_KERNELS may name a smaller one than the processor has.
    """
    if missing() is not None:
        return "onnxruntime"
    library = ctypes.CDLL(str(LIBRARY))
    library.clearline_kernels.restype = ctypes.c_char_p
    name: bytes = library.clearline_kernels()
    return name.decode()


def operations() -> frozenset[str]:
    """Those of ours that are used on this machine."""
    if kernels() == "onnxruntime":
        return frozenset()
    every = frozenset({"Attend", "Elu", "Embed"})
    return every if kernels() == "plain" else every | {"Product"}
