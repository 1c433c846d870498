"""What is brought before the witnesses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clearline.generate import Codec
from clearline.generate.text import Word
from clearline.lab.judge.hearing import Heard
from clearline.lab.judge.judgement import Testimony
from clearline.lab.judge.recogniser import Recogniser, default_recogniser


@dataclass(frozen=True)
class Case:
    """A sound, and what is known of where it comes from. text: the words it should say, with their times if they are known.
    codes int [K, T] that `codec` made it of. given: a recogniser to use instead of PocketSphinx."""

    heard: Heard
    text: str | Sequence[Word] | None = None
    codes: np.ndarray | None = None
    codec: Codec | None = None
    given: Recogniser | None = None

    @property
    def recogniser(self) -> Recogniser:
        """Raises ClearlineError where none is installed."""
        return default_recogniser() if self.given is None else self.given


Witness = Callable[[Case], Testimony]


def unasked(witness: str, why: str) -> Testimony:
    return Testimony(witness, False, why)
