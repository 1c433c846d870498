"""Where in a recording it is bad: the judge asked about overlapping windows, and the whole verdict held against them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from clearline.generate import Codec
from clearline.generate.text import Word
from clearline.lab.judge.calibration import rates
from clearline.lab.judge.judgement import Judgement, Stretch, Window
from clearline.lab.judge.recogniser import Recogniser
from clearline.lab.judge.trial import WITNESSES, judge

# Seconds: a window is long enough for every witness to say something; windows begin so far apart. Shorter recordings are
# judged as a whole.
LENGTH, HOP = 6.0, 3.0
SHORTEST = 1.5 * LENGTH


def judge_recording(
    pcm: np.ndarray,
    sample_rate: int,
    *,
    text: str | Sequence[Word] | None = None,
    codes: np.ndarray | None = None,
    codec: Codec | None = None,
    recogniser: Recogniser | None = None,
    witnesses: Sequence[str] = tuple(WITNESSES),
    on_step: Callable[[int, int, str], None] | None = None,
) -> Judgement:
    """`judge`, and for longer recordings `windows` and `stretches` too: which parts of it are garbled, and which are not.

    A recording of which a stretch is garbled while the rest can be understood is "degraded", and the stretch is its defect:
    two windows that overlap must both be called garbled, so that a chance mistake about one is no stretch. Arguments as
    `judge` has them; text without times belongs to no window, and is asked of the whole alone.
    """
    length = len(pcm) / sample_rate
    starts = np.arange(0, length - LENGTH + HOP, HOP) if length >= SHORTEST else np.zeros(0)
    total = len(WITNESSES) + len(starts)

    def tell(number: int, what: str) -> None:
        if on_step is not None:
            on_step(number, total, what)

    given: dict[str, Any] = {"codec": codec, "recogniser": recogniser, "witnesses": witnesses}
    whole = judge(
        pcm, sample_rate, text=text, codes=codes, **given, on_step=lambda number, _, what: tell(number, what)
    )  # fmt: skip
    if whole.verdict == "silent":
        return whole
    windows = []
    for number, start in enumerate(starts):
        end = min(start + LENGTH, length)
        part = np.asarray(pcm)[round(start * sample_rate) : round(end * sample_rate)]
        found = judge(part, sample_rate, text=_words(text, start, end), codes=_codes(codes, codec, start, end), **given)
        windows.append(Window(float(start), float(end), found))
        tell(len(WITNESSES) + number, f"{start:.0f} to {end:.0f} s")
    return located(replace(whole, windows=tuple(windows)))


def located(whole: Judgement) -> Judgement:
    """The whole verdict, with what its windows say of parts."""
    parts = stretches(whole.windows)
    bad = [part for part in parts if part.verdict == "garbled"]
    good = [part for part in parts if part.verdict in ("clear", "degraded")]
    whole = replace(whole, stretches=tuple(parts))
    if not bad or not good:
        return whole
    defects = (*(f"garbled from {part.start:.0f} to {part.end:.0f} s" for part in bad), *whole.defects)
    # How sure we are of the surest stretch on either side.
    sure = min(max(part.confidence for part in bad), max(part.confidence for part in good))
    asked = [one.witness for one in whole.testimonies if one.asked]
    told = "; ".join(f"{part.verdict} from {part.start:.0f} to {part.end:.0f} s" for part in parts)
    return replace(
        whole, verdict="degraded", confidence=sure, rates=rates(asked, "degraded"), defects=defects,
        evidence=f"In parts: {told}. As a whole: {whole.evidence}",
    )  # fmt: skip


def stretches(windows: Sequence[Window]) -> list[Stretch]:
    """Windows one after the other that are garbled, or are not, as stretches; silent and undecided ones belong to what is
    before them.

    A garbled stretch needs two windows. What can be understood is "clear" or "degraded" by most of its windows: one window
    does not tell those two apart well enough. Where two stretches meet, the border is the middle of what both cover.
    """
    heard = [window for window in windows if window.verdict in ("clear", "degraded", "garbled")]
    runs = [list(run) for _, run in groupby(heard, lambda window: window.verdict == "garbled")]
    runs = [run for run in runs if run[0].verdict != "garbled" or len(run) > 1]
    # Where a lone garbled window went, what is beside it is one.
    joined = [[window for run in same for window in run] for _, same in groupby(runs, lambda run: run[0].verdict == "garbled")]
    found: list[Stretch] = []
    for run in joined:
        verdict, _ = Counter(window.verdict for window in run).most_common(1)[0]
        start = run[0].start
        if found:
            start = (found[-1].end + start) / 2
            found[-1] = replace(found[-1], end=start)
        confidence = max(window.judgement.confidence for window in run if window.verdict == verdict)
        found.append(Stretch(start, run[-1].end, verdict, confidence))
    return found


def _words(text: str | Sequence[Word] | None, start: float, end: float) -> list[Word] | None:
    """The words that are said whole inside of the window, by its clock."""
    if text is None or isinstance(text, str):
        return None
    inside = [word for word in text if word.start >= start and word.end <= end - 0.5]
    return [replace(word, start=word.start - start, end=word.end - start) for word in inside] or None


def _codes(codes: np.ndarray | None, codec: Codec | None, start: float, end: float) -> np.ndarray | None:
    """The codes [K, n] of the window, where the sound begins with the first of them."""
    if codes is None or codec is None:
        return None
    rate = codec.sample_rate / codec.frame_size
    cut = np.asarray(codes)[:, round(start * rate) : round(end * rate)]
    return cut if cut.size else None
