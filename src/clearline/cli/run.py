"""`clearline run`: a recording in, the spoken reply out."""

import hashlib
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearline.cli.as_json import print_json, with_hashes
from clearline.cli.options import (
    BackendOption,
    CacheOption,
    CompileOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MaxMinutes,
    ModelOption,
    OutputOption,
    ThreadsOption,
    WeightsOption,
    check_target,
    check_wav,
    is_stdout,
)
from clearline.cli.progress import RunProgress, Steps
from clearline.config import GenerationConfig, Sampling
from clearline.config import preset as named_preset
from clearline.errors import ConfigError

if TYPE_CHECKING:
    from clearline.generate.persona import Persona
    from clearline.generate.result import Result


def run(
    input: Annotated[Path, typer.Argument(help="What the user says: WAV, FLAC, Ogg, MP3, AIFF; any rate, any channels.")],
    output: OutputOption = Path("reply.wav"),
    model: ModelOption = "nano",
    seed: Annotated[int | None, typer.Option(help="Seed of the sampling noise; 299792458 unless the preset has its own.")] = None,
    preset: Annotated[str | None, typer.Option(help="Settings of an official program; `clearline presets` lists them.")] = None,
    backend: BackendOption = "auto",
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    cache: CacheOption = None,
    weights: WeightsOption = None,
    compile: CompileOption = False,
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
    guidance: Annotated[
        float | None, typer.Option(help="Hibiki: how far beyond its best condition to go, away from its worst; 1 is off.")
    ] = None,
    voice_prompt: Annotated[
        Path | None, typer.Option(help="PersonaPlex: a recording of the voice to speak with, or one of NVIDIA's as .safetensors.")
    ] = None,
    text_prompt: Annotated[
        str | None, typer.Option(help="PersonaPlex: the role to play; NVIDIA's teacher unless given, '' for none.")
    ] = None,
    tail: Annotated[
        float | None,
        typer.Option(help="Seconds of silence after the input; by default until the model has been quiet for 2 s."),
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Record the tokens of every frame into this file.")] = None,
    trace_logits: Annotated[bool, typer.Option(help="Record logits and hidden states too (large).")] = False,
    trace_pcm: Annotated[bool, typer.Option(help="Record the samples in and out too (11 MB a minute).")] = False,
    max_minutes: MaxMinutes = 60.0,
    json_output: JsonOption = False,
) -> None:
    """Run a recording through the model: writes the spoken reply, prints its text as it is said."""
    from clearline.app import load
    from clearline.audio import read_audio, wav_bytes, write_atomically
    from clearline.generate.feed import check_tail
    from clearline.trace import CLOCK, LOGITS, PCM, TOKENS, FileRecorder

    audio = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    text = {
        "temperature": text_temperature, "top_k": text_top_k, "top_p": text_top_p, "min_p": text_min_p,
        "repetition_penalty": repetition_penalty, "padding_bonus": padding_bonus,
    }  # fmt: skip
    if trace is None and (trace_logits or trace_pcm):
        raise ConfigError("--trace-logits and --trace-pcm say what --trace FILE records besides tokens: name the file")
    # Everything that can be wrong is looked at before the weights are read, which takes a while for a large model.
    _check_targets(input, output, trace, json_output)
    check_tail(tail)
    _settings(GenerationConfig() if preset is None else named_preset(preset), seed, text, audio, guidance)
    persona = _persona(voice_prompt, text_prompt)
    recording = read_audio(input, max_minutes * 60)
    digest = hashlib.sha256(input.read_bytes()).hexdigest()
    with Steps("run", quiet=json_output, first=f"loading {model}") as steps:
        loaded = load(
            model,
            backend=backend,
            quantize=quantize,  # type: ignore[arg-type]
            threads=threads,
            device=device,
            dtype=dtype,
            cache=cache,
            weights=weights,
            compile=compile,
        )
        config = _settings(loaded.generation(preset), seed, text, audio, guidance)
        loaded.prepare(config, on_part=steps.part)
    speaks = loaded.config.dep_q > 0
    boundaries = TOKENS | CLOCK | (LOGITS if trace_logits else frozenset()) | (PCM if trace_pcm else frozenset())
    with nullcontext() if trace is None else FileRecorder(trace, boundaries) as recorder:
        with RunProgress(
            f"{loaded.backend.name}", show_text=speaks and not json_output and not is_stdout(output), quiet=json_output
        ) as progress:
            result = loaded.run(
                recording.samples, recording.rate, config, tail=tail, recorder=recorder, input_hash=digest,
                on_frame=lambda frame, number, total: progress.frame(number, total, frame.text),
                on_prompt=progress.prompt, persona=persona,
            )  # fmt: skip
        wav = wav_bytes(result.pcm, result.sample_rate) if speaks else b""
        facts = result.facts | {"output": hashlib.sha256(wav).hexdigest() if speaks else None}
        if preset is not None and config == _settings(named_preset(preset), seed, {}, {}, None):
            facts["preset"] = preset  # some presets are the same settings under two names
        if speaks:
            write_atomically(output, wav)
        if recorder is not None:
            recorder.begin(facts)
    if json_output:
        print_json(_report(result, facts, output if speaks else None))
    else:
        _summary(result, output if speaks else None)
    if loaded.checkpoint.config.model_type == "hibiki" and tail is None and not result.ended:
        typer.echo("warning: the model had not said the end of its text when the time for it was over", err=True)


def _persona(voice: Path | None, text: str | None) -> "Persona | None":
    from clearline.generate.persona import DEFAULT_TEXT, Persona

    return None if voice is None and text is None else Persona(DEFAULT_TEXT if text is None else text, voice)


def _check_targets(input: Path, output: Path, trace: Path | None, json_output: bool) -> None:
    check_wav(output)
    targets = [output] if trace is None else [output, trace]
    for i, target in enumerate(targets):
        check_target(target, input, json_output)
        device = target.exists() and not target.is_file()
        if not device and target.resolve() in [other.resolve() for other in targets[:i]]:
            raise ConfigError(f"the reply and the trace cannot both be written to {target}")


def _settings(
    base: GenerationConfig,
    seed: int | None,
    text: dict[str, float | None],
    audio: dict[str, float | None],
    guidance: float | None,
) -> GenerationConfig:
    return replace(
        base,
        text=_changed(base.text, text),
        audio=_changed(base.audio, audio),
        seed=base.seed if seed is None else seed,
        guidance=base.guidance if guidance is None else guidance,
    )


def _changed(sampling: Sampling, values: dict[str, float | None]) -> Sampling:
    given: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    return replace(sampling, **given)


def _report(result: "Result", facts: dict[str, Any], output: Path | None) -> dict[str, Any]:
    return {
        "text": result.text,
        "words": [asdict(word) for word in result.words],
        "output_path": None if output is None else str(output),
        "sample_rate": result.sample_rate,
        "input_seconds": round(result.audio_seconds, 3),
        "output_seconds": round(len(result.pcm) / result.sample_rate, 3),
        "clipped_samples": result.clipped,
        "end_of_text": result.ended,
        "run_seconds": round(result.seconds, 3),
        "speed": round(result.speed, 2),
        **with_hashes(facts),
    }


def _summary(result: "Result", output: Path | None) -> None:
    if output is None:
        typer.echo("\n".join(f"{word.start:8.2f} {word.end:8.2f}  {word.text}" for word in result.words))
    elif sys.stderr.isatty() and sys.stdout.isatty() and not is_stdout(output):
        typer.echo(result.text)  # the live display has vanished
    wrote = "this model writes text only" if output is None else f"wrote {output} ({len(result.pcm) / result.sample_rate:.1f} s)"
    typer.echo(f"{wrote}, {result.speed:.1f}x real time, seed {result.facts['seed']}", err=True)
    if result.clipped:
        typer.echo(f"warning: {result.clipped} samples were louder than full scale and were clipped", err=True)
