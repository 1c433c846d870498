"""The options that name evidence, which `doctor` and `bugreport` share, and the evidence they amount to."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clearline.lab.doctor import Evidence

TraceOption = Annotated[
    str | None, typer.Option(help="A trace, codes (.npy, .safetensors, .json), or a log with MOSHI_DEBUG lines, of the run.")
]
InputOption = Annotated[Path | None, typer.Option("--input", "-i", help="What the user said in that run.")]
SetupOption = Annotated[
    str | None,
    typer.Option(
        help="The configuration of the program under test, as `clearline audit` takes it; @rust:moshi-cli: these weights as that "
        "program uses them."
    ),
]
TimesOption = Annotated[Path | None, typer.Option(help="Milliseconds of each frame: JSON list, or one a line.")]
RunsOption = Annotated[Path | None, typer.Option(help="Records of runs: the output of `clearline trials --json`, or a list.")]
TranscriptOption = Annotated[str | None, typer.Option(help="What a recogniser, or somebody, says was heard.")]


def evidence(context: typer.Context, on_step: Callable[[str], None]) -> "Evidence":
    """What the command's options name: those that `gather` has a parameter for."""
    from clearline.lab.doctor import as_output
    from clearline.lab.doctor.files import gather

    named = {name: context.params[name] for name in inspect.signature(gather).parameters if name in context.params}
    return as_output(gather(**named, on_step=on_step))
