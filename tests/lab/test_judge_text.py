"""Forced choice with a recogniser made for it, whose scores are known."""

from math import inf

import numpy as np
import pytest

from clearline.generate.text import Word
from clearline.lab.judge.case import Case
from clearline.lab.judge.hearing import hear
from clearline.lab.judge.text import Piece, ask, forced_choice, pieces_of
from clearline.lab.judge.words import common_words, decoys, number_words, spoken

SOUND = np.random.default_rng(0).standard_normal(32_000).astype(np.float32) * 0.1


class Fake:
    """Scores texts by `score(words)`; a word has as many phones as letters; words with a q are unknown."""

    name = "fake"

    def __init__(self, score) -> None:
        self.score = score

    def fits(self, voice, texts):
        return [self.score(words) for words in texts]

    def phones(self, word):
        return 0 if "q" in word else len(word)

    def fluency(self, voice):
        return 0.0


def test_words_as_they_are_said():
    assert spoken("It's 21, OK? “Don’t!”") == ["it's", "twenty", "one", "ok", "don't"]
    assert spoken("") == spoken("... —") == []
    assert " ".join(number_words(305_012)) == "three hundred five thousand twelve"
    assert spoken("1,000 or 12345678") == ["one", "thousand", "or", *(number_words(n)[0] for n in range(1, 9))]


def test_decoys_are_as_long_and_share_no_word():
    words = ["the", "capital", "of", "france", "is", "paris"]
    made = decoys(words, 60, len, np.random.default_rng(0))
    assert len(made) == 60 and len({tuple(text) for text in made}) == 60
    assert all([len(word) for word in text] == [len(word) for word in words] for text in made)
    assert not {word for text in made for word in text} & set(words)
    # A word longer than any common one gets the longest there are.
    assert len(decoys(["a" * 40], 1, len, np.random.default_rng(0))[0][0]) == max(map(len, common_words()))


def test_p_is_the_rank():
    scores = iter([5.0, *range(10)])  # the claimed text first, then decoys of 0..9: five of them are at least as good
    found = forced_choice([Piece(SOUND, ["yes"])], Fake(lambda words: float(next(scores))), 10)
    assert found.p == pytest.approx(6 / 11) and found.lead == pytest.approx((5 - 9) / 2.0)
    assert forced_choice([Piece(SOUND, ["yes"])], Fake(lambda words: float(words == ["yes"])), 99).p == 0.01
    # What cannot be said in this sound at all is no success, even if no decoy can.
    assert forced_choice([Piece(SOUND, ["yes"])], Fake(lambda words: -inf), 99).p == 1
    only = forced_choice([Piece(SOUND, ["yes"])], Fake(lambda words: 0.0 if words == ["yes"] else -inf), 99)
    assert only.p == 0.01 and only.z == inf


def test_p_is_uniform_when_the_sound_has_nothing_to_do_with_the_text():
    rng = np.random.default_rng(0)
    recogniser = Fake(lambda words: rng.standard_normal())
    ps = np.array([forced_choice([Piece(SOUND, ["yes", "no"])], recogniser, 19).p for _ in range(400)])
    assert abs((ps <= 0.05).mean() - 0.05) < 0.035 and abs((ps <= 0.5).mean() - 0.5) < 0.08


def test_pieces_are_weighed_together():
    # The claimed words are better in one piece and worse in the other, less so.
    def score(words):
        return {("yes",): 3.0, ("no",): -1.0}.get(tuple(words), 0.0)

    found = forced_choice([Piece(SOUND, ["yes"]), Piece(SOUND, ["no"])], Fake(score), 50)
    assert found.p == pytest.approx(1 / 51) and found.words == 2


def test_unknown_words_are_named():
    case = Case(hear(SOUND, 16_000), "yes quark", given=Fake(lambda words: float(words == ["yes"])))
    found = ask(case)
    assert found.asked and "unknown: quark" in found.says and "best of 60" in found.says
    assert not ask(Case(hear(SOUND, 16_000), "quark", given=Fake(lambda words: 0.0))).asked
    assert "no text was given" in ask(Case(hear(SOUND, 16_000))).says


def test_pieces_by_times():
    rate = 16_000
    pcm = np.zeros(20 * rate, np.float32)
    for begin in (2, 12):
        pcm[begin * rate : (begin + 1) * rate] = SOUND[:rate]
    words = [Word("Hello", 1.9, 2.1), Word("there.", 2.3, 2.6), Word("Bye", 11.9, 12.2)]
    first, second = pieces_of(hear(pcm, rate), words)
    assert first.words == ["hello", "there"] and second.words == ["bye"]
    assert all(1.0 <= len(piece.voice) / rate < 1.6 for piece in (first, second))


def test_long_texts_without_times_are_cut_where_it_is_quiet():
    rate = 16_000
    pcm = np.concatenate([SOUND] * 10)  # 20 s
    pcm[int(9.8 * rate) : int(9.9 * rate)] = 0
    text = ["word"] * 40
    pieces = pieces_of(hear(pcm, rate), " ".join(text))
    assert [word for piece in pieces for word in piece.words] == text and 3 <= len(pieces) <= 4
    assert sum(len(piece.voice) for piece in pieces) == len(hear(pcm, rate).voice)
    # A hundred words in two seconds do not fail either.
    assert [word for piece in pieces_of(hear(SOUND, rate), "a " * 100) for word in piece.words] == ["a"] * 100
    assert pieces_of(hear(SOUND, rate), "")[0].words == []
