"""`clearline bugreport`: a folder or zip that lets somebody else see what is wrong."""

from pathlib import Path
from typing import Annotated

import typer

from clearline.cli.as_json import origin, print_json
from clearline.cli.evidence import InputOption, RunsOption, SetupOption, TimesOption, TraceOption, TranscriptOption, evidence
from clearline.cli.options import BackendOption, JsonOption, ThreadsOption
from clearline.cli.progress import Steps


def bugreport(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="nano, or a model folder.")] = "nano",
    wav: Annotated[
        Path | None, typer.Argument(help="What was heard. Without --trace: what to run the model on.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .zip, or a folder that is not there yet.")] = Path(
        "bugreport.zip"
    ),
    trace: TraceOption = None,
    input: InputOption = None,
    setup: SetupOption = None,
    times: TimesOption = None,
    runs: RunsOption = None,
    transcript: TranscriptOption = None,
    title: Annotated[str | None, typer.Option(help="The report's heading; by default what was found.")] = None,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
    json_output: JsonOption = False,
) -> None:
    """Examine, cut the run to what still shows the fault, and write a report without private paths or secrets. It holds the
    recordings: listen to them before you send it."""
    from clearline.audio import check_writable
    from clearline.errors import ClearlineError
    from clearline.lab.bugreport import make_report, write_report

    if output.suffix == ".zip":
        check_writable(output)
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ClearlineError(f"{output} is there already; name a new folder, or a .zip")
    with Steps("bugreport", quiet=json_output) as progress:
        report = make_report(evidence(context, progress.step), progress.step, title=title)
        write_report(report, output)
    if json_output:
        print_json({
            "path": str(output), "files": sorted(report.files), "frames": report.frames, "well": report.diagnosis.well,
            "findings": list(report.diagnosis.names),
        } | origin(output=output, wav=wav, trace=trace, input=input))  # fmt: skip
        return
    typer.echo(report.diagnosis.paragraph)
    typer.echo(f"wrote {output}: {', '.join(sorted(report.files))}. It holds the recordings of the run: listen before you send it.")
