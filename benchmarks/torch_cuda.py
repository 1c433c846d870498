"""Frames on a CUDA card: Clearline's lanes and Kyutai's `moshi`, in one process, on the 7B shape with random weights.

    python benchmarks/torch_cuda.py [--batches 1 8 32 64] [--filled 500 3000] [--dtype bfloat16] [--no-peer]
    python benchmarks/torch_cuda.py --batches 1 --no-peer --inductor triton.enable_pdl=True      # what might be faster yet
    python benchmarks/torch_cuda.py --batches 1 --no-peer --bits 8
    python benchmarks/torch_cuda.py --device cpu --shape tiny --steps 3     # that the script itself works

Needs, in one environment, a CUDA build of PyTorch, Clearline, and for the peer `pip install --no-deps moshi==0.2.13` with its
dependencies (oracle/setup.sh has the list). A step is the language model's; a frame has the codec's encoder and decoder
too. Kyutai's run with its own CUDA graphs, attends to its whole ring from the first step, and convolves in TF32 where cuDNN
does by default; Clearline's codec computes in float32. Times are of the host, from handing in codes or sound to holding tokens or
sound. Random weights: speed does not depend on what they say. Batches named by --compile run through torch.compile as well. `ready`
is what the first frame of a length takes, capturing and compiling included; `memory` the most that PyTorch reserved.
"""

import argparse
import gc
import time
from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec

import ml_dtypes
import numpy as np
import shapes
import torch
from timing import Times, machine, timed

from clearline.backends import get_backend, torch_compile
from clearline.backends.torch_devices import memory_bandwidth
from clearline.config import GenerationConfig, LMConfig, Sampling
from clearline.config.kyutai import official_mimi
from clearline.errors import BackendError
from clearline.generate import Codec, LMPrograms
from clearline.generate.guess import HEARD
from clearline.generate.torch_frame import TorchFrame
from clearline.lab.bench import matrix_bytes, read_bandwidth
from clearline.model import lm_weights
from clearline.ops import Weight

# As Kyutai's server samples.
SETTINGS = GenerationConfig(text=Sampling(temperature=0.7, top_k=25), audio=Sampling(temperature=0.8, top_k=250))


def seven_thin() -> LMConfig:
    """The 7B's streams, steps and layers, of almost no width."""
    cfg = shapes.moshi_7b()
    assert cfg.depformer is not None
    depth = replace(cfg.depformer.transformer, dim=32, num_heads=2, num_kv_heads=2, ffn_hidden=(32,) * 8)
    wide = replace(cfg.transformer, dim=64, num_heads=2, num_kv_heads=2, ffn_hidden=(64,), context=100)
    return replace(cfg, transformer=wide, depformer=replace(cfg.depformer, transformer=depth))


def tiny() -> LMConfig:
    """The same in two layers."""
    cfg = seven_thin()
    assert cfg.depformer is not None
    depth = replace(cfg.depformer, transformer=replace(cfg.depformer.transformer, num_layers=2))
    return replace(cfg, transformer=replace(cfg.transformer, num_layers=2), depformer=depth)


SHAPES = {"moshi-7b": shapes.moshi_7b, "hibiki-1b": shapes.hibiki_1b, "tiny": tiny}


def random_bfloat16(sizes: Mapping[str, tuple[int, ...]]) -> dict[str, Weight]:
    """Weights of variance 1/fan-in; a block of random numbers again and again, which is made as fast as it is copied."""
    block = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)
    found = {}
    for name, shape in sizes.items():
        fan_in = int(np.prod(shape[1:])) or 1
        scale = 0.5 if name.endswith(("alpha", "norm1.weight", "norm2.weight")) else fan_in**-0.5
        found[name] = Weight(name, np.resize((scale * block).astype(ml_dtypes.bfloat16), shape))
    return found


