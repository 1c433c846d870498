"""`clearline tokens`: what the tokens of one run say by themselves."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from clearline.cli.as_json import origin, print_json
from clearline.cli.options import JsonOption

if TYPE_CHECKING:
    from clearline.lab.tokens import TokenReport


def tokens(
    source: Annotated[str, typer.Argument(help="A trace, codes (.npy, .safetensors, .json), or a log with MOSHI_DEBUG lines.")],
    boundary: Annotated[
        str | None, typer.Option(help="codes_out, audio_tokens or codes_in; by default the first there is.")
    ] = None,
    card: Annotated[
        int | None, typer.Option(help="Audio tokens a codebook has (2048 in the released models); others are invalid.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Look at the tokens of a run. Exit code 0: nothing stands out; 1: something does."""
    from clearline.lab.source import open_source
    from clearline.lab.tokens import token_report

    report = token_report(open_source(source), boundary, card)
    if json_output:
        print_json(asdict(report) | origin(source=source))
    else:
        _print(report)
    sys.exit(1 if report.warnings else 0)


def _print(report: "TokenReport") -> None:
    typer.echo(f"{report.source}: {report.steps} steps ({report.steps * 0.08:.1f} s)")
    if report.audio:
        typer.echo("          distinct  entropy in bits (thirds of the run)   most frequent   longest run")
    for found, (first, middle, last) in zip(report.audio, report.thirds, strict=True):
        typer.echo(
            f"{found.name:<9} {found.distinct:>8}  {found.entropy:7.2f}   ({first:5.2f} {middle:5.2f} {last:5.2f})        "
            f"{found.common:>5} {found.common_share:6.1%}   {found.run:>5} frames"
        )
    if report.text is not None:
        text = report.text
        thirds = " ".join(f"{rate:.1f}" for rate in text.per_second)
        typer.echo(
            f"text      {text.padding:.0%} padding, {text.end_padding:.0%} end of padding, {text.spoken:.0%} spoken; "
            f"tokens a second by thirds {thirds}; longest silence {text.longest_silence * 0.08:.1f} s"
        )
    if report.coupling is not None:
        typer.echo(f"text and audio move together: correlation {report.coupling.correlation:+.2f} (p {report.coupling.p:.3f})")
    for line in report.warnings:
        typer.echo(f"WARNING: {line}")
    for line in report.notes:
        typer.echo(f"note: {line}")
    if not report.warnings:
        typer.echo("nothing stands out")
