"""Sections that several reports share: facts, sound, codes, text, step times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clearline.generate.text import Word
from clearline.lab.conversation import RATE, sound
from clearline.lab.report.figures import (
    COLOURS,
    FRAME_SECONDS,
    heat_map,
    player,
    spectrogram,
    step_times,
    timeline,
    waveform,
)
from clearline.lab.report.page import Figure, Section, Table
from clearline.lab.words import of_nano, words_of
from clearline.trace import Trace

# A page with more sound than this is too big to open on a phone: 64 kB a second.
MAX_SECONDS = 300.0


@dataclass(frozen=True)
class Shown:
    """One trace as a report shows it: its name ("A", "B" or what it is), sounds [n] by what they are, and its words."""

    name: str
    trace: Trace
    sounds: Mapping[str, np.ndarray]
    words: Sequence[Word] | None

    @property
    def seconds(self) -> float:
        return self.trace.steps * FRAME_SECONDS


def shown(name: str, trace: Trace, model: str | None) -> Shown:
    """What of a trace can be shown: sound that was recorded, or decoded by the codec of `model` (nano's own: nano)."""
    if model is None and of_nano(trace):
        model = "nano"
    limit = round(MAX_SECONDS * RATE)
    named = {"heard": sound(trace, "in", model), "said": sound(trace, "out", model)}
    return Shown(name, trace, {what: pcm[:limit] for what, pcm in named.items() if pcm is not None}, words_of(trace, model))


def sound_section(sides: Sequence[Shown], mark: float | None) -> Section | None:
    """Waveforms and spectrograms beside each other, each playable."""
    named = {"heard": "what the model heard", "said": "what the model said"}
    figures = [
        sound_figure(side.sounds[what], f"{side.name}: {what}", mark, COLOURS.get(side.name, "var(--a)"), f"{side.name}: {meaning}")
        for what, meaning in named.items()
        for side in sides
        if len(side.sounds.get(what, ()))
    ]
    return Section("Sound", figures=figures) if figures else None


def sound_figure(pcm: np.ndarray, label: str, mark: float | None, colour: str = "var(--a)", caption: str | None = None) -> Figure:
    """One sound [n] at 24 kHz: to see, and to play."""
    seconds = len(pcm) / RATE
    body = waveform(pcm, seconds, label, mark, colour) + spectrogram(pcm, RATE, seconds, label, mark) + player(pcm, RATE, label)
    return Figure(body, f"{caption or label}, {seconds:.1f} s, peak {float(np.abs(pcm).max()):.2f}")


def codes_section(sides: Sequence[Shown], mark: float | None, name: str = "codes_out", title: str = "Codes") -> Section | None:
    """A row a codebook, a colour a code."""
    figures = []
    for side in sides:
        codes = side.trace.columns.get(name)
        if codes is not None and codes.ndim == 2:
            seconds = len(codes) * FRAME_SECONDS
            caption = f"{side.name}: {codes.shape[1]} codebooks, the semantic one on top, {len(codes)} frames"
            figures.append(Figure(heat_map(codes, seconds, f"{side.name}: {name}", mark), caption, "wide"))
    text = ["A row is a codebook, a column a frame, and a code has one colour throughout: repeats, loops and shifts can be seen."]
    return Section(title, text, figures) if figures else None


def text_section(sides: Sequence[Shown], mark: float | None) -> Section | None:
    """Every text stream, its words where they were said."""
    streams = {side.name: side.words for side in sides if side.words is not None}
    if not streams:
        return None
    seconds = max(side.seconds for side in sides)
    told = [f"{name}: {' '.join(word.text for word in words) or '(nothing)'}" for name, words in streams.items()]
    return Section("Text", told, [Figure(timeline(streams, seconds, mark), "words at the steps that said them", "wide")])


def times_section(sides: Sequence[Shown]) -> Section | None:
    """How long each step took against the 80 ms it has."""
    figures = []
    for side in sides:
        taken = side.trace.columns.get("seconds")
        if taken is None or not np.isfinite(taken).any():
            continue
        known = taken[np.isfinite(taken)] * 1e3
        late = int((known > FRAME_SECONDS * 1e3).sum())
        caption = (
            f"{side.name}: median {np.median(known):.1f} ms, 99% within {np.percentile(known, 99):.1f} ms, "
            f"longest {known.max():.1f} ms; {late} of {len(known)} steps over 80 ms"
        )
        figures.append(Figure(step_times(taken), caption))
    return Section("Step times", figures=figures) if figures else None


def facts_section(sides: Sequence[Shown]) -> Section | None:
    """What is known of how each trace was made; hashes shortened."""
    keys = sorted({key for side in sides for key in side.trace.facts} - {"name"})
    if not keys:
        return None
    rows = [(key, *(_shortened(side.trace.facts.get(key)) for side in sides)) for key in keys]
    heads = () if len(sides) == 1 else ("", *(side.name for side in sides))
    return Section("Facts", tables=[Table(rows, heads)])


def _shortened(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shortened(inner)}" for key, inner in value.items() if inner not in (None, 0, 0.0, False)) or "-"
    text = "-" if value is None else str(value)
    return f"{text[:12]}…" if len(text) == 64 and all(c in "0123456789abcdef" for c in text) else text
