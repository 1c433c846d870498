"""Codec consistency, calibrated on the spot, on a codec made for it."""

import numpy as np
import pytest

from clearline.lab.judge.case import Case
from clearline.lab.judge.codes import ask, misfit, returned
from clearline.lab.judge.hearing import hear

RATE, SIZE, CARD = 24_000, 1920, 500


class Toy:
    """Two codebooks; those of a frame belong together where the second is 7 times the first modulo 500. A frame is noise made of
    its two codes, and encodes back to them `reliability` of the time if they belong together."""

    sample_rate, frame_size = RATE, SIZE

    def __init__(self, reliability: float = 0.5) -> None:
        self.reliability = reliability
        self.patterns = 0.2 * np.random.default_rng(5).standard_normal((2, CARD, SIZE))

    def decode(self, codes):
        return (self.patterns[0][codes[0]] + self.patterns[1][codes[1]]).reshape(-1)

    def encode(self, pcm, codebooks):
        frames = np.pad(pcm, (0, -len(pcm) % SIZE)).reshape(-1, SIZE)
        first, second = ((frames @ patterns.T).argmax(1) for patterns in self.patterns)
        lucky = np.random.default_rng(len(frames)).random(len(frames)) < self.reliability
        found = np.where((second == first * 7 % CARD) & lucky, first, (first + second + 1) % CARD)
        return np.stack([found, found * 7 % CARD])


def belonging(frames: int = 60) -> np.ndarray:
    first = np.random.default_rng(1).permutation(CARD)[:frames]
    return np.stack([first, first * 7 % CARD])


def heard(codec, codes, delay: int = 0):
    pcm = codec.decode(codes).astype(np.float32)
    return hear(np.pad(pcm, (delay, 0)) if delay >= 0 else pcm[-delay:], RATE)


def test_codes_that_belong_together_come_back_as_often_as_the_codecs_own():
    codec = Toy()
    found = returned(heard(codec, belonging()), belonging(), codec)
    assert 0.3 < found.back < 0.7 and 0.3 < found.healthy < 0.7 and found.chance < 0.02
    assert found.share > 0.6 and found.evidence > 5 and found.same_sound > 0.99 and found.delay == 0


@pytest.mark.parametrize("delay", [700, -900])
def test_a_recording_that_begins_earlier_or_later(delay):
    codec = Toy()
    found = returned(heard(codec, belonging(), delay), belonging(), codec)
    assert found.delay == delay and found.back > 0.3


def test_misaligned_codes_do_not_come_back_and_the_codecs_own_do():
    codec = Toy()
    codes = belonging()
    codes[1] = np.roll(codes[1], 1)
    found = returned(heard(codec, codes), codes, codec)
    assert found.back < 0.05 and found.healthy > 0.3 and abs(found.share) < 0.1 and found.same_sound > 0.99
    assert "0% of the semantic codes come back" in ask(Case(heard(codec, codes), codes=codes, codec=codec)).says


class Narrow(Toy):
    """Gives only sound back that it made of codes that belong together: nothing else has codes of its own."""

    def encode(self, pcm, codebooks):
        frames = np.pad(pcm, (0, -len(pcm) % SIZE)).reshape(-1, SIZE)
        first, second = ((frames @ patterns.T).argmax(1) for patterns in self.patterns)
        return np.stack([np.where(second == first * 7 % CARD, first, (first + 1) % CARD), second])


@pytest.mark.parametrize("trained", [True, False])
def test_of_a_sound_that_no_codec_gives_back_clear_speech_tells_whether_the_codec_is_to_blame(monkeypatch, trained):
    codec, codes = Narrow(), belonging()
    speech = codec.decode(codes).astype(np.float32) if trained else np.random.default_rng(0).standard_normal(60 * SIZE) * 0.1
    monkeypatch.setattr("clearline.lab.consistency.reference_speech", lambda rate: speech)
    codes = np.stack([codes[0], (codes[1] + 250) % CARD])  # no frame's own codes belong together
    found = ask(Case(heard(codec, codes), codes=codes, codec=codec))
    assert found.asked is trained
    assert ("of clear speech" in found.says) if trained else ("random weights?" in found.says)
    assert not trained or (misfit(found) is not None and found.measures["healthy"] < 0.06)


def test_codes_that_do_not_come_back_are_a_defect():
    codec = Toy()
    codes = belonging()
    wrong = np.stack([codes[0], np.roll(codes[1], 1)])
    assert misfit(ask(Case(heard(codec, wrong), codes=wrong, codec=codec))) is not None
    assert misfit(ask(Case(heard(codec, codes), codes=codes, codec=codec))) is None
    # Another sound is not what these codes decode to: that they do not come back says nothing of it.
    assert misfit(ask(Case(heard(codec, codes[:, ::-1]), codes=codes, codec=codec))) is None


def test_another_sound_than_that_of_the_codes_is_named():
    codec = Toy()
    other = np.roll(belonging(), 20, 1)
    said = ask(Case(heard(codec, other[:, ::-1]), codes=belonging(), codec=codec)).says
    assert "the sound is not what the codes decode to" in said


def test_who_cannot_be_asked_says_why():
    codec = Toy()
    for case, why in (
        (Case(heard(codec, belonging())), "no codes were given"),
        (Case(heard(codec, belonging()), codes=belonging()), "no codes were given"),
        (Case(heard(codec, belonging(7)), codes=belonging(7), codec=codec), "only 4 frames"),
        (Case(heard(Toy(0.0), belonging()), codes=belonging(), codec=Toy(0.0)), "random weights?"),
    ):
        found = ask(case)
        assert not found.asked and why in found.says
