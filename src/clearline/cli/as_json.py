"""What `--json` prints: one value that every JSON reader takes, and what it rests on."""

import json
from pathlib import Path
from typing import Any

import typer

from clearline.lab.finite import finite

# The facts of a run that are sha256 hashes.
HASHES = ("input", "output", "weights", "codec_weights", "config")


def print_json(report: Any) -> None:
    """One JSON value on standard output. Infinities and NaN, which JSON has not, are null."""
    typer.echo(json.dumps(finite(report), indent=2, allow_nan=False))


def origin(**files: str | Path | None) -> dict[str, Any]:
    """The version of this program, and the sha256 of each file that a report rests on (`LOG#2`: of LOG)."""
    from clearline.app import code_version
    from clearline.checkpoint.safetensors import file_hash
    from clearline.lab.source import source_path

    paths = {name: source_path(str(file))[0] for name, file in files.items() if file is not None}
    return {"version": code_version(), "hashes": {name: file_hash(path) for name, path in paths.items() if path.is_file()}}


def with_hashes(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a run, with its hashes in a place of their own."""
    hashes = {name: facts[name] for name in HASHES if name in facts}
    return {"hashes": hashes, **{name: value for name, value in facts.items() if name not in HASHES}}
