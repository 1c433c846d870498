"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[str, typer.Option("--model", "-m", help="nano, or a folder in Kyutai's format.")]
BackendOption = Annotated[str, typer.Option("--backend", help="onnx (default) or numpy64, the slow float64 reference.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="Threads to use; the result does not depend on it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)]
MaxMinutes = Annotated[float, typer.Option("--max-minutes", help="Refuse longer recordings.", min=0)]
