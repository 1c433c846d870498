"""Options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer

from clearline.errors import ConfigError

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
WeightsOption = Annotated[
    str | None, typer.Option("--weights", help="int16 or int8: keep what is not quantised, codec included, in fewer bits.")
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="torch: fuse frames with torch.compile; the first start takes minutes for a large model.")
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="Threads to use; the result does not depend on it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)]


def check_wav(path: Path) -> None:
    """A WAV's file name: the suffix of another format would be a lie."""
    if path.suffix.lower() not in (".wav", ".wave", ""):
        raise ConfigError(f"sound is written as a WAV file, not as {path.suffix}: {path}")


def is_stdout(path: Path) -> bool:
    """Whether a file's name means standard output (/dev/stdout)."""
    try:
        return os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False


def check_target(target: Path, input: Path | None, json_output: bool = False) -> None:
    """Raise ClearlineError when `target` cannot be written, is the `input` itself, or standard output beside the JSON: before
    any work is done."""
    from clearline.audio import check_writable

    if str(target) == "-":
        raise ConfigError("- is no file's name here; standard output is /dev/stdout")
    if json_output and is_stdout(target):
        raise ConfigError(f"{target} is standard output, where --json prints: name a file, or leave out --json")
    check_writable(target)
    if input is not None and target.exists() and input.exists() and target.samefile(input):
        raise ConfigError(f"{target} is the input itself: it would be overwritten")


def html_page(path: Path | None) -> Path | None:
    """A page's file name, looked at before any work is done."""
    from clearline.audio import check_writable

    if path is not None and path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"the page is written as HTML, not as {path.suffix or 'a file without a suffix'}: {path}")
    if path is not None:
        check_writable(path)
    return path


HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", help="Write a page (.html) too, sound and pictures inside.", show_default=False, callback=html_page),
]
MaxMinutes = Annotated[float, typer.Option("--max-minutes", help="Refuse longer recordings.", min=0)]
