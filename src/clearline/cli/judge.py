"""`clearline judge`: is it intelligible speech, and is it what the model said?"""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearline.cli.as_json import origin, print_json
from clearline.cli.options import BackendOption, HtmlOption, JsonOption
from clearline.cli.progress import Counted
from clearline.errors import AudioError, ClearlineError

if TYPE_CHECKING:
    from clearline.lab.judge import Judgement


def judge(
    source: Annotated[str, typer.Argument(help="A recording of any format; or a trace or codes, which are decoded first.")],
    trace: Annotated[str | None, typer.Option(help="What the recording was made of: a trace, or codes.")] = None,
    text: Annotated[str | None, typer.Option(help="The words it should say; by default the text of the trace.")] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="The model of the trace: nano, a model folder, or a codec's .safetensors.")
    ] = "nano",
    channel: Annotated[int | None, typer.Option(help="Judge one channel, counted from 1, instead of the mixture.", min=1)] = None,
    whisper: Annotated[
        Path | None, typer.Option(help="A faster-whisper model's folder, to quote what it writes. It decides nothing.")
    ] = None,
    backend: BackendOption = "auto",
    html: HtmlOption = None,
    json_output: JsonOption = False,
) -> None:
    """Ask independent witnesses whether a recording is intelligible speech. No ASR's word is taken for it.

    Exit code 0: clear; 1: degraded, garbled or silent; 3: undecided.
    """
    from clearline.app import load_codec
    from clearline.lab.judge import judge_recording
    from clearline.lab.judge.evidence import Evidence, evidence
    from clearline.lab.source import open_source

    if whisper is not None:
        from clearline.lab.judge.asr import check_folder

        check_folder(whisper)
    is_sound, pcm, rate = _open(source, channel)
    behind = trace if trace is not None or is_sound else source
    known = Evidence(None, None)
    codec = None
    if behind is not None:
        opened = open_source(behind)
        known = evidence(opened, model)
        codec = load_codec(model, backend=backend) if known.codes is not None else None
        if not is_sound:
            if codec is None or known.codes is None:
                raise ClearlineError(f"{source} has no codes that {model} can decode{''.join(f': {note}' for note in known.notes)}")
            pcm, rate = codec.decode(known.codes), codec.sample_rate
    with Counted("asking the witnesses", quiet=json_output) as progress:
        found = judge_recording(
            pcm, rate, text=text if text is not None else known.words, codes=known.codes, codec=codec, on_step=progress.done
        )
    found = replace(found, notes=found.notes + known.notes)
    if whisper is not None:
        from clearline.lab.judge.asr import quote
        from clearline.lab.judge.hearing import hear

        found = replace(found, notes=(*found.notes, quote(hear(pcm, rate).voice, whisper)))
    if html is not None:
        from clearline.lab.report import judge_report, write_report

        write_report(html, judge_report(Path(source).name, found, pcm, rate))
        typer.echo(f"wrote {html}", err=True)
    if json_output:
        report = (
            {"source": source} | asdict(replace(found, windows=())) | {"windows": _windows(found), "not_asked": found.not_asked}
        )
        report["wrong_at_most"] = None if found.rates is None else found.rates.at_most
        print_json(report | origin(source=source, trace=trace))
    else:
        _print(source, found)
    sys.exit({"clear": 0, "undecided": 3}.get(found.verdict, 1))


def _open(source: str, channel: int | None) -> tuple[bool, Any, int]:
    """Whether source is a recording, and then its samples and rate. A recording without samples is one, and silent."""
    import numpy as np
    import soundfile

    from clearline.audio import read_audio
    from clearline.lab.source import SOUND

    path = Path(source)
    if path.suffix.lower() not in SOUND:
        if channel is not None:
            raise ClearlineError(f"--channel chooses one of a recording; {source} is none")
        return False, None, 0
    try:
        recording = read_audio(path)
        samples, rate = recording.samples, recording.rate
    except AudioError:
        # A header and nothing behind it is a sound of no length; anything else is no sound.
        try:
            info = soundfile.info(path)
        except (soundfile.LibsndfileError, OSError, TypeError):
            info = None
        if info is None or info.frames != 0:
            raise
        samples, rate = np.zeros((0, 1), np.float32), info.samplerate
    if channel is not None:
        if channel > samples.shape[1]:
            raise ClearlineError(f"{source} has {samples.shape[1]} channels; there is no channel {channel}")
        samples = samples[:, channel - 1]
    return True, samples, rate


def _print(source: str, found: "Judgement") -> None:
    typer.echo(f"{source}: {found.verdict.upper()} (confidence {found.confidence:.0%})")
    typer.echo(found.evidence)
    for one in found.testimonies:
        if one.asked:
            opinion = "" if one.garbled is None else f"  [{one.garbled:.0%} garbled]"
            typer.echo(f"  {one.witness:<9} {one.says}{opinion}")
    if len(found.stretches) > 1:
        for part in found.stretches:
            typer.echo(f"  {part.start:.1f} to {part.end:.1f} s: {part.verdict} (confidence {part.confidence:.0%})")
    for line in found.not_asked:
        typer.echo(f"  not asked: {line}")
    for line in found.notes:
        typer.echo(f"  note: {line}")
    rates = found.rates
    if rates is not None and found.verdict != "undecided":
        typer.echo(
            f"These witnesses called {rates.verdicts} held-out recordings {found.verdict}, {rates.wrong} of them wrongly: they are "
            f"wrong at most {rates.at_most:.0%} of the time (95% confidence)"
        )


def _windows(found: "Judgement") -> list[dict[str, Any]]:
    """What is said of each part of a longer recording, without the testimonies."""
    return [
        {"start": window.start, "end": window.end}
        | {name: getattr(window.judgement, name) for name in ("verdict", "confidence", "garbled", "evidence")}
        for window in found.windows
    ]
