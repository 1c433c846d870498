"""How many kernels a language-model frame of the torch backend is, by operation: counted, on CPU tensors, not timed.

    python benchmarks/torch_kernels.py [--batch 1]

Layers and steps of the 7B, in almost no width. An operation of PyTorch that is not a view counts as one kernel, as on CUDA most
are (a sort is more); attention is counted as the fused one that CUDA runs.
"""

import argparse
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch_cuda import SETTINGS, random_bfloat16, seven_thin

from clearline.backends import get_backend, torch_ops
from clearline.config.kyutai import official_mimi
from clearline.generate import Codec, LMPrograms
from clearline.generate.torch_frame import TorchFrame
from clearline.model import lm_weights


class Counting(TorchDispatchMode):
    """Counts the operations that launch something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function.overloadpacket).removeprefix("aten.")
        outputs = function(*args, **(kwargs or {}))
        made = outputs if isinstance(outputs, tuple | list) else (outputs,)
        if name.endswith("_") or not {storage(x) for x in made} <= {storage(x) for x in (*args, *flat(args))}:
            self.found[name] += 1
        return outputs


def flat(args: Any) -> list[Any]:
    return [x for arg in args if isinstance(arg, tuple | list) for x in arg]


def storage(x: Any) -> int | None:
    return x.untyped_storage().data_ptr() if isinstance(x, torch.Tensor) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    args = parser.parse_args()
    torch_ops.attend_exactly = torch_ops.attend
    cfg = seven_thin()
    backend = get_backend("torch", device="cpu", dtype="bfloat16")
    frame = TorchFrame(Codec(official_mimi(), backend, {}), LMPrograms(cfg, backend, random_bfloat16(lm_weights(cfg))), args.batch)
    for lane in range(args.batch):
        frame.begin(lane, SETTINGS)
    active, forced = np.ones(args.batch, bool), np.full((args.batch, 1 + cfg.dep_q), -2)
    parts = {"noise": lambda: frame._noise.draw(frame._key, frame._step), "whole frame": frame._language}
    frame.language(active, forced, ~active)
    for name, part in parts.items():
        # In inference mode what PyTorch composes, and a card has a kernel for (rms_norm), is seen whole.
        with frame._backend.running(), torch.inference_mode(), Counting() as counting:
            part()
        print(f"{name}: {counting.found.total()} kernels; {', '.join(f'{n} {what}' for what, n in counting.found.most_common(40))}")


if __name__ == "__main__":
    main()
