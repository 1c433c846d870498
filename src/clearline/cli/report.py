"""`clearline report`: runs as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from clearline.cli.options import html_page


def report(
    traces: Annotated[list[str], typer.Argument(help="Traces, codes, logs or recordings, one or several.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.", callback=html_page)] = Path("report.html"),
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Whose codec and tokenizer to show them with; nano's is known by its hash.")
    ] = None,
) -> None:
    """Show runs in one self-contained page: sound to play, spectrograms, codes, text, step times."""
    from clearline.lab.report import trace_report, write_report
    from clearline.lab.source import open_source

    names = [Path(trace).name for trace in traces]
    labels = names if len(set(names)) == len(names) else traces
    write_report(output, trace_report(dict(zip(labels, map(open_source, traces), strict=True)), model))
    typer.echo(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)", err=True)
