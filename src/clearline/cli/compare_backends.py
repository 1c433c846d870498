"""`clearline compare --backends onnx,torch,numpy64 IN`: the same recording on every backend, as a table."""

import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from clearline.cli.as_json import origin, print_json
from clearline.cli.progress import RunProgress

if TYPE_CHECKING:
    from clearline.lab.backends import BackendRun
    from clearline.lab.live import Live


def compare_backends(names: str, live: "Live", html: Path | None, json_output: bool) -> NoReturn:
    """Print the table, write the page where one is asked for, and exit: 0 when all tokens are equal, 1 when not."""
    from clearline.lab.backends import compare_backends as compare

    bars: dict[str, RunProgress] = {}

    def show(name: str, number: int, total: int | None) -> None:
        if name not in bars:
            for bar in bars.values():
                bar.__exit__(None, None, None)
            bars[name] = RunProgress(name, show_text=False, quiet=json_output).__enter__()
        bars[name].frame(number, total)

    try:
        runs = compare([name.strip() for name in names.split(",") if name.strip()], live, show)
    finally:
        for bar in bars.values():
            bar.__exit__(None, None, None)
    if html is not None:
        from clearline.lab.report import backends_report, write_report

        write_report(html, backends_report(live.input.name, runs))
        typer.echo(f"wrote {html}", err=True)
    if json_output:
        known = origin(input=live.input)
        print_json([_report(run, known) for run in runs])
    else:
        _print(runs)
    sys.exit(0 if all(run.identical for run in runs) else 1)


def _print(runs: "list[BackendRun]") -> None:
    width = max(len(run.name) for run in runs)
    typer.echo(f"{'backend':<{width}}  {'where':<16}  {'ms a frame':>10}  {'real time':>9}  tokens, against {runs[0].name}")
    for number, run in enumerate(runs):
        where = f"{run.device} {run.dtype}"
        against = _against(run) if number else f"{run.frames} frames"
        typer.echo(f"{run.name:<{width}}  {where:<16}  {run.frame_ms:>10.2f}  {run.speed:>8.1f}x  {against}")


def _against(run: "BackendRun") -> str:
    if math.isnan(run.logit_error):
        return run.tokens
    if run.logit_error == 0:
        return f"{run.tokens}; text logits are equal"
    return f"{run.tokens}; text logits differ by {run.logit_error:.0e} of the largest at most"


def _report(run: "BackendRun", known: dict[str, Any]) -> dict[str, Any]:
    tie = None if run.choice is None else run.choice.tie
    return asdict(run) | {"identical": run.identical, "tie": tie, **known, "hashes": known["hashes"] | run.hashes}
