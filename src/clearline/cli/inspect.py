"""`clearline inspect`: what a model is, whether its files fit together, and how fast it can run here."""

import time
from dataclasses import asdict
from typing import Annotated

import numpy as np
import typer

from clearline.cli.as_json import origin, print_json
from clearline.cli.options import JsonOption

_PROBE_ROWS, _PROBE_COLUMNS = 4096, 8192  # 128 MB: far beyond every cache


def inspect(
    model: Annotated[str, typer.Argument(help="nano, a model folder, or one file of weights.")] = "nano",
    speed: Annotated[bool, typer.Option(help="Measure this machine's memory bandwidth (a second).")] = True,
    json_output: JsonOption = False,
) -> None:
    """Say what a model is. The exit code is 1 when its files contradict each other, 2 when they cannot be read."""
    from clearline.app import model_folder
    from clearline.checkpoint.folder import read_config
    from clearline.checkpoint.inspection import expected_speed, inspect

    path = model_folder(model)
    report = inspect(path)
    if speed and path.is_dir():
        bandwidth = measured_bandwidth()
        report.speed = {"bandwidth": bandwidth, "times real time": expected_speed(read_config(path)[0].lm, bandwidth)}
    if json_output:
        print_json(asdict(report) | origin())
    else:
        typer.echo("\n".join(_lines(asdict(report))))
    if report.contradictions:
        raise typer.Exit(1)


def measured_bandwidth() -> float:
    """Bytes a second that a matrix-vector product reads from memory, best of a few runs."""
    matrix, vector = np.ones((_PROBE_ROWS, _PROBE_COLUMNS), np.float32), np.ones(_PROBE_COLUMNS, np.float32)
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        matrix @ vector
        best = min(best, time.perf_counter() - started)
    return matrix.nbytes / best


def _lines(report: dict) -> list[str]:  # type: ignore[type-arg]
    lines = [report["path"]]
    lines += [f"  {key:<22} {_text(value)}" for key, value in report["facts"].items()]
    if report["dimensions"]:
        lines += ["dimensions, from the weights" if report["stored"] else "dimensions, from the configuration alone"]
        lines += [f"  {key:<36} {value}" for key, value in report["dimensions"].items()]
    if report["stored"]:
        lines.append("stored as")
        for kind, row in report["stored"].items():
            lines.append(f"  {kind:<26} {row['tensors']:>5} tensors {row['parameters']:>14,} parameters {_size(row['bytes']):>10}")
        lines.append("parameters  " + ", ".join(f"{part} {count:,}" for part, count in report["parameters"].items()))
    if report["memory"]:
        lines.append("memory      " + ", ".join(f"{what} {_size(count)}" for what, count in report["memory"].items()))
    if report["speed"]:
        lines.append(
            f"speed       memory is read at {report['speed']['bandwidth'] / 1e9:.1f} GB/s here; at most, as times real time:"
        )
        for kind, row in report["speed"]["times real time"].items():
            lines.append(f"  {kind:<4} " + ", ".join(f"{when} {value:.2f}x" for when, value in row.items()))
    if report["missing"]:
        lines += ["not here", *(f"  {line}" for line in report["missing"])]
    if report["contradictions"]:
        lines.append(f"CONTRADICTIONS ({len(report['contradictions'])})")
        lines += [f"  {line}" for line in report["contradictions"]]
    else:
        lines.append("no contradictions found")
    return lines


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _size(count: int) -> str:
    size, unit = float(count), "B"
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.3g} {unit}"
