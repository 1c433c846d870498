"""Sound that was captured on its way to a client, before the judge."""

import numpy as np

from clearline.lab.judge import Judgement, judge

RATE = 24_000
# Those that know nothing but the sound and its text, and are installed with the tests.
WITNESSES = ("text", "language", "sound")


def judged(sound: np.ndarray, text: str) -> Judgement:
    """What the judge says of captured int16 samples that should say this text. A missing recogniser fails the test."""
    found = judge(sound, RATE, text=text.strip(), witnesses=WITNESSES)
    assert found.verdict == "silent" or found.testimony("text").asked, found.testimony("text").says
    return found
