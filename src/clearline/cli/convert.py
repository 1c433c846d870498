"""`clearline convert`: a model in another precision or naming, written tensor by tensor."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from clearline.cli.as_json import origin, print_json
from clearline.cli.options import JsonOption


def convert(
    model: Annotated[str, typer.Argument(help="nano, or a model folder of any format.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.", show_default=False)],
    quantize: Annotated[str, typer.Option(help="q8, q4, bf16 or f32.")] = "q8",
    names: Annotated[str, typer.Option(help="Whose names and files: kyutai, mlx, candle or moshi.cpp.")] = "kyutai",
    json_output: JsonOption = False,
) -> None:
    """Convert a model. Interrupted, the same command goes on where it was; done before, it only checks the hash."""
    from clearline.app import model_folder
    from clearline.checkpoint import open_checkpoint
    from clearline.checkpoint.convert import convert

    checkpoint = open_checkpoint(model_folder(model))
    columns = (TextColumn("convert"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=json_output or not sys.stderr.isatty()) as bar:
        task = bar.add_task("convert", total=None)
        result = convert(
            checkpoint, output, quantize, names, lambda done, total: bar.update(task, completed=done, total=total)  # type: ignore[arg-type]
        )  # fmt: skip
    facts = {
        "folder": str(result.folder),
        "weights": result.weights.name,
        "sha256": result.sha256,
        "bytes": result.nbytes,
        "reused": result.reused,
    }
    if json_output:
        print_json(facts | origin() | {"source": checkpoint.hashes()})
        return
    typer.echo(f"{'found' if result.reused else 'wrote'} {result.weights} ({result.nbytes / 1e6:.1f} MB), sha256 {result.sha256}")
