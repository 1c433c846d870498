"""What torch.compile launches for a part of a frame on an H200: its generated code, read without a card.

    python benchmarks/torch_compiled_kernels.py [--batch 1] [--filled 3000] [--show]

Needs a CUDA build of PyTorch (the driver and the card are pretended) and g++. Layers and steps of the 7B, at its width, but with
two layers of each transformer unless --layers is given; a frame of the whole model follows from two counts. Kernels are
counted as the generated program calls them: a sort is more than one, and what a library does inside is not seen.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import shapes
import torch
import torch._inductor.config as inductor
import triton
from torch._dynamo.device_interface import CudaInterface
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.graph import GraphLowering
from torch._subclasses import fake_tensor
from torch_cuda import SETTINGS
from triton.backends.compiler import GPUTarget

from clearline.backends.torch_compile import compiled
from clearline.backends.torch_run import Torch
from clearline.config.kyutai import official_mimi
from clearline.errors import BackendError
from clearline.generate import Codec, LMPrograms, torch_frame
from clearline.model import lm_weights
from clearline.ops import Weight

CARD = torch.device("cuda:0")
H200 = SimpleNamespace(
    name="H200", major=9, minor=0, total_memory=141 << 30, multi_processor_count=132, max_threads_per_multi_processor=2048,
    max_threads_per_block=1024, regs_per_multiprocessor=65536, warp_size=32, gcnArchName="", L2_cache_size=50 << 20,
    shared_memory_per_block=49152, shared_memory_per_block_optin=232448, shared_memory_per_multiprocessor=233472,
)  # fmt: skip
# Whatever moves between devices asks a guard for the present one; CUDA's own asks the driver.
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
using namespace c10;
struct Guard final : impl::DeviceGuardImplInterface {
  static constexpr DeviceType static_type = DeviceType::CUDA;
  Device here() const { return Device(static_type, 0); }
  Stream stream() const { return Stream(Stream::DEFAULT, here()); }
  DeviceType type() const override { return static_type; }
  Device exchangeDevice(Device) const override { return here(); }
  Device getDevice() const override { return here(); }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const override { return stream(); }
  Stream getNewStream(Device, int) const override { return stream(); }
  Stream getDefaultStream(Device) const override { return stream(); }
  Stream exchangeStream(Stream s) const override { return s; }
  DeviceIndex deviceCount() const noexcept override { return 1; }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);
"""


class CalledGraphs:
    """In the place of graphs: nothing can be captured."""

    prepares = True

    def __init__(self, *arguments: object) -> None: ...

    def run(self, key: object, function: Any) -> Any:
        return function()

    def beside(self, function: Any) -> Any:
        function()
        return lambda: None


