"""The sound as its own control, with a recogniser made for it."""

from dataclasses import replace

import numpy as np

from clearline.lab.judge.case import Case
from clearline.lab.judge.hearing import hear
from clearline.lab.judge.language import ask
from clearline.lab.judge.verdict import decide

RATE = 16_000


class Rising:
    """Finds words in sounds whose pitch rises at about 400 Hz a second, which is to say not backwards, nor at another speed."""

    name = "rising"

    def __init__(self, hears_nothing: bool = False) -> None:
        self.hears_nothing = hears_nothing

    def fluency(self, voice):
        if self.hears_nothing:
            return -np.inf
        spectrum = np.abs(np.fft.rfft(voice[: len(voice) // 800 * 800].reshape(-1, 800) * np.hanning(800), 8192, axis=1))
        slope = np.polyfit(np.arange(len(spectrum)) * 0.05, spectrum.argmax(1) * RATE / 8192, 1)[0]
        return -0.7 + 0.3 * float(np.exp(-(((slope - 400) / 60) ** 2)))


def rising(slope: float) -> np.ndarray:
    t = np.arange(2 * RATE) / RATE
    return (0.3 * np.sin(2 * np.pi * (300 * t + slope * t**2 / 2))).astype(np.float32)


def said(pcm, recogniser=None):
    return ask(Case(hear(pcm, RATE), given=recogniser or Rising()))


def test_forwards_backwards_and_neither():
    forwards, backwards, flat = said(rising(400)), said(rising(400)[::-1].copy()), said(rising(0))
    assert forwards.measures["advantage"] > 0.25 and "speed" not in forwards.measures
    assert backwards.measures["advantage"] < -0.25 and "it is reversed" in backwards.says
    assert abs(flat.measures["advantage"]) < 0.02 and "no more easily" in flat.says and "speed" not in flat.measures


def test_a_wrong_sample_rate_is_found_and_is_a_defect():
    # A chirp that is played 1.4 times too fast rises 1.96 times as fast.
    fast = said(rising(400 * 1.96))
    assert fast.measures["speed"] == 0.7 and fast.measures["advantage"] > 0.25 > 0.02 > abs(fast.measures["as_played"])
    found = decide([replace(fast, garbled=0.05)])
    assert any("0.7 times its speed" in line for line in found.defects)
    assert decide([replace(said(rising(400)), garbled=0.05)]).defects == ()


def test_a_recogniser_that_finds_no_words_at_all():
    found = said(rising(400), Rising(hears_nothing=True))
    assert found.measures["advantage"] == 0 and np.isfinite(found.measures["fluency"])
