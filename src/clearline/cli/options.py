"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[str, typer.Option("--model", "-m", help="nano, or a folder in Kyutai's format.")]
BackendOption = Annotated[
    str, typer.Option("--backend", help="auto, onnx, torch, mlx or numpy64 (the slow reference); see `clearline backends`.")
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps, ...; by default the backend's best.")]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16, float16 or float64, of weights and activations.")
]
CacheOption = Annotated[
    str | None, typer.Option("--cache", help="int8: keep keys and values in int8; for long contexts of large models.")
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="Threads to use; the result does not depend on it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)]
MaxMinutes = Annotated[float, typer.Option("--max-minutes", help="Refuse longer recordings.", min=0)]
