"""The pictures of a report. All that share a time axis are equally wide, so that one dashed line marks the same moment in each."""

import io
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import soundfile
from markupsafe import Markup, escape

from clearline.generate.text import Word
from clearline.lab.report.png import data_uri, png, ramp, wheel

FRAME_SECONDS = 0.08
COLUMNS = 900
CELL_SECONDS = 4.0
LINES = 3
COLOURS = {"A": "var(--a)", "B": "var(--b)"}
_HEAT = ramp((8, 12, 40), (40, 40, 130), (140, 40, 130), (225, 90, 70), (250, 185, 80), (255, 250, 210))
_WHEEL = np.concatenate([np.array([[240, 240, 240]], np.uint8), wheel(255)])
_AGREE = np.array([[240, 240, 240], [205, 228, 214], [200, 30, 58]], np.uint8)
_NONE = Markup("")


def waveform(pcm: np.ndarray, seconds: float, label: str, mark: float | None = None, colour: str = "var(--a)") -> Markup:
    """pcm [n] over `seconds`, as the range between its least and greatest sample in each column."""
    columns = min(COLUMNS, max(1, len(pcm)))
    edges = np.linspace(0, len(pcm), columns + 1).astype(int)
    parts = [pcm[a:b] if b > a else pcm[a : a + 1] for a, b in itertools.pairwise(edges.tolist())]
    peak = max(float(np.abs(pcm).max(initial=0.0)), 1e-9)
    top = [50 - 48 * float(part.max(initial=0.0)) / peak for part in parts]
    low = [50 - 48 * float(part.min(initial=0.0)) / peak for part in parts]
    points = [f"{x},{y:.1f}" for x, y in enumerate(top)] + [f"{x},{y:.1f}" for x, y in reversed(list(enumerate(low)))]
    shape = f'<polygon points="{" ".join(points)}" fill="{colour}" stroke="{colour}" stroke-width="0.6"/>'
    return _plot(_svg(shape, columns, 100), 5, label, seconds, mark)


