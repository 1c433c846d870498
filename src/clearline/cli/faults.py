"""`clearline faults`: break runs on purpose, and see whether the doctor, asked blind, finds out."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearline.cli.as_json import origin, print_json
from clearline.cli.options import JsonOption, ModelOption
from clearline.cli.progress import Counted, Steps
from clearline.errors import ConfigError

if TYPE_CHECKING:
    from clearline.lab.faults import Fault
    from clearline.lab.faults.matrix import Level


def faults(
    recordings: Annotated[
        list[Path] | None, typer.Argument(help="What the user says; several are joined.", show_default=False)
    ] = None,
    only: Annotated[str | None, typer.Option(help="Names of faults, separated by commas; all of them by default.")] = None,
    pair_count: Annotated[int, typer.Option("--pairs", help="How many pairs of faults to put in as well.", min=0)] = 0,
    healthy: Annotated[int, typer.Option(help="How many runs without a fault to examine as well.", min=0)] = 5,
    seeds: Annotated[int, typer.Option(help="Runs of each fault, each with its own seed.", min=1)] = 1,
    given: Annotated[
        str, typer.Option(help="What the doctor gets of runs with one fault: all, tokens, codes, sound; several with commas.")
    ] = "all",
    listed: Annotated[bool, typer.Option("--list", help="List the faults, and run nothing.")] = False,
    model: ModelOption = "nano",
    json_output: JsonOption = False,
) -> None:
    """Put faults in, ask blind. Exit code 1: fewer than 90% named exactly, one called well, or a healthy run called faulty."""
    from clearline.lab.faults import FAULTS

    chosen = FAULTS if only is None else _chosen(only)
    if listed:
        _list(chosen, json_output)
        return
    from clearline.app import load
    from clearline.lab.faults.trial import Plan, blind_trial, joined, summary, table

    levels = _levels(given)
    recording = joined(recordings or [])
    plan = Plan(chosen, tuple(range(1, seeds + 1)), pair_count, 0, healthy, levels)
    with Steps("faults", quiet=json_output, first=f"loading {model}"):
        loaded = load(model, threads=1)
    with Counted("faults", quiet=json_output) as progress:
        outcome = blind_trial(loaded, recording, plan, progress.done)
    if json_output:
        report = {
            "passed": outcome.passed,
            "cases": [asdict(case) | {"exact": case.exact, "missed": case.missed} for case in outcome.cases],
        }
        known = origin(**{f"recording {number}": path for number, path in enumerate(recordings or [], 1)})
        known["hashes"] |= loaded.checkpoint.hashes()
        print_json(report | known)
    else:
        typer.echo("\n".join(["| | |", "|---|---|", *summary(outcome), "", *table(outcome)]))
    sys.exit(0 if outcome.passed else 1)


def _chosen(only: str) -> "tuple[Fault, ...]":
    from clearline.lab.faults import FAULTS

    names = [name.strip() for name in only.split(",")]
    known = {fault.name for fault in FAULTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"there is no fault {unknown[0]!r}; known: {', '.join(sorted(known))}")
    return tuple(fault for fault in FAULTS if fault.name in names)


def _levels(given: str) -> "tuple[Level, ...]":
    from clearline.lab.faults.matrix import LEVELS

    names = [name.strip() for name in given.split(",")]
    unknown = [name for name in names if name not in LEVELS]
    if unknown:
        raise ConfigError(f"--given {unknown[0]!r} is not known; choose from {', '.join(LEVELS)}")
    return tuple(level for level in LEVELS if level in names)


def _list(chosen: "Sequence[Fault]", json_output: bool) -> None:
    if json_output:
        rows = [{"name": f.name, "description": f.description, "boundary": f.boundary, "source": f.source} for f in chosen]
        print_json(rows)
        return
    for fault in chosen:
        typer.echo(f"{fault.name}: {fault.description}\n    at {fault.boundary}; {fault.source}")
