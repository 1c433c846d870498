"""Where in a recording it is bad: stretches of windows, and a recording that turns to garbage half way."""

import json

import numpy as np
import pytest
import soundfile

from clearline.audio import to_mono
from clearline.generate.text import Word
from clearline.lab.consistency import reference_speech
from clearline.lab.judge import Judgement, Window, judge_recording
from clearline.lab.judge import timeline as module
from clearline.lab.judge.timeline import located, stretches

RATE = 24_000


def windows(verdicts: str) -> list[Window]:
    """One letter a window of 6 s, every 3 s: clear, degraded, garbled, silent, undecided."""
    names = {name[0]: name for name in ("clear", "degraded", "garbled", "silent", "undecided")}
    return [
        Window(3.0 * n, 3.0 * n + 6, Judgement(names[letter], 0.9, None, "", ())) for n, letter in enumerate(verdicts)  # type: ignore[arg-type]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ("cccc", [(0, 15, "clear")]),
        ("ccggg", [(0, 7.5, "clear"), (7.5, 18, "garbled")]),
        ("cucsc", [(0, 18, "clear")]),
        ("ccgcc", [(0, 18, "clear")]),  # one window alone may be a mistake
        ("ggccgg", [(0, 7.5, "garbled"), (7.5, 13.5, "clear"), (13.5, 21, "garbled")]),
        ("cdduggg", [(0, 12, "degraded"), (12, 24, "garbled")]),  # clear or degraded by most
        ("uss", []),
    ],
)
def test_stretches(verdicts, expected):
    assert [(part.start, part.end, part.verdict) for part in stretches(windows(verdicts))] == expected


def test_a_garbled_stretch_makes_a_recording_degraded():
    whole = Judgement("clear", 0.8, None, "Clear: so.", (), windows=tuple(windows("cccggg")))
    found = located(whole)
    assert (
        found.verdict == "degraded" and found.defects == ("garbled from 10 to 21 s",) and "clear from 0 to 10 s" in found.evidence
    )
    for same in ("ccc", "ggg", "guu"):
        whole = Judgement("undecided", 0.8, None, "So.", (), windows=tuple(windows(same)))
        assert located(whole).verdict == "undecided" and not located(whole).defects


def test_what_a_window_is_given(monkeypatch):
    """Its own words, by its own clock; text without times belongs to no window."""
    asked = []
    monkeypatch.setattr(module, "judge", lambda pcm, rate, **given: asked.append((len(pcm), given)) or windows("c")[0].judgement)
    said = [Word("one", 1.0, 1.4), Word("two", 5.0, 5.3), Word("three", 8.0, 8.4)]
    pcm = np.zeros(12 * RATE, np.float32)
    found = judge_recording(pcm, RATE, text=said)
    assert [(window.start, window.end) for window in found.windows] == [(0, 6), (3, 9), (6, 12)]
    assert asked[0][1]["text"] is said and [size for size, _ in asked] == [len(pcm), *[6 * RATE] * 3]
    heard = [[(word.text, round(word.start, 2)) for word in given["text"]] for _, given in asked[1:]]
    assert heard == [[("one", 1.0), ("two", 5.0)], [("two", 2.0), ("three", 5.0)], [("three", 2.0)]]
    asked.clear()
    judge_recording(pcm, RATE, text="one two three")
    assert [given["text"] for _, given in asked] == ["one two three", None, None, None]


def test_a_recording_that_turns_to_garbage(clearline, tmp_path):
    clear = np.tile(reference_speech(RATE), 6)[: 15 * RATE]
    garbled = np.random.default_rng(0).standard_normal(12 * RATE).astype(np.float32)
    garbled *= np.repeat(np.abs(clear[::480]), 480)[: len(garbled)] * 0.3 + 0.02
    wav = tmp_path / "turns.wav"
    soundfile.write(wav, to_mono(np.concatenate([clear, garbled]), RATE, RATE).clip(-1, 1), RATE)
    answer = clearline("judge", wav, "--json", "--html", tmp_path / "turns.html")
    report = json.loads(answer.out)
    assert answer.code == 1 and report["verdict"] == "degraded", report["evidence"]
    bad = [part for part in report["stretches"] if part["verdict"] == "garbled"]
    assert len(bad) == 1 and abs(bad[0]["start"] - 15) <= 3.5 and bad[0]["end"] == pytest.approx(27, abs=0.1)
    assert len(report["windows"]) == 8 and "Over time" in (tmp_path / "turns.html").read_text()
    assert "s: garbled" in clearline("judge", wav).out