def pretend_card() -> list[str]:
    """Make PyTorch believe in an H200; returns the list that generated programs will be put into."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "guard.cpp", Path(folder) / "guard.so"
        source.write_text(GUARD)
        root = Path(torch.__file__).parent
        include = [f"-I{root}/include", f"-I{root}/include/torch/csrc/api/include", f"-L{root}/lib", "-lc10"]
        subprocess.run(["g++", "-std=c++20", "-shared", "-fPIC", source, "-o", library, *include], check=True)
        torch.ops.load_library(str(library))
    anything = lambda *a, **k: None  # noqa: E731
    for module, names in {
        torch.cuda: {
            "get_device_properties": lambda *a: H200, "get_device_capability": lambda *a: (9, 0), "current_device": lambda: 0,
            "is_available": lambda: True, "device_count": lambda: 1, "_lazy_init": anything, "synchronize": anything,
            "get_rng_state": lambda *a: torch.zeros(16, dtype=torch.uint8), "set_rng_state": anything,
            "is_current_stream_capturing": lambda: False,
            "device": lambda device: nullcontext(),
        },
        torch.cuda.random: {"_lazy_init": anything},
        torch._C: {"_cuda_init": anything, "_cuda_getCurrentRawStream": lambda device: 0},
        CudaInterface: {
            "get_device_properties": lambda *a: H200, "is_available": lambda: True, "current_device": lambda: 0,
            "get_compute_capability": lambda *a: 90, "synchronize": anything,
        },
        CudaInterface.Worker: {"get_device_properties": lambda *a: H200, "current_device": lambda: 0},
        torch_frame: {"Graphs": CalledGraphs},
    }.items():  # fmt: skip
        for name, value in names.items():
            setattr(module, name, staticmethod(value) if isinstance(module, type) else value)
    target = GPUTarget("cuda", 90, 32)
    answers = {"current_target": target, "current_device": 0, "active_torch_device": CARD, "benchmarker": None}
    asked = {f"get_{name}": lambda value=value: value for name, value in answers.items()}
    triton.runtime.driver.set_active(SimpleNamespace(**asked))
    tensor = torch.tensor  # which goes past fake tensors to the device
    torch.tensor = lambda values, device=None, **kind: torch.empty_like(tensor(values, **kind), device=device)
    fake_tensor.CONSTANT_NUMEL_LIMIT = 0
    inductor.compile_threads, inductor.fx_graph_cache, inductor.joint_graph_constant_folding = 1, False, False
    inductor.shape_padding = False  # which it decides by measuring
    programs: list[str] = []

    def keep(code: str) -> None:
        programs.append(code)
        raise RuntimeError("what follows would launch it")

    GraphLowering.save_output_code = staticmethod(keep)
    AsyncCompile.triton = lambda self, name, source, device_str="cuda": None
    return programs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--filled", type=int, default=3000, help="positions of the past")
    parser.add_argument("--layers", type=int, nargs=2, default=(2, 2), help="of the temporal transformer and of the depformer")
    parser.add_argument("--part", choices=["language", "encode", "decode"], default="language")
    parser.add_argument("--show", action="store_true", help="every call, in order")
    args = parser.parse_args()
    if not torch.backends.cuda.is_built():
        sys.exit("this needs a CUDA build of PyTorch (its code generator, not a card)")
    full = shapes.moshi_7b()
    assert full.depformer is not None
    transformers = zip((full.transformer, full.depformer.transformer), args.layers, strict=True)
    temporal, depth = (replace(transformer, num_layers=layers) for transformer, layers in transformers)
    cfg = replace(full, transformer=temporal, depformer=replace(full.depformer, transformer=depth))
    programs = pretend_card()
    with fake_tensor.FakeTensorMode():
        weights = {name: Weight(name, np.zeros(shape, ml_dtypes.bfloat16)) for name, shape in lm_weights(cfg).items()}
        codec = Codec(official_mimi(), Torch(CARD, torch.float32, compiles=True), shapes.random_mimi())
        frame = torch_frame.TorchFrame(codec, LMPrograms(cfg, Torch(CARD, torch.bfloat16, compiles=True), weights), args.batch)
        frame.begin(0, SETTINGS)
        for ring in frame._rings:
            ring.use(args.filled)
        with frame._backend.running():
            part = getattr(frame, f"_{args.part}")
            try:
                compiled(part)
            except BackendError:
                if not programs:
                    raise
    body = programs[0][programs[0].index("def call(") :]
    found = re.finditer(r"(triton_\w+)\.run\(|(?:= |^\s+)((?:extern_kernels|torch\.ops)\.[\w.]+)\(", body, re.MULTILINE)
    calls = [match[1] or match[2] for match in found]
    if args.show:
        print("\n".join(calls))
    kinds = Counter(re.sub(r"triton_.*", "generated", call) for call in calls)
    shape = (
        f"{args.filled} filled, {args.layers[0]} and {args.layers[1]} layers" if args.part == "language" else "the released codec"
    )
    print(f"{args.part}, batch {args.batch}, {shape}: {len(calls)} kernels;", end=" ")
    print(", ".join(f"{count} {kind}" for kind, count in kinds.most_common()), f"({len(set(calls))} different ones)")


if __name__ == "__main__":
    main()
