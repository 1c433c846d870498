"""The silence after a recording, without a model: what is fed is a rule about the text tokens so far."""

import numpy as np
import pytest
from helpers.checkpoints import DATA

from clearline.checkpoint import open_checkpoint
from clearline.errors import ConfigError
from clearline.generate import Frame
from clearline.generate.feed import feed

CONFIG = open_checkpoint(DATA / "moshi_d1").config
SIZE, RATE = 1920, 24_000


def fed(tokens, frames: int = 40, tail: float | None = None) -> int:
    """How many frames follow the recording when the model's text token of frame i is tokens(i)."""
    done: list[Frame] = []
    codes = np.zeros(8, np.int64)
    for samples, _ in feed(np.ones(frames * SIZE, np.float32), RATE, SIZE, tail, CONFIG, done):
        assert samples is not None and (samples == (1 if len(done) < frames else 0)).all()
        done.append(Frame(None, "", tokens(len(done)), codes, None, None))
    return len(done) - frames


def test_two_seconds_follow_even_when_the_recording_ended_in_silence():
    assert fed(lambda i: 3) == 25


def test_silence_lasts_until_two_seconds_after_the_last_word():
    assert fed(lambda i: 30 if i == 50 else 3) == 51 - 40 + 25


def test_it_never_lasts_longer_than_fifteen_seconds():
    assert fed(lambda i: 30) == 187


def test_a_given_tail_is_kept():
    assert fed(lambda i: 3, tail=1.0) == 13  # 12.5 frames, filled up


@pytest.mark.parametrize("tail", [-1.0, 3601.0, float("nan")])
def test_an_impossible_tail_is_refused(tail):
    with pytest.raises(ConfigError, match="tail"):
        fed(lambda i: 3, tail=tail)
