"""Text: token ids to what is said, live and with word times."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

END_OF_TEXT = 2


class Tokenizer(Protocol):
    """The part of a SentencePiece processor that is used."""

    def id_to_piece(self, token: int) -> str: ...
    def is_byte(self, token: int) -> bool: ...
    def is_control(self, token: int) -> bool: ...
    def is_unknown(self, token: int) -> bool: ...
    def decode(self, tokens: list[int]) -> str: ...
    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Word:
    """A word and when it is said, in seconds of the reply: from its first token's frame to the end of its last one's."""

    text: str
    start: float
    end: float

    def earlier(self, seconds: float) -> "Word":
        """The same word so much earlier, though not before the beginning."""
        return Word(self.text, *(max(0.0, round(time - seconds, 3)) for time in (self.start, self.end)))


def words(tokens: Sequence[int], silent: frozenset[int], tokenizer: Tokenizer, frame_seconds: float) -> list[Word]:
    """Words of a token stream with one token a frame; a piece that starts with the word mark begins a new word."""
    groups: list[list[tuple[int, int]]] = []
    for frame, token in enumerate(tokens):
        if token in silent or tokenizer.is_control(token):
            continue
        if not groups or tokenizer.id_to_piece(token).startswith("▁"):
            groups.append([])
        groups[-1].append((frame, token))
    spoken = ((tokenizer.decode([token for _, token in group]).strip(), group) for group in groups)
    return [
        Word(text, round(group[0][0] * frame_seconds, 3), round((group[-1][0] + 1) * frame_seconds, 3))
        for text, group in spoken
        if text
    ]


class LiveText:
    """Turns tokens into text as they come: spaces as words begin, byte pieces held back until they form a character."""

    def __init__(self, silent: frozenset[int], tokenizer: Tokenizer) -> None:
        self._silent = silent
        self._tokenizer = tokenizer
        self._bytes = b""

    def feed(self, token: int) -> str:
        """What this token adds; empty for padding, for control tokens, and while a character is incomplete."""
        if token in self._silent or self._tokenizer.is_control(token) or self._tokenizer.is_unknown(token):
            return ""
        piece = self._tokenizer.id_to_piece(token)
        if self._tokenizer.is_byte(token):  # "<0xE2>"
            self._bytes += bytes([int(piece[3:5], 16)])
            return self._complete_characters()
        return self._flush() + piece.replace("▁", " ")

    def _complete_characters(self) -> str:
        try:
            return self._take(self._bytes.decode())
        except UnicodeDecodeError as error:
            # A character that may still be completed waits; bytes that never can be become U+FFFD.
            if error.reason == "unexpected end of data":
                return ""
            return self._take(self._bytes.decode(errors="replace"))

    def _flush(self) -> str:
        """Bytes that another piece has cut off from the rest of their character."""
        return self._take(self._bytes.decode(errors="replace"))

    def _take(self, text: str) -> str:
        self._bytes = b""
        return text
