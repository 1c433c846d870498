"""Forced choice: does the sound fit the text that it is claimed to say better than other texts of the same length?

The recogniser only scores texts that it is given; it has nothing to invent. If the sound has nothing to do with the text,
the claimed text is one among equals, and it comes out first of N + 1 with probability 1 / (N + 1). That is the p-value, with
no assumption about the scores: p = (1 + decoys that fit at least as well) / (N + 1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from clearline.generate.text import Word
from clearline.lab.judge.case import Case, unasked
from clearline.lab.judge.hearing import RATE, Heard, hear
from clearline.lab.judge.judgement import Testimony
from clearline.lab.judge.recogniser import Recogniser
from clearline.lab.judge.words import decoys, spoken

NAME = "text"
DECOYS = 59
# Leads without end, where nothing else fits the sound or the claimed words do not, count as this.
_ENDLESS = 15.0
# Sound is scored in pieces of about this many seconds: the time a decoy takes grows with the square of the length.
_PIECE = 6.0
# A word is heard up to this long after its text, and a little before it (seconds).
_BEFORE, _AFTER = 0.5, 1.5


def ask(case: Case) -> Testimony:
    if case.text is None:
        return unasked(NAME, "no text was given to hold the sound against (--text, or a trace with one)")
    found = forced_choice(pieces_of(case.heard, case.text), case.recogniser, DECOYS)
    if found is None:
        return unasked(NAME, "the text has no word that the recogniser knows")
    rank = round(found.p * (found.decoys + 1))
    says = f"the claimed words fit the sound {_place(rank, found.decoys + 1)} texts of the same length (p {found.p:.2g})"
    if found.unknown:
        says += f"; not asked for, because unknown: {' '.join(found.unknown[:5])}"
    lead, z, fit = (float(np.clip(number, -_ENDLESS, _ENDLESS)) for number in (found.lead, found.z, found.fit))
    return Testimony(
        NAME, True, says, {"p": found.p, "z": z, "lead": lead, "fit": fit, "words": found.words, "decoys": found.decoys}
    )


def _place(rank: int, count: int) -> str:
    return f"best of {count}" if rank == 1 else f"worse than {rank - 1} of {count}"


@dataclass(frozen=True)
class Choice:
    """p: as above. z: the claimed text's lead over the decoys' mean in their standard deviations; -inf where the text
    does not even fit into the sound. lead: over the best decoy, log likelihood per second; fit: its own. words: how many
    were asked; unknown: those the recogniser does not know, which were left out. decoys: how many texts it was compared
    with."""

    p: float
    z: float
    lead: float
    fit: float
    words: int
    unknown: tuple[str, ...]
    decoys: int


@dataclass(frozen=True)
class Piece:
    """A stretch of sound float32 [n] at 16 kHz and the words claimed for it."""

    voice: np.ndarray
    words: list[str]


def forced_choice(
    pieces: Sequence[Piece], recogniser: Recogniser, count: int, on_step: Callable[[int, int], None] | None = None
) -> Choice | None:
    """The claimed words against `count` decoys, over all pieces together; None where there is no word to ask for."""
    # The decoys are the same for the same text, so that a verdict can be repeated.
    rng = np.random.default_rng(0)
    claimed, others, seconds = 0.0, np.zeros(count), 0.0
    asked, unknown = 0, []
    for number, piece in enumerate(pieces):
        words = [word for word in piece.words if recogniser.phones(word)]
        unknown += [word for word in piece.words if not recogniser.phones(word)]
        if words and len(piece.voice) >= RATE // 10:
            fits = recogniser.fits(piece.voice, [words, *decoys(words, count, recogniser.phones, rng)])
            claimed, others = claimed + fits[0], others + np.array(fits[1:])
            asked, seconds = asked + len(words), seconds + len(piece.voice) / RATE
        if on_step is not None:
            on_step(number, len(pieces))
    if not asked:
        return None
    p = (1 + int((others >= claimed).sum())) / (count + 1)
    finite = others[np.isfinite(others)]
    if not np.isfinite(claimed):
        return Choice(1.0, -inf, -inf, -inf, asked, tuple(unknown), count)
    z = (claimed - finite.mean()) / (finite.std() + 1e-9) if len(finite) > 1 else inf
    lead = (claimed - finite.max()) / seconds if len(finite) else inf
    return Choice(p, float(z), float(lead), claimed / seconds, asked, tuple(unknown), count)


def pieces_of(heard: Heard, text: str | Sequence[Word]) -> list[Piece]:
    """Sound and claimed words in pieces: by the words' times where they have any, else by the share of their letters.

    The cuts never look at how well anything fits, so that they favour no text.
    """
    if isinstance(text, str):
        return _by_letters(heard.voice, spoken(text))
    groups: list[list[Word]] = []
    for word in text:
        if not groups or word.start - groups[-1][-1].end > 1.0 or word.end - groups[-1][0].start > _PIECE:
            groups.append([])
        groups[-1].append(word)
    pieces = []
    for number, group in enumerate(groups):
        # Up to where the next group's sound may begin, so that no sound is claimed twice.
        until = groups[number + 1][0].start if number + 1 < len(groups) else inf
        start, end = max(0.0, group[0].start - _BEFORE), min(group[-1].end + _AFTER, until + _BEFORE)
        sound = heard.pcm[int(start * heard.rate) : int(end * heard.rate)]
        pieces.append(Piece(hear(sound, heard.rate).voice, spoken(" ".join(word.text for word in group))))
    return pieces


def _by_letters(voice: np.ndarray, words: list[str]) -> list[Piece]:
    count = max(1, round(len(voice) / RATE / _PIECE))
    weights = np.cumsum([len(word) + 1 for word in words]) / max(1, sum(len(word) + 1 for word in words))
    pieces, first, begin = [], 0, 0
    for number in range(count):
        last = int(np.searchsorted(weights, (number + 1) / count - 1e-9)) + 1 if number + 1 < count else len(words)
        share = weights[last - 1] if 0 < last <= len(words) else 1.0
        end = _quietest(voice, int(share * len(voice))) if number + 1 < count else len(voice)
        pieces.append(Piece(voice[begin:end], words[first:last]))
        first, begin = last, end
    return pieces


def _quietest(voice: np.ndarray, near: int, reach: int = RATE) -> int:
    """The middle of the quietest 50 ms within a second of a place."""
    low, size = max(0, near - reach), RATE // 20
    power = np.convolve(voice[low : near + reach].astype(np.float64) ** 2, np.ones(size), "valid")
    return low + int(power.argmin()) + size // 2 if len(power) else near
