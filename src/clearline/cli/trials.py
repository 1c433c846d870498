"""`clearline trials`: how often does it work, and do two settings differ?"""

import json
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearline.cli.as_json import origin, print_json, with_hashes
from clearline.cli.options import BackendOption, JsonOption, MaxMinutes, ModelOption, ThreadsOption
from clearline.cli.progress import RunProgress, Steps
from clearline.config import GenerationConfig, Sampling
from clearline.config import preset as named_preset
from clearline.errors import ConfigError

if TYPE_CHECKING:
    from clearline.lab.trials import Against, Trials


def trials(
    input: Annotated[Path, typer.Argument(help="What the user says.")],
    count: Annotated[int, typer.Option("-n", help="Runs, each with its own seed.", min=1, max=100_000)] = 10,
    seeds: Annotated[
        str | None, typer.Option(help="The seeds themselves: 1,2,3. By default those from the settings' own on.")
    ] = None,
    model: ModelOption = "nano",
    preset: Annotated[str | None, typer.Option(help="Settings of an official program.")] = None,
    against: Annotated[
        str | None, typer.Option(help="Other settings to compare with: a preset, or changes: temperature=0.5,text_top_k=50.")
    ] = None,
    min_words: Annotated[int, typer.Option(help="Words a run must say to succeed.", min=0)] = 3,
    at_least: Annotated[float | None, typer.Option(help="Exit with 1 when the success rate is lower.", min=0, max=1)] = None,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
    max_minutes: MaxMinutes = 60.0,
    json_output: JsonOption = False,
) -> None:
    """Run an input many times. Exit code 1: the same seed gave two outputs, --at-least was missed, or --against differs."""
    from clearline.app import load
    from clearline.audio import read_audio
    from clearline.lab.trials import against as compare
    from clearline.lab.trials import trials as run_trials

    chosen = None if preset is None else named_preset(preset)
    if against is not None:
        _changed(chosen or GenerationConfig(), against)  # looked at before an hour of runs
    listed = None if seeds is None else _seeds(seeds)
    recording = read_audio(input, max_minutes * 60)
    with Steps("trials", quiet=json_output, first=f"loading {model}"):
        loaded = load(model, backend=backend, threads=threads)
    first = loaded.generation(chosen)
    every = listed or [(first.seed + i) % 2**64 for i in range(count)]
    settings = [first] if against is None else [first, _changed(first, against)]
    done: list[Trials] = []
    for config in settings:
        with RunProgress("trials", show_text=False, quiet=json_output) as progress:
            done.append(run_trials(loaded, recording, config, every, min_words, lambda n, of: progress.frame(n, of)))
    paired = compare(*done) if len(done) == 2 else None
    if json_output:
        facts = origin(input=input)["hashes"]
        print_json(_report(done, paired, min_words, [with_hashes(loaded.facts(config) | facts) for config in settings]))
    else:
        _print(done, paired, against)
    failed = not all(found.deterministic for found in done) or (at_least is not None and done[0].rate < at_least)
    sys.exit(1 if failed or (paired is not None and paired.p < 0.05) else 0)


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--seeds takes whole numbers separated by commas, not {text!r}") from error


def _changed(base: GenerationConfig, text: str) -> GenerationConfig:
    """A preset's name, or `name=value,...` with the names of Sampling for audio, the same after text_ for text, and the
    settings of the alignment (acoustic_delay, ...)."""
    if "=" not in text:
        return named_preset(text)
    names = {field.name for field in fields(Sampling)}
    parts: dict[str, dict[str, Any]] = {"audio": {}, "text": {}, "": {}}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        where, key = ("text", name.removeprefix("text_")) if name.startswith("text_") else ("audio", name)
        if key not in names:
            where, key = "", name
            if name not in {field.name for field in fields(GenerationConfig)} - {"text", "audio", "seed"}:
                raise ConfigError(
                    f"--against: there is no setting {name!r}; known: {', '.join(sorted(names))}, text_..., acoustic_delay"
                )
        try:
            parts[where][key] = json.loads(value)
        except ValueError:
            parts[where][key] = value
    return replace(base, audio=replace(base.audio, **parts["audio"]), text=replace(base.text, **parts["text"]), **parts[""])


def _report(done: "list[Trials]", paired: "Against | None", min_words: int, facts: list[dict[str, Any]]) -> dict[str, Any]:
    keys = ("first", "second")
    report: dict[str, Any] = {
        "criterion": f"at least {min_words} words, and the sound gives its codes back better than misaligned sound does",
    }
    for key, found, known in zip(keys, done, facts, strict=False):
        derived = {name: getattr(found, name) for name in ("successes", "rate", "deterministic", "distinct")}
        report[key] = derived | asdict(found) | {"facts": known}
    return report | ({"against": asdict(paired)} if paired is not None else {})


def _print(done: "list[Trials]", paired: "Against | None", against: str | None) -> None:
    for name, found in zip(("", f"against {against}: "), done, strict=False):
        for run in found.runs:
            mark = "ok  " if run.success else "FAIL"
            typer.echo(f"{mark} seed {run.seed:<10} {run.seconds:6.1f} s  {run.words:>3} words  {run.output[:12]}  {run.why}")
        low, high = found.interval
        typer.echo(
            f"{name}{found.successes} of {len(found.runs)} succeed: {found.rate:.0%}, 95% interval {low:.0%} to {high:.0%}; "
            f"{found.distinct} different outputs"
        )
        same = "the same" if found.deterministic else "ANOTHER"
        typer.echo(
            f"seed {found.repeated.seed} run again: {same} output ({found.repeated.output[:12]}, run {found.repeated.run_id})"
        )
    if paired is not None:
        verdict = "they differ" if paired.p < 0.05 else "no difference shown"
        typer.echo(
            f"paired by seed: only the first succeeds {paired.only_first} times, only the second {paired.only_second} times; "
            f"exact McNemar p {paired.p:.3f}: {verdict}"
        )
        if paired.p >= 0.05 and paired.needed is not None:
            typer.echo(f"a difference like this one would need about {paired.needed} runs each to show (80% power)")
        elif paired.p >= 0.05:
            typer.echo(f"no number of runs shows a difference with fewer than {paired.least} that go one way only")
