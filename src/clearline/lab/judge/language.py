"""Is there English in it? No text is needed: the sound is its own control.

Played backwards, speech keeps its voice, its noise and its spectrum, and loses its language. So the recogniser scores the
best sequence of words it can find, forwards and backwards, and only the difference counts: speech is far better forwards,
speech that was reversed far better backwards, and what is no language is the same both ways. The words are not looked at.
"""

import numpy as np
import soxr

from clearline.lab.judge.case import Case
from clearline.lab.judge.hearing import RATE
from clearline.lab.judge.judgement import Testimony
from clearline.lab.judge.recogniser import Recogniser

NAME = "language"
# Below this advantage it is asked whether the sound is reversed, or was played at a wrong speed: 16 called 24 kHz and 24
# called 16 lie near these. Thresholds: docs/judge.md.
SURE, SPEEDS = 0.1, (0.67, 0.75, 1.33, 1.5)
# Enough to judge by; the middle of it (seconds).
_LONGEST = 20.0


def ask(case: Case) -> Testimony:
    voice = _middle(case.heard.voice)
    found = advantage(voice, case.recogniser)
    measures = {"advantage": found}
    if found >= SURE:
        return Testimony(NAME, True, f"words are found in it far more easily than in it backwards (by {found:.2f})", measures)
    if found <= -SURE:
        return Testimony(NAME, True, f"words are found in it far more easily backwards (by {-found:.2f}): it is reversed", measures)
    says = f"words are found in it no more easily than in it backwards (a difference of {found:+.2f})"
    others = {speed: advantage(soxr.resample(voice, RATE * speed, RATE), case.recogniser) for speed in SPEEDS}
    speed = max(others, key=lambda one: others[one])
    if others[speed] >= max(SURE, found + SURE):
        says += f", but played {speed} times as fast it is English (by {others[speed]:.2f}): a wrong sample rate"
        measures |= {"speed": speed, "at_speed": others[speed]}
    return Testimony(NAME, True, says, measures)


def advantage(voice: np.ndarray, recogniser: Recogniser) -> float:
    """By how much voice float32 [n] at 16 kHz fits words better than itself backwards, log likelihood per second, -1..1."""
    forwards, backwards = recogniser.fluency(voice), recogniser.fluency(voice[::-1])
    # No word at all either way: no difference. One way only: as far apart as anything is.
    return float(np.clip(forwards - backwards, -1, 1)) if max(forwards, backwards) > -np.inf else 0.0


def _middle(voice: np.ndarray) -> np.ndarray:
    middle, half = len(voice) // 2, int(_LONGEST / 2 * RATE)
    return voice[max(0, middle - half) : middle + half]
