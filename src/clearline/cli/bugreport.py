"""`clearline bugreport`: a folder or zip that lets somebody else see what is wrong."""

import json
from pathlib import Path
from typing import Annotated

import typer

from clearline.cli.options import BackendOption, JsonOption, ThreadsOption
from clearline.cli.progress import Steps


def bugreport(
    model: Annotated[str, typer.Argument(help="nano, or a model folder.")] = "nano",
    wav: Annotated[
        Path | None, typer.Argument(help="What was heard. Without --trace: what to run the model on.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .zip, or a folder that is not there yet.")] = Path(
        "bugreport.zip"
    ),
    trace: Annotated[str | None, typer.Option(help="A trace, codes, or a log with MOSHI_DEBUG lines, of the run.")] = None,
    input: Annotated[Path | None, typer.Option("--input", "-i", help="What the user said in that run.")] = None,
    setup: Annotated[
        str | None, typer.Option(help="The configuration of the program under test, as `clearline audit` takes it.")
    ] = None,
    times: Annotated[Path | None, typer.Option(help="Milliseconds of each frame: JSON list, or one a line.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Records of runs: the output of `clearline trials --json`, or a list.")] = None,
    transcript: Annotated[str | None, typer.Option(help="What a recogniser, or somebody, says was heard.")] = None,
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
    from clearline.lab.doctor import as_output
    from clearline.lab.doctor.files import gather

    if output.suffix == ".zip":
        check_writable(output)
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ClearlineError(f"{output} is there already; name a new folder, or a .zip")
    with Steps("bugreport", quiet=json_output) as progress:
        evidence = gather(
            model,
            wav,
            trace=trace,
            input=input,
            setup=setup,
            times=times,
            runs=runs,
            transcript=transcript,
            backend=backend,
            threads=threads,
            on_step=progress.step,
        )
        report = make_report(as_output(evidence), progress.step, title=title)
        write_report(report, output)
    if json_output:
        typer.echo(json.dumps({
            "path": str(output), "files": sorted(report.files), "frames": report.frames, "well": report.diagnosis.well,
            "findings": list(report.diagnosis.names),
        }, indent=2))  # fmt: skip
        return
    typer.echo(report.diagnosis.paragraph)
    typer.echo(f"wrote {output}: {', '.join(sorted(report.files))}. It holds the recordings of the run: listen before you send it.")