def counted(text: str) -> int:
    """1 or more, for argparse."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"it must be 1 or more, not {number}")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--shape", choices=SHAPES, default="moshi-7b")
    parser.add_argument("--batches", type=counted, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--filled", type=counted, nargs="+", default=[500, 3000], help="positions of the past")
    parser.add_argument("--steps", type=counted, default=50)
    parser.add_argument(
        "--compile", type=counted, nargs="*", help="batches that run through torch.compile too; 1 by default, on the CPU none"
    )
    parser.add_argument("--inductor", nargs="*", default=[], metavar="KEY=VALUE", help="options of torch.compile to try")
    parser.add_argument("--bits", type=int, choices=[0, 4, 8], default=0, help="quantised matrices, as --quantize makes them")
    parser.add_argument("--no-peer", action="store_true")
    args = parser.parse_args()
    try:
        get_backend("torch", device=args.device, dtype=args.dtype)
    except BackendError as error:
        parser.error(str(error))
    if args.device == "mps":
        parser.error("frames of lanes run on CUDA and the CPU")
    if args.compile is None:
        args.compile = [] if args.device == "cpu" else [1]
    if not args.no_peer and find_spec("moshi") is None:
        print("moshi is not installed here, so nothing is compared (--no-peer says so beforehand)\n")
        args.no_peer = True
    torch_compile.OPTIONS.update({key: literal_eval(value) for key, value in (option.split("=") for option in args.inductor)})
    device = torch.device(args.device)
    bandwidth = memory_bandwidth(device) or read_bandwidth()
    print(machine())
    about = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{about}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}; memory {bandwidth:.0f} GB/s")
    print("\n| program | batch | filled | ready | step | frame with codec | memory | of bandwidth |\n" + "|---" * 8 + "|")
    cfg = SHAPES[args.shape]()
    found = clearline(cfg, args, bandwidth, args.batches, compiled=False)
    gc.collect()
    peer = {} if args.no_peer else kyutai(cfg, args, bandwidth)
    gc.collect()
    # Last, since every kernel is tried in many shapes when it is compiled: that may outlast the time there is.
    found |= clearline(cfg, args, bandwidth, args.compile, compiled=True)
    print()
    for (batch, compiled), (step, whole) in found.items():
        print(f"batch {batch}{', compiled' if compiled else ''}, longest past: step {step:.2f} ms, frame {whole:.2f} ms", end="")
        theirs = peer.get(batch)
        print("" if theirs is None else f"; moshi takes {theirs[0] / step:.1f} and {theirs[1] / whole:.1f} times as long")
    print("goals, 7B in bfloat16 on an H200: batch 1 under 6 ms a frame and half of moshi's; batch 64 under 40 ms")


# Median milliseconds of a step and of a frame with the codec.
Figures = tuple[float, float]


def clearline(
    cfg: LMConfig, args: argparse.Namespace, bandwidth: float, batches: Sequence[int], compiled: bool
) -> dict[tuple[int, bool], Figures]:
    """By batch, and whether compiled."""
    if not batches:
        return {}
    backend, codec_backend = (get_backend("torch", device=args.device, dtype=dtype) for dtype in (args.dtype, "float32"))
    weights = shapes.random_lm(cfg, args.bits) if args.bits else random_bfloat16(lm_weights(cfg))
    programs = LMPrograms(cfg, backend, weights)
    codec = Codec(official_mimi(), codec_backend, shapes.random_mimi())
    found: dict[tuple[int, bool], Figures] = {}
    backend.compiles = codec_backend.compiles = compiled
    for batch in batches:
        start_anew(args.device)
        frame = None
        program = f"clearline ({args.dtype}{f', {args.bits} bits' * bool(args.bits)}{', compiled' * compiled})"
        try:
            frame = TorchFrame(codec, programs, batch)
            for lane in range(batch):
                frame.begin(lane, replace(SETTINGS, seed=lane))
            for filled in args.filled:
                ready, step, whole = ours(frame, filled, args.steps)
                read = read_bytes(weights, cfg, args.dtype, batch, filled)
                report(program, batch, filled, ready, step, whole, memory(args.device), share(read, step, bandwidth))
                found[batch, compiled] = (step.median, whole.median)
        except torch.OutOfMemoryError:
            print(f"| {program} | {batch} | | does not fit | | | | |", flush=True)
        except BackendError as error:
            print(f"| {program} | {batch} | | {error} | | | | |", flush=True)
        del frame
        gc.collect()
    return found


def read_bytes(weights: Mapping[str, Weight], cfg: LMConfig, dtype: str, batch: int, filled: int) -> int:
    """What a step cannot avoid to read: every matrix once, and the keys and values of every conversation's past."""
    width = np.dtype(getattr(ml_dtypes, dtype, dtype)).itemsize
    rows = min(filled, cfg.transformer.context) * batch
    cache = 2 * cfg.transformer.num_kv_heads * cfg.transformer.head_dim * cfg.transformer.num_layers * rows
    return matrix_bytes(weights, width) + cache * width


def share(read: int, step: Times, bandwidth: float) -> str:
    return f"{read / 1e6 / step.median / bandwidth:.1%} of {bandwidth:.0f} GB/s ({read / 1e9:.2f} GB)"


