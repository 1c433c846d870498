"""Text of tokens: what is printed as it comes, and the words with their times."""

import pytest
from helpers.checkpoints import DATA
from sentencepiece import SentencePieceProcessor

from clearline.generate.text import LiveText, Word, words

SILENT = frozenset((0, 3, 32000))


class Pieces:
    """A tokenizer with a handful of pieces, behaving as SentencePiece does."""

    pieces = (
        "<unk>",
        "<s>",
        "</s>",
        "<pad>",
        "▁hello",
        "▁wor",
        "ld",
        "!",
        "▁",
        "<0xC3>",
        "<0xA9>",
        "<0xE2>",
        "<0x82>",
        "<0xAC>",
        "<b>",
    )

    def id_to_piece(self, token):
        return self.pieces[token]

    def is_byte(self, token):
        return self.pieces[token].startswith("<0x")

    def is_control(self, token):
        return token in (1, 2, 3)

    def is_unknown(self, token):
        return token == 0

    def decode(self, tokens):
        raw = b""
        for token in tokens:
            piece = self.pieces[token]
            if self.is_control(token):
                continue
            raw += bytes([int(piece[3:5], 16)]) if self.is_byte(token) else piece.replace("▁", " ").encode()
        return raw.decode(errors="replace").removeprefix(" ")


def live(*tokens: int) -> list[str]:
    text = LiveText(SILENT, Pieces())
    return [text.feed(token) for token in tokens]


def test_words_come_with_their_space_and_padding_says_nothing():
    assert live(3, 4, 3, 0, 5, 6, 7, 32000) == ["", " hello", "", "", " wor", "ld", "!", ""]


def test_control_tokens_are_not_text_but_angle_brackets_are():
    assert live(1, 2, 14) == ["", "", "<b>"]


def test_byte_pieces_wait_for_their_character():
    assert live(9, 10) == ["", "é"]
    assert live(11, 12, 13, 4) == ["", "", "€", " hello"]
    assert live(11, 3, 12, 13) == ["", "", "", "€"]  # padding in between does not matter


def test_bytes_that_never_become_a_character_are_marked():
    assert live(12) == ["\ufffd"]  # a continuation byte alone
    assert live(11, 4, 9, 10) == ["", "\ufffd hello", "", "é"]  # cut off by a word


def test_words_begin_at_the_word_mark_and_last_to_the_end_of_their_last_token():
    tokens = [3, 3, 4, 3, 5, 3, 6, 7, 0]
    assert words(tokens, SILENT, Pieces(), 0.08) == [Word("hello", 0.16, 0.24), Word("world!", 0.32, 0.64)]


def test_control_tokens_neither_make_nor_stretch_a_word():
    assert words([1, 3, 4, 3, 3, 2], SILENT, Pieces(), 0.08) == [Word("hello", 0.16, 0.24)]


def test_a_first_piece_without_word_mark_is_a_word_too():
    assert [word.text for word in words([6, 7, 4], SILENT, Pieces(), 0.08)] == ["ld!", "hello"]


def test_a_lone_word_mark_is_no_word():
    assert words([8, 3], SILENT, Pieces(), 0.08) == []


@pytest.mark.parametrize("sentence", ["kebon bast", "naïve café", "日本 ok", "x < y > z"])
def test_a_real_tokenizer_round_trip(sentence):
    """Encoded by SentencePiece, fed token by token: the sentence again, and its words."""
    tokenizer = SentencePieceProcessor(str(DATA / "moshi_d1" / "tokenizer.model"))
    tokens = tokenizer.encode(sentence)
    assert any(tokenizer.is_byte(t) for t in tokens) or sentence.isascii()
    text = LiveText(frozenset((0, 3)), tokenizer)
    assert "".join(text.feed(token) for token in tokens).strip() == sentence
    assert " ".join(word.text for word in words(tokens, frozenset((0, 3)), tokenizer, 0.08)) == sentence
