"""`clearline bench`: is this machine fast enough for this model?"""

import math
from dataclasses import asdict
from typing import Annotated

import typer

from clearline.cli.as_json import print_json, with_hashes
from clearline.cli.options import (
    BackendOption,
    CacheOption,
    CompileOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    ThreadsOption,
    WeightsOption,
)
from clearline.cli.progress import RunProgress, Steps


def bench(
    model: ModelOption = "nano",
    frames: Annotated[int, typer.Option(min=10, max=100_000, help="Frames to time, after a warm-up.")] = 100,
    quantize: Annotated[str | None, typer.Option(help="q8 or q4: round the language model's weights.")] = None,
    backend: BackendOption = "auto",
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    cache: CacheOption = None,
    weights: WeightsOption = None,
    compile: CompileOption = False,
    threads: ThreadsOption = None,
    json_output: JsonOption = False,
) -> None:
    """Time every part of a frame, beside what the memory bandwidth of this machine allows."""
    import os

    from clearline.app import load
    from clearline.lab.bench import bench as measure

    with Steps("bench", quiet=json_output, first=f"loading {model}") as steps:
        loaded = load(
            model,
            backend=backend,
            quantize=quantize,  # type: ignore[arg-type]
            threads=threads,
            device=device,
            dtype=dtype,
            cache=cache,
            weights=weights,
            compile=compile,
        )
        loaded.prepare(on_part=steps.part)
    with RunProgress("bench", show_text=False, quiet=json_output) as progress:
        report = measure(loaded, frames, threads or os.cpu_count() or 1, progress.frame)
    if json_output:
        derived = {"speed": report.speed, "fraction_of_limit": report.fraction_of_limit, "verdict": report.verdict}
        known = {"model": model, "threads": threads, **with_hashes(loaded.facts(loaded.generation()))}
        print_json(asdict(report) | derived | known)
        return
    stored = f", {quantize}" if quantize else ""
    typer.echo(f"{model} on {loaded.backend.name} ({loaded.backend.device}, {loaded.backend.dtype}{stored})")
    if report.overhead is None:
        typer.echo(f"{loaded.backend.name} computes a whole frame in one evaluation: its parts cannot be timed")
    else:
        for part, milliseconds in [*report.parts.items(), ("sampling and the rest", report.overhead)]:
            typer.echo(f"{part:<22} {milliseconds:7.2f} ms")
    typer.echo(f"{'frame':<22} {report.frame:7.2f} ms   (99th percentile {report.p99:.2f} ms, {report.frames} frames of 80 ms)")
    memory = f"memory: {report.gigabytes * 1e3:.0f} MB a frame"
    if not math.isnan(report.bandwidth):
        memory += f" at {report.bandwidth:.0f} GB/s is {report.fraction_of_limit:.0%} of the time taken"
    typer.echo(memory)
    typer.echo(report.verdict)
