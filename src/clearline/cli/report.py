"""`clearline report`: runs as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from clearline.cli.as_json import origin, print_json
from clearline.cli.options import JsonOption, html_page
from clearline.cli.progress import Steps


def report(
    traces: Annotated[list[str], typer.Argument(help="Traces, codes, logs or recordings, one or several.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.", callback=html_page)] = Path("report.html"),
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Whose codec and tokenizer to show them with; nano's is known by its hash.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Show runs in one self-contained page: sound to play, spectrograms, codes, text, step times."""
    from clearline.lab.report import trace_report, write_report
    from clearline.lab.source import open_source

    names = [Path(trace).name for trace in traces]
    labels = names if len(set(names)) == len(names) else traces
    with Steps("report", quiet=json_output, first="drawing"):
        write_report(output, trace_report(dict(zip(labels, map(open_source, traces), strict=True)), model))
    if json_output:
        known = origin(**{f"source {number}": trace for number, trace in enumerate(traces, 1)}, output=output)
        print_json({"output_path": str(output), "bytes": output.stat().st_size, "sources": traces} | known)
        return
    typer.echo(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)", err=True)
