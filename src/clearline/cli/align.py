"""`clearline align`: do the semantic and acoustic codebooks of an output belong together?"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from clearline.cli.as_json import origin, print_json
from clearline.cli.options import BackendOption, JsonOption
from clearline.cli.progress import RunProgress
from clearline.errors import ClearlineError


def align(
    source: Annotated[str, typer.Argument(help="A trace, codes (.npy, .safetensors, .json), or a log with MOSHI_DEBUG lines.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder for the five WAVs; none are written without it.")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="nano, a model folder, or a codec's .safetensors.")] = "nano",
    boundary: Annotated[
        str, typer.Option(help="codes_out, codes_in, or audio_tokens (whose best shift is minus the model's delay).")
    ] = "codes_out",
    backend: BackendOption = "auto",
    text: Annotated[str | None, typer.Option(help="What is said, for the judge; by default the text of the trace.")] = None,
    codes_only: Annotated[bool, typer.Option("--codes-only", help="Ask the codec alone; do not listen.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Move the acoustic codebooks by -2..+2 frames against the semantic one, decode and judge each.

    Exit code 0: aligned as it is; 1: another shift is right; 3: the evidence does not decide.
    """
    from clearline.app import load_codec
    from clearline.audio import wav_bytes, write_atomically
    from clearline.lab.align import align
    from clearline.lab.judge import judge
    from clearline.lab.judge.evidence import evidence
    from clearline.lab.source import open_source

    if output is not None and output.exists() and not output.is_dir():
        raise ClearlineError(f"cannot write into {output}: it is not a folder")
    trace = open_source(source)
    if boundary not in ("codes_out", "codes_in", "audio_tokens"):
        raise ClearlineError(f"{boundary} cannot be decoded; choose codes_out, codes_in or audio_tokens")
    if boundary not in trace.columns:
        raise ClearlineError(f"{source} has no {boundary}; it has {', '.join(trace.columns)}")
    codec = load_codec(model, backend=backend)
    codes = trace.frames(boundary).T
    if text is None and boundary != "codes_in":
        words = evidence(trace, model).words
        text = " ".join(word.text for word in words) if words else None
    with RunProgress("align", show_text=False, quiet=json_output) as progress:
        found = align(codec, codes, progress.frame, text=text, listen=None if codes_only else judge)
    files: dict[int, str] = {}
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        for version in found.versions:
            files[version.shift] = str(output / f"shift{version.shift:+d}.wav")
            write_atomically(Path(files[version.shift]), wav_bytes(version.pcm, codec.sample_rate))
    rows = [
        {
            "shift": version.shift,
            "semantic_codes_back": version.consistency.first,
            "codes_back": list(version.consistency.per_codebook),
            "frames": version.consistency.frames,
            "p_against_best": version.p,
            "garbled": None if version.judgement is None else version.judgement.garbled,
            "heard": None if version.judgement is None else version.judgement.evidence,
            "wav": files.get(version.shift),
        }
        for version in found.versions
    ]
    if json_output:
        report = {"source": source, "boundary": boundary, "shift": found.shift, "verdict": found.verdict, "versions": rows}
        print_json(report | origin(codes=source))
    else:
        typer.echo("acoustic codebooks   semantic codes that come back   p against the best   garbled by ear")
        for row in rows:
            wav = f"   {row['wav']}" if row["wav"] else ""
            ear = "-" if row["garbled"] is None else f"{row['garbled']:.0%}"
            shares = f"{row['semantic_codes_back']:>25.0%} {row['p_against_best']:>26.1e} {ear:>16}"
            typer.echo(f"{row['shift']:+d} frames {shares}{wav}")
        for line in found.versions[0].judgement.not_asked if found.versions[0].judgement else ():
            if not line.startswith("codec"):
                typer.echo(f"not asked: {line}")
        typer.echo(found.verdict)
    sys.exit(3 if found.shift is None else 0 if found.shift == 0 else 1)
