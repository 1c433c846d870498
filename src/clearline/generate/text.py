"""Text: token ids to what is said, live and with word times."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Tokenizer(Protocol):
    """The part of a SentencePiece processor that is used."""

    def id_to_piece(self, token: int) -> str: ...
    def decode(self, tokens: list[int]) -> str: ...


@dataclass(frozen=True)
class Word:
    """A word and when it is said, in seconds of the reply: from its first token's frame to the end of its last one's."""

    text: str
    start: float
    end: float


def words(tokens: Sequence[int], silent: frozenset[int], tokenizer: Tokenizer, frame_seconds: float) -> list[Word]:
    """Words of a token stream with one token a frame; a piece that starts with the word mark begins a new word."""
    groups: list[list[tuple[int, int]]] = []
    for frame, token in enumerate(tokens):
        if token in silent:
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
        """What this token adds; empty for padding and while a character is incomplete."""
        if token in self._silent:
            return ""
        piece = self._tokenizer.id_to_piece(token)
        if len(piece) == 6 and piece.startswith("<0x"):
            self._bytes += bytes([int(piece[3:5], 16)])
            try:
                text = self._bytes.decode()
            except UnicodeDecodeError as error:
                if error.reason == "unexpected end of data":
                    return ""
                text = self._bytes.decode(errors="replace")
            self._bytes = b""
            return text
        if piece.startswith("<") and piece.endswith(">"):
            return ""  # control pieces: <s>, </s>, <unk>
        return piece.replace("▁", " ")
