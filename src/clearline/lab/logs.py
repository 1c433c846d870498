"""Importing the log lines of seed 004: `MOSHI_DEBUG: Step N audio tokens: [...]` and `... Step N text token: T`; its program's
earlier `MOSHI_DEBUG: Frame N: Audio tokens: [...]` too.

Whatever stands before the mark (time stamps, levels, module names, colours) is skipped. What moshi-core's
`last_audio_tokens` returns is aligned already, so the audio tokens are codes_out; 4294967295 (u32::MAX), its "not
generated yet", becomes -2.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clearline.config.lm import UNGENERATED
from clearline.errors import ClearlineError
from clearline.trace import Trace

_LINE = re.compile(r"MOSHI_DEBUG: (?:Step|Frame) (\d+):? (?:[Aa]udio tokens: \[([-\d,\s]*)\]|[Tt]ext token: (?:Some\()?(-?\d+))")
_U32_MAX = 2**32 - 1


@dataclass
class _Run:
    audio: dict[int, list[int]] = field(default_factory=dict)
    text: dict[int, int] = field(default_factory=dict)
    newest: int = -1


def read_log(path: Path, text: str, number: int | None = None) -> Trace:
    """The trace in a log's text. A log that holds several runs (step numbers begin again) needs the run's number, from 1."""
    runs = _runs(text)
    if not runs:
        raise ClearlineError(f"{path} is no trace, and holds no line like 'MOSHI_DEBUG: Step 0 audio tokens: [1049, 12, ...]'")
    if number is None and len(runs) > 1:
        raise ClearlineError(f"{path} holds {len(runs)} runs; name one of {path}#1 .. {path}#{len(runs)}")
    if number is not None and not 1 <= number <= len(runs):
        raise ClearlineError(f"{path} holds {len(runs)} run(s); there is no #{number}")
    run = runs[0 if number is None else number - 1]
    columns: dict[str, np.ndarray] = {}
    if run.text:
        columns["text_token"] = np.full(run.newest + 1, UNGENERATED)
        columns["text_token"][list(run.text)] = list(run.text.values())
    if run.audio:
        widths = {len(tokens) for tokens in run.audio.values()}
        if len(widths) > 1:
            raise ClearlineError(f"{path}: steps have different numbers of audio tokens: {sorted(widths)}")
        columns["codes_out"] = np.full((run.newest + 1, widths.pop()), UNGENERATED)
        columns["codes_out"][list(run.audio)] = list(run.audio.values())
    for column in columns.values():
        column[column == _U32_MAX] = UNGENERATED
    return Trace(columns, {"imported_from": "MOSHI_DEBUG log"})


def _runs(text: str) -> list[_Run]:
    """The runs of a log: a step that was there before, of the same kind, begins another."""
    runs: list[_Run] = []
    for match in _LINE.finditer(text):
        step, audio = int(match[1]), match[2] is not None
        if not runs or step < runs[-1].newest or step in (runs[-1].audio if audio else runs[-1].text):
            runs.append(_Run())
        run = runs[-1]
        run.newest = step
        if audio:
            run.audio[step] = [int(token) for token in match[2].replace(",", " ").split()]
        else:
            run.text[step] = int(match[3])
    return runs
