"""`torch.compile` for a part of a frame: many small kernels become few, compared at once with what they replace."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from clearline.errors import BackendError

# Normalised mean squared error of what a compiled part returns: fused roundings are fewer, wrong kernels are off by 1.
_BUDGET = 5e-2
# Products of one row become sums that are fused with what stands around them (not on the CPU).
OPTIONS = {"coordinate_descent_tuning": True}


def compiled(function: Callable[[], Any]) -> Callable[[], Any]:
    """`function` compiled, which takes up to minutes; it is called here, so nobody may be active.

    Of a dict that it returns, `hidden` and `text_logits` are compared with what it computes uncompiled. Raises BackendError when
    they differ, or when it cannot be compiled here.
    """
    expected = function()  # and what is made once (layouts of weights, masks) is made outside of the compiled code
    nothing = torch.zeros(())
    try:
        # By running it: every version of PyTorch can follow operations, not every one all of Python.
        operations = make_fx(lambda _: function())(nothing)
        fast: Callable[[Tensor], Any] = torch.compile(operations, fullgraph=True, dynamic=False, options=OPTIONS)
        found = fast(nothing)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # what a tracer, a code generator or a C++ compiler throws has no common class
        said = next((line for line in str(error).splitlines() if line.strip()), "")
        raise BackendError(f"torch.compile fails here ({type(error).__name__}: {said[:200]}): leave out --compile") from error
    for name in ("hidden", "text_logits") if isinstance(found, dict) else ():
        if expected[name].isfinite().all() and not (difference := _difference(found[name], expected[name])) <= _BUDGET:
            wrong = f"other {name} (error {difference:.1e}, at most {_BUDGET:.0e})"
            raise BackendError(f"what torch.compile made computes {wrong} on this machine: leave out --compile")
    return lambda: fast(nothing)


def _difference(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double(), expected.double()
    return float(((found - expected) ** 2).sum() / (expected**2).sum().clamp(min=1e-300))
