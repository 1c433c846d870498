"""`clearline doctor`: what is wrong, the evidence, what to change; or that all is well."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearline.cli.as_json import origin, print_json
from clearline.cli.evidence import InputOption, RunsOption, SetupOption, TimesOption, TraceOption, TranscriptOption, evidence
from clearline.cli.options import BackendOption, HtmlOption, JsonOption, ThreadsOption
from clearline.cli.progress import Steps

if TYPE_CHECKING:
    from clearline.lab.doctor import Diagnosis


def doctor(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="nano, a model folder, or a codec's .safetensors.")] = "nano",
    wav: Annotated[
        Path | None,
        typer.Argument(
            help="What was heard. Without --trace: a recording to look at, and to run the model on.", show_default=False
        ),
    ] = None,
    trace: TraceOption = None,
    input: InputOption = None,
    setup: SetupOption = None,
    times: TimesOption = None,
    runs: RunsOption = None,
    transcript: TranscriptOption = None,
    checks: Annotated[bool, typer.Option("--checks", help="Also print everything that was looked at.")] = False,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
    html: HtmlOption = None,
    json_output: JsonOption = False,
) -> None:
    """Examine a model, a run or a recording. Exit code 0: all is well; 1: something is wrong; 3: it cannot be told; 2: the
    evidence cannot be read."""
    from clearline.lab.doctor import examine

    with Steps("doctor", quiet=json_output) as progress:
        given = evidence(context, progress.step)
        diagnosis = examine(given, progress.step)
    if html is not None:
        from clearline.lab.report import doctor_report, write_report

        write_report(html, doctor_report(model, diagnosis, given))
        typer.echo(f"wrote {html}", err=True)
    if json_output:
        known = origin(wav=wav, trace=trace, input=input, times=times, runs=runs)
        known["hashes"] |= {} if given.model is None else given.model.checkpoint.hashes()
        print_json(report(diagnosis) | known)
    else:
        if checks:
            marks = {True: "ok  ", False: "BAD ", None: "?   "}
            for check in diagnosis.checks:
                typer.echo(f"{marks[check.ok]} {check.what}: {check.evidence}")
            typer.echo()
        typer.echo(diagnosis.paragraph)
    sys.exit({"all is well": 0, "undecided": 3}.get(diagnosis.kind, 1))


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
