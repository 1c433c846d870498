"""`clearline presets`: what each official program does by default."""

from dataclasses import asdict

import typer

from clearline.cli.as_json import print_json
from clearline.cli.options import JsonOption
from clearline.config import PRESETS, Sampling


def presets(json_output: JsonOption = False) -> None:
    """List the named generation settings."""
    if json_output:
        print_json({name: asdict(config) for name, config in PRESETS.items()})
        return
    for name, config in PRESETS.items():
        quirks = [f"first frame {config.first_frame}"]
        if config.user_offset:
            quirks.append("user one frame late")
        if config.acoustic_delay is not None:
            quirks.append(f"acoustic delay forced to {config.acoustic_delay}")
        typer.echo(
            f"{name:<24} text {_short(config.text):<18} audio {_short(config.audio):<18} seed {config.seed:<10} {', '.join(quirks)}"
        )


def _short(sampling: Sampling) -> str:
    if sampling.temperature == 0:
        return "greedy"
    parts = [f"T {sampling.temperature:g}"]
    if sampling.top_k:
        parts.append(f"top-k {sampling.top_k}")
    if sampling.top_p:
        parts.append(f"top-p {sampling.top_p:g}")
    return " ".join(parts)
