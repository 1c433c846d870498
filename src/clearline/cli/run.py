"""`clearline run`: a recording in, the spoken reply out."""

import hashlib
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from clearline.cli.options import BackendOption, JsonOption, MaxMinutes, ModelOption, OutputOption, ThreadsOption
from clearline.cli.progress import RunProgress
from clearline.config import Sampling
from clearline.errors import ConfigError


def run(
    input: Annotated[Path, typer.Argument(help="What the user says: WAV, FLAC, Ogg, MP3, AIFF; any rate, any channels.")],
    output: OutputOption = Path("reply.wav"),
    model: ModelOption = "nano",
    seed: Annotated[int | None, typer.Option(help="Seed of the sampling noise; 299792458 unless the preset has its own.")] = None,
    preset: Annotated[str | None, typer.Option(help="Settings of an official program; `clearline presets` lists them.")] = None,
    backend: BackendOption = "onnx",
    threads: ThreadsOption = None,
    quantize: Annotated[str | None, typer.Option(help="q8 or q4: round the language model's weights.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Temperature of the audio tokens; 0 is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep the k likeliest audio tokens; 0 keeps all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus sampling of the audio tokens; 0 is off.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Drop audio tokens below this share of the likeliest.")] = None,
    text_temperature: Annotated[float | None, typer.Option(help="Temperature of the text tokens; 0 is greedy.")] = None,
    text_top_k: Annotated[int | None, typer.Option(help="Keep the k likeliest text tokens; 0 keeps all.")] = None,
    text_top_p: Annotated[float | None, typer.Option(help="Nucleus sampling of the text tokens; 0 is off.")] = None,
    text_min_p: Annotated[float | None, typer.Option(help="Drop text tokens below this share of the likeliest.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Divide the logits of recent text tokens; 1 is off.")] = None,
    padding_bonus: Annotated[float | None, typer.Option(help="Added to the padding token's log-probability: more silence.")] = None,
    tail: Annotated[
        float | None, typer.Option(help="Seconds of silence after the input; by default until the model has been quiet for 2 s.")
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Record the tokens of every frame into this file.")] = None,
    trace_logits: Annotated[bool, typer.Option(help="Record logits and hidden states too (large).")] = False,
    max_minutes: MaxMinutes = 60.0,
    json_output: JsonOption = False,
) -> None:
    """Run a recording through the model: writes the spoken reply, prints its text as it is said."""
    from clearline.app import load
    from clearline.audio import wav_bytes, write_atomically
    from clearline.trace import Recorder

    for target in (output, *([] if trace is None else [trace])):
        if not target.parent.is_dir() or target.is_dir():
            raise ConfigError(f"cannot write {target}: {'it is a folder' if target.is_dir() else 'its folder does not exist'}")
    loaded = load(model, backend=backend, quantize=quantize, threads=threads)  # type: ignore[arg-type]
    config = loaded.generation(preset, seed=seed)
    audio = _changed(config.audio, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    text = _changed(
        config.text, temperature=text_temperature, top_k=text_top_k, top_p=text_top_p, min_p=text_min_p,
        repetition_penalty=repetition_penalty, padding_bonus=padding_bonus,
    )  # fmt: skip
    config = replace(config, audio=audio, text=text)
    recorder = None if trace is None else Recorder(trace_logits)
    with RunProgress(f"{loaded.backend.name}", show_text=not json_output, quiet=json_output) as progress:
        result = loaded.run_file(
            input, config, max_minutes * 60, tail=tail, recorder=recorder,
            on_frame=lambda frame, number, total: progress.frame(number, total, frame.text),
        )  # fmt: skip
    wav = wav_bytes(result.pcm, result.sample_rate)
    facts = result.facts | {"output": hashlib.sha256(wav).hexdigest()}
    if loaded.config.dep_q:
        write_atomically(output, wav)
    if recorder is not None and trace is not None:
        write_atomically(trace, recorder.to_bytes(facts))
    if json_output:
        report = {
            "text": result.text,
            "words": [asdict(word) for word in result.words],
            "output_path": str(output) if loaded.config.dep_q else None,
            "sample_rate": result.sample_rate,
            "input_seconds": round(result.audio_seconds, 3),
            "output_seconds": round(len(result.pcm) / result.sample_rate, 3),
            "run_seconds": round(result.seconds, 3),
            "speed": round(result.speed, 2),
            "hashes": {name: facts[name] for name in ("input", "output", "weights", "codec_weights", "config")},
            **{
                name: value
                for name, value in facts.items()
                if name not in ("input", "output", "weights", "codec_weights", "config")
            },
        }
        typer.echo(json.dumps(report, indent=2))
        return
    if sys.stderr.isatty() and sys.stdout.isatty():
        typer.echo(result.text)
    wrote = (
        f"wrote {output} ({len(result.pcm) / result.sample_rate:.1f} s)" if loaded.config.dep_q else "this model writes text only"
    )
    typer.echo(f"{wrote}, {result.speed:.1f}x real time, seed {config.seed}", err=True)


def _changed(sampling: Sampling, **values: float | int | None) -> Sampling:
    return replace(sampling, **{name: value for name, value in values.items() if value is not None})  # type: ignore[arg-type]
