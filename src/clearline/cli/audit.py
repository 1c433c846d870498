"""`clearline audit`: two or more configurations, parameter by parameter, as the implementations would use them."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from clearline.cli.as_json import origin, print_json
from clearline.cli.options import JsonOption


def audit(
    setups: Annotated[
        list[str],
        typer.Argument(
            help="nano, a folder, config.json, moshi-core .toml, moshi-backend .json, a model name (v0_1_streaming(8), "
            "mlx:config_v0_1), a program (mlx:local, rust:moshi-cli, rust:moshi-backend, pytorch:server), or MODEL@PROGRAM."
        ),
    ],
    everything: Annotated[bool, typer.Option("--all", help="Also the parameters that are the same.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Compare configurations: what garbles audio, what changes results, what is harmless, what is unknown."""
    from clearline.app import model_folder
    from clearline.checkpoint.setups import named_setup
    from clearline.config.audit import another_model, audit

    columns = [named_setup(spec, model_folder) for spec in setups]
    findings = audit(columns)
    if json_output:
        report = {
            "setups": [{"name": column.name, "notes": column.notes} for column in columns],
            "another_model": another_model(findings),
            "findings": [asdict(finding) for finding in findings if everything or finding.severity != "same"],
        }
        print_json(report | origin(**{name: name for name in setups}))
        return
    for column in columns:
        for note in column.notes:
            typer.echo(f"{column.name}: {note}")
    different = another_model(findings)
    if different:
        typer.echo(f"ANOTHER MODEL: these are not configurations of one model; they differ in {', '.join(different)}.")
    shown = [finding for finding in findings if everything or finding.severity != "same"]
    rows = [("", "parameter", *(column.name for column in columns))]
    rows += [(finding.severity, finding.parameter, *map(_short, finding.values)) for finding in shown]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for i, row in enumerate(rows):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        why = shown[i - 1].why if i else ""
        # A reason once: several parameters in a row often share theirs.
        if why and (i == len(shown) or shown[i].why != why):
            typer.echo(f"    {why}")
    same = len(findings) - sum(finding.severity != "same" for finding in findings)
    if not everything:
        typer.echo(f"{same} other parameters are the same (--all shows them)")


def _short(value: Any) -> str:
    if isinstance(value, list):
        return _runs(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _runs(values: list[int]) -> str:
    """[0, 0, 1, 1, 1] as "0 0 1x3"."""
    out: list[str] = []
    i = 0
    while i < len(values):
        count = 1
        while i + count < len(values) and values[i + count] == values[i]:
            count += 1
        out += [f"{values[i]}x{count}"] if count > 2 else [str(values[i])] * count
        i += count
    return " ".join(out)