def spectrogram(pcm: np.ndarray, rate: int, seconds: float, label: str, mark: float | None = None) -> Markup:
    """Power in dB, 80 dB down from the loudest, 0 Hz at the bottom, half the rate at the top."""
    size = 512
    padded = np.pad(pcm.astype(np.float32), (size // 2, size))
    hop = max(1, len(pcm) // COLUMNS)
    starts = np.arange(0, max(1, len(pcm)), hop)[:, None] + np.arange(size)
    power = np.abs(np.fft.rfft(padded[starts] * np.hanning(size).astype(np.float32), axis=1)) ** 2
    level = 10 * np.log10(power[:, : size // 2].reshape(len(power), -1, 2).mean(2) + 1e-12)
    scaled = np.clip((level - level.max() + 80) / 80, 0, 1)
    pixels = (scaled.T[::-1] * 255).round().astype(np.uint8)
    return _plot(
        _image(png(pixels, _HEAT), f"spectrogram of {label}", smooth=True), 7, f"{label}, 0 to {rate / 2000:g} kHz", seconds, mark
    )


def heat_map(codes: np.ndarray, seconds: float, label: str, mark: float | None = None) -> Markup:
    """Codes int [T, K]: a row a codebook, a colour a code (grey: none). Equal codes have one colour, so that repeats are seen."""
    pixels = np.where(codes >= 0, 1 + codes % 255, 0).astype(np.uint8)
    return _plot(_image(png(pixels.T, _WHEEL), f"codes of {label}"), 0.7 * codes.shape[1] + 0.4, label, seconds, mark)


def difference_map(a: np.ndarray, b: np.ndarray, seconds: float, label: str, mark: float | None = None) -> Markup:
    """Two columns int [T, K]: red where they differ, green where they agree, grey where one has none."""
    length, width = min(len(a), len(b)), min(a.shape[1], b.shape[1])
    a, b = a[:length, :width], b[:length, :width]
    pixels = np.where((a < -1) | (b < -1), 0, np.where(a == b, 1, 2)).astype(np.uint8)
    return _plot(_image(png(pixels.T, _AGREE), f"difference of {label}"), 0.7 * width + 0.4, label, seconds, mark)


def timeline(streams: Mapping[str, Sequence[Word]], seconds: float, mark: float | None = None) -> Markup:
    """Text streams under each other, in cells of four seconds: every word at its time."""
    lane, cells = 58, []
    height = 18 + lane * len(streams)
    for first in np.arange(0, max(seconds, CELL_SECONDS), CELL_SECONDS):
        parts = [_second_lines(float(first), height)]
        for row, (name, words) in enumerate(streams.items()):
            top = 16 + lane * row
            parts.append(_lane(name, [word for word in words if first <= word.start < first + CELL_SECONDS], float(first), top))
        if mark is not None and first <= mark < first + CELL_SECONDS:
            x = (mark - first) * 100
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}" stroke="var(--mark)" stroke-width="2" '
                         'stroke-dasharray="4 3"/>')  # fmt: skip
        cells.append(f'<svg viewBox="0 0 {CELL_SECONDS * 100:g} {height}" role="img" aria-label="text from {first:g} s on">'
                     + "".join(parts) + "</svg>")  # fmt: skip
    return Markup(f'<div class="words">{"".join(cells)}</div>')


def step_times(seconds_a_step: np.ndarray, limit: float = FRAME_SECONDS) -> Markup:
    """How long each step took, with the line that it must stay below to keep up; steps beyond it are red."""
    taken = np.nan_to_num(seconds_a_step) * 1e3
    # The first step pays for what is made once; it must not press the others to the floor.
    most = max(2.5 * limit * 1e3, 1.2 * float(np.percentile(taken, 99)) if len(taken) else 0.0)
    top = min(most, max(limit * 1e3 * 1.25, float(taken.max(initial=0.0)) * 1.05))
    columns = max(1, len(taken))
    bars = "".join(
        f'<rect x="{x}" y="{max(0, 100 - 100 * t / top):.2f}" width="1" height="{min(100, 100 * t / top):.2f}" '
        f'fill="{"var(--mark)" if t > limit * 1e3 else "var(--a)"}"/>'
        for x, t in enumerate(taken.tolist())
    )
    at = 100 - 100 * limit * 1e3 / top
    line = (f'<line x1="0" x2="{columns}" y1="{at:.2f}" y2="{at:.2f}" stroke="var(--mark)" stroke-width="1.5" '
            'stroke-dasharray="6 4" vector-effect="non-scaling-stroke"/>')  # fmt: skip
    label = Markup('<span class="limit" style="top:{}%">{} ms</span>').format(f"{at:.1f}", f"{limit * 1e3:g}")
    return _plot(_svg(bars + line, columns, 100) + label, 8, "", len(taken) * FRAME_SECONDS, None)


def bars(values: Mapping[str, float], limit: float, label: str) -> Markup:
    """Relative errors by layer, on a logarithmic scale from 1e-9 to 1; beyond `limit` they are red."""
    columns = max(1, len(values))

    def height(value: float) -> float:
        return 100 * float(np.clip((np.log10(max(value, 1e-9)) + 9) / 9, 0, 1)) if np.isfinite(value) else 100.0

    shapes = "".join(
        f'<rect x="{x + 0.05}" y="{100 - height(value):.2f}" width="0.9" height="{height(value):.2f}" '
        f'fill="{"var(--a)" if value <= limit else "var(--mark)"}"><title>{escape(name)}: {value:.1e}</title></rect>'
        for x, (name, value) in enumerate(values.items())
    )
    at = 100 - height(limit)
    line = (f'<line x1="0" x2="{columns}" y1="{at:.2f}" y2="{at:.2f}" stroke="var(--mark)" stroke-width="1.5" '
            'stroke-dasharray="6 4" vector-effect="non-scaling-stroke"/>')  # fmt: skip
    name = Markup('<span class="limit" style="top:{}%">{}</span>').format(f"{at:.1f}", f"{limit:g}")
    return _plot(_svg(shapes + line, columns, 100) + name, 8, label, None, None)


def player(pcm: np.ndarray, rate: int, label: str) -> Markup:
    """The sound itself, lossless, inside the page."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(pcm, -1, 1), rate, format="FLAC", subtype="PCM_16")
    uri = data_uri(buffer.getvalue(), "audio/flac")
    return Markup('<audio controls preload="metadata" aria-label="{}" src="{}"></audio>').format(label, uri)


def _lane(name: str, words: Sequence[Word], first: float, top: int) -> str:
    """One stream in one cell; a word that would cover another goes to the next line."""
    colour = COLOURS.get(name, "var(--a)")
    parts = [f'<text x="2" y="{top - 3}" font-size="10" style="font-size:10px" fill="var(--faint)">{escape(name)}</text>']
    ends = [0.0] * LINES
    for word in words:
        x = min((word.start - first) * 100, CELL_SECONDS * 100 - 7.4 * len(word.text))
        line = next((i for i, end in enumerate(ends) if end <= x), ends.index(min(ends)))
        x = max(x, ends[line])
        ends[line] = x + 7.4 * len(word.text) + 4
        y = top + 12 + 15 * line
        parts.append(f'<text x="{x:.1f}" y="{y}" fill="{colour}">{escape(word.text)}<title>{word.start:.2f} s</title></text>')
    return "".join(parts)


def _second_lines(first: float, height: int) -> str:
    return "".join(
        f'<line x1="{100 * i}" x2="{100 * i}" y1="0" y2="{height}" stroke="var(--line)"/>'
        f'<text x="{100 * i + 3}" y="{height - 3}" style="font-size:9px" fill="var(--faint)">{first + i:g} s</text>'
        for i in range(int(CELL_SECONDS))
    )


def _svg(shapes: str, width: int, height: int) -> Markup:
    return Markup(f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none">{shapes}</svg>')


def _image(data: bytes, what: str, smooth: bool = False) -> Markup:
    return Markup('<img alt="{}" class="{}" src="{}">').format(what, "smooth" if smooth else "sharp", data_uri(data, "image/png"))


def _plot(content: Markup, height: float, label: str, seconds: float | None, mark: float | None) -> Markup:
    """A framed plot, `height` in rem, with its label inside, the marked moment, and the time below."""
    line = _NONE
    if mark is not None and seconds and mark <= seconds:
        line = Markup('<div class="mark" style="left:{}%"></div>').format(f"{100 * mark / seconds:.2f}")
    name = Markup('<span class="label">{}</span>').format(label) if label else _NONE
    box = Markup('<div class="plot" style="height:{}rem">{}{}{}</div>').format(f"{height:g}", content, line, name)
    return box + (_ticks(seconds) if seconds else _NONE)


def _ticks(seconds: float) -> Markup:
    step = next((step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300) if seconds / step <= 7), seconds)
    times = np.arange(0, seconds + 1e-9, step).tolist()
    spans = (
        Markup('<span class="{}" style="left:{}%">{} s</span>').format(
            "end" if at > 0.97 * seconds else "", f"{100 * at / seconds:.2f}", f"{at:g}"
        )
        for at in (round(time, 3) for time in times)
    )
    return Markup('<div class="ticks" aria-hidden="true">{}</div>').format(Markup("").join(spans))
