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
SURE, SURE_AT_SPEED, SPEEDS = 0.1, 0.15, (0.7, 1.4)
# Enough to judge by; the middle of it (seconds).
_LONGEST = 12.0
# What stands for the score of a sound in which no sequence of words was found; the worst found was -1.1.
_NONE = -1.5


def ask(case: Case) -> Testimony:
    voice = _middle(case.heard.voice)
    words, found = fluency(voice, case.recogniser)
    measures = {"advantage": found, "fluency": words}
    if found >= SURE:
        says = f"words are found in it far more easily than in it backwards (by {found:.2f})"
    elif found <= -SURE:
        says = f"words are found in it far more easily backwards (by {-found:.2f}): it is reversed"
    else:
        says = f"words are found in it no more easily than in it backwards (a difference of {found:+.2f})"
        others = {speed: fluency(soxr.resample(voice, RATE * speed, RATE), case.recogniser) for speed in SPEEDS}
        speed = max(others, key=lambda one: others[one][1])
        if others[speed][1] >= max(SURE_AT_SPEED, found + SURE):
            says += f", but they are at {speed} times its speed (by {others[speed][1]:.2f})"
            # What is said of it is said of it at that speed; that it does not have that speed is a defect.
            measures = {"advantage": others[speed][1], "fluency": others[speed][0], "speed": speed, "as_played": found}
    return Testimony(NAME, True, says, measures)


def fluency(voice: np.ndarray, recogniser: Recogniser) -> tuple[float, float]:
    """How well voice float32 [n] at 16 kHz fits words, log likelihood per second, and by how much better than backwards."""
    forwards, backwards = (max(recogniser.fluency(sound), _NONE) for sound in (voice, voice[::-1]))
    # Where no sequence of words was found in one direction, the two cannot be compared.
    return forwards, forwards - backwards if min(forwards, backwards) > _NONE else 0.0


def _middle(voice: np.ndarray) -> np.ndarray:
    middle, half = len(voice) // 2, int(_LONGEST / 2 * RATE)
    return voice[max(0, middle - half) : middle + half]
