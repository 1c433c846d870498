"""`clearline doctor`: what is wrong, the evidence, what to change; or that all is well."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearline.cli.options import BackendOption, HtmlOption, JsonOption, ThreadsOption
from clearline.cli.progress import Steps

if TYPE_CHECKING:
    from clearline.lab.doctor import Diagnosis


def doctor(
    model: Annotated[str, typer.Argument(help="nano, a model folder, or a codec's .safetensors.")] = "nano",
    wav: Annotated[
        Path | None,
        typer.Argument(
            help="What was heard. Without --trace: a recording to look at, and to run the model on.", show_default=False
        ),
    ] = None,
    trace: Annotated[
        str | None, typer.Option(help="A trace, codes (.npy, .safetensors, .json), or a log with MOSHI_DEBUG lines, of the run.")
    ] = None,
    input: Annotated[Path | None, typer.Option("--input", "-i", help="What the user said in that run.")] = None,
    setup: Annotated[
        str | None,
        typer.Option(
            help="The configuration of the program under test, as `clearline audit` takes it; @rust:moshi-cli: these weights "
            "as that "
            "program uses them."
        ),
    ] = None,
    times: Annotated[Path | None, typer.Option(help="Milliseconds of each frame: JSON list, or one a line.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Records of runs: the output of `clearline trials --json`, or a list.")] = None,
    transcript: Annotated[str | None, typer.Option(help="What a recogniser, or somebody, says was heard.")] = None,
    checks: Annotated[bool, typer.Option("--checks", help="Also print everything that was looked at.")] = False,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
    html: HtmlOption = None,
    json_output: JsonOption = False,
) -> None:
    """Examine a model, a run or a recording. Exit code 0: all is well; 1: something is wrong; 2: the evidence cannot be read."""
    from clearline.lab.doctor import as_output, examine
    from clearline.lab.doctor.files import gather

    with Steps("doctor", quiet=json_output) as progress:
        found = gather(
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
        evidence = as_output(found)
        diagnosis = examine(evidence, progress.step)
    if html is not None:
        from clearline.lab.report import doctor_report, write_report

        write_report(html, doctor_report(model, diagnosis, evidence))
    if json_output:
        typer.echo(json.dumps(report(diagnosis), indent=2).replace("NaN", "null"))
    else:
        if checks:
            marks = {True: "ok  ", False: "BAD ", None: "?   "}
            for check in diagnosis.checks:
                typer.echo(f"{marks[check.ok]} {check.what}: {check.evidence}")
            typer.echo()
        typer.echo(diagnosis.paragraph)
    sys.exit(0 if diagnosis.well else 1)


def report(diagnosis: "Diagnosis") -> dict[str, Any]:
    """A diagnosis as JSON."""
    return {
        "well": diagnosis.well,
        "kind": diagnosis.kind,
        "findings": [asdict(finding) for finding in diagnosis.findings],
        "notes": [asdict(note) for note in diagnosis.notes],
        "checks": [asdict(check) for check in diagnosis.checks],
        "paragraph": diagnosis.paragraph,
    }