def ours(frame: TorchFrame, filled: int, steps: int) -> tuple[float, Times, Times]:
    """Seconds of a first frame, a language-model step, and a frame from sound to sound, with lanes at positions up to `filled`."""
    active, off = np.ones(frame.lanes, bool), np.zeros(frame.lanes, bool)
    users = max(1, frame.cfg.user_streams)
    forced = np.full((frame.lanes, 1 + frame.cfg.dep_q), -2)
    codes = np.random.default_rng(0).integers(0, frame.cfg.card, (frame.lanes, users))
    pcm = np.random.default_rng(0).standard_normal((frame.lanes, 1920)).astype(np.float32) * 0.05
    heard = np.full((frame.lanes, users), HEARD)

    def timed_from_there(what: Callable[[], None]) -> Times:
        frame.pretend(max(1, filled - steps - 5))  # so that no longer past, and no new graph, is needed on the way
        return timed(what, steps)

    def step() -> None:
        frame.language(active, forced, off)
        frame.fetch()

    def whole() -> None:
        frame.encode(active, pcm, heard)
        frame.language(active, forced, off)
        frame.decode(active)
        frame.fetch()

    frame.pretend(filled - 1)
    started = time.perf_counter()
    whole()
    ready = time.perf_counter() - started
    frame.encode(off, pcm, codes)  # what a step by itself hears
    return ready, timed_from_there(step), timed_from_there(whole)


def kyutai(cfg: LMConfig, args: argparse.Namespace, bandwidth: float) -> dict[int, Figures]:
    """The same of `moshi` by batch."""
    from moshi.models import LMGen, loaders
    from moshi.models.lm import LMModel

    found: dict[int, Figures] = {}
    weights = {name: Weight(name, np.broadcast_to(np.float32(0), shape)) for name, shape in lm_weights(cfg).items()}
    kwargs = dict(loaders._lm_kwargs)
    if args.shape != "moshi-7b":
        depth = cfg.depformer
        assert depth is not None
        kwargs |= {
            "dim": cfg.transformer.dim, "num_heads": cfg.transformer.num_heads, "num_layers": cfg.transformer.num_layers,
            "depformer_dim": depth.transformer.dim, "depformer_num_heads": depth.transformer.num_heads,
            "depformer_num_layers": depth.transformer.num_layers, "depformer_dim_feedforward": 4 * depth.transformer.dim,
            "context": cfg.transformer.context, "text_card": cfg.text_card, "delays": list(cfg.delays),
        }  # fmt: skip
    with torch.no_grad():
        model = LMModel(device=args.device, dtype=getattr(torch, args.dtype), **kwargs).eval()
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
        mimi = loaders.get_mimi(None, device=args.device)
        for batch in args.batches:
            start_anew(args.device)
            try:
                ready, step, whole = theirs(LMGen(model, use_sampling=True), mimi, batch, args.device, args.steps)
                read = read_bytes(weights, cfg, args.dtype, batch, cfg.transformer.context)
                report("moshi 0.2.13", batch, "whole ring", ready, step, whole, memory(args.device), share(read, step, bandwidth))
                found[batch] = (step.median, whole.median)
            except torch.OutOfMemoryError:
                print(f"| moshi 0.2.13 | {batch} | | does not fit | | | | |", flush=True)
            gc.collect()
    return found


def theirs(gen: object, mimi: object, batch: int, device: str, steps: int) -> tuple[float, Times, Times]:
    codes = torch.randint(0, 2048, (batch, 8, 1))
    pcm = torch.randn(batch, 1, 1920) * 0.05

    def step() -> None:
        tokens = gen.step(codes.to(device))  # type: ignore[attr-defined]
        if tokens is not None:
            tokens.cpu()

    def whole() -> None:
        tokens = gen.step(mimi.encode(pcm.to(device)))  # type: ignore[attr-defined]
        if tokens is not None:
            tokens[:, 0].cpu()
            mimi.decode(tokens[:, 1:].clamp(0, 2047)).cpu()  # type: ignore[attr-defined]

    with gen.streaming(batch), mimi.streaming(batch):  # type: ignore[attr-defined]
        started = time.perf_counter()
        whole()
        return time.perf_counter() - started, timed(step, steps), timed(whole, steps)


def report(program: str, batch: int, filled: object, ready: float, step: Times, frame: Times, memory: str, share: str) -> None:
    print(
        f"| {program} | {batch} | {filled} | {ready:.1f} s | {step.median:.2f} ms (p99 {step.p99:.2f}) "
        f"| {frame.median:.2f} ms (p99 {frame.p99:.2f}) | {memory} | {share} |",
        flush=True,
    )


def start_anew(device: str) -> None:
    """Nothing that was compiled for other sizes, and a count of memory from here."""
    torch.compiler.reset()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def memory(device: str) -> str:
    return f"{torch.cuda.max_memory_reserved(device) / 1e9:.1f} GB" if device.startswith("cuda") else ""


if __name__ == "__main__":
    main()
