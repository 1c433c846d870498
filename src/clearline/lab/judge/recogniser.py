"""What the judge asks of a recogniser: scores, never a transcript. PocketSphinx is one; another needs these methods."""

from collections.abc import Sequence
from functools import cache
from math import inf, log
from typing import Any, Protocol

import numpy as np

from clearline.errors import ClearlineError

FRAMES_PER_SECOND = 100  # scores are given per this many frames: a second


class Recogniser(Protocol):
    """A model of English sound. Scores are log likelihoods, up to a factor and an offset that are the same for one sound;
    voice is float32 [n] at 16 kHz."""

    name: str

    def fits(self, voice: np.ndarray, texts: Sequence[Sequence[str]]) -> list[float]:
        """How well each text (words) fits voice when it has to be just these words; -inf where it cannot be."""

    def phones(self, word: str) -> int:
        """How many phones a word has; 0 for a word that is not known."""

    def fluency(self, voice: np.ndarray) -> float:
        """Per second, how well the best sequence of any known words fits voice, the likelihood of that sequence included."""


class PocketSphinx:
    """CMU Sphinx with the American English model that lies in its wheel. Raises ClearlineError where it is not installed."""

    name = "pocketsphinx"

    def __init__(self) -> None:
        try:
            import pocketsphinx
        except ImportError as error:
            raise ClearlineError("pocketsphinx is not installed: pip install 'clearline[judge]'") from error
        folder = f"{pocketsphinx.get_model_path()}/en-us"
        common = {
            "hmm": f"{folder}/en-us", "dict": f"{folder}/cmudict-en-us.dict", "loglevel": "FATAL",
            "bestpath": False,  # the lattice it searches does not have to end where the text does
            "ds": 2, "topn": 2,  # every other frame: half the time, and as far apart
        }  # fmt: skip
        # Wide beams: a text that does not fit must get its low score, not none.
        self._aligner: Any = pocketsphinx.Decoder(**common, lm=None, beam=1e-300, pbeam=1e-300, wbeam=1e-300)
        quick = {"fwdflat": False, "maxhmmpf": 2000, "maxwpf": 5, "pl_window": 5}
        self._reader: Any = pocketsphinx.Decoder(**common, **quick, lm=f"{folder}/en-us.lm.bin")

    def fits(self, voice: np.ndarray, texts: Sequence[Sequence[str]]) -> list[float]:
        return [self._fit(_bytes(voice), list(words)) for words in texts]

    def _fit(self, sound: bytes, words: list[str]) -> float:
        decoder = self._aligner
        chain = [(n, n + 1, 1.0, word) for n, word in enumerate(words)]
        decoder.add_fsg("text", decoder.create_fsg("text", 0, len(words), chain))
        decoder.activate_search("text")
        return _score(decoder, sound, len(words))

    def phones(self, word: str) -> int:
        found = self._aligner.lookup_word(word)
        return 0 if found is None else len(found.split())

    def fluency(self, voice: np.ndarray) -> float:
        return _score(self._reader, _bytes(voice)) * FRAMES_PER_SECOND / max(1.0, len(voice) / 160)


@cache
def default_recogniser() -> Recogniser:
    """PocketSphinx, loaded once. Raises ClearlineError where it is not installed."""
    return PocketSphinx()


def _score(decoder: Any, sound: bytes, words: int | None = None) -> float:
    """Log likelihood of the best path; -inf where there is none, or it has not as many words as it must."""
    decoder.start_utt()
    decoder.process_raw(sound, full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    complete = found is not None and found.score > 0 and words in (None, len(found.hypstr.split()))
    return log(found.score) if complete else -inf


def _bytes(voice: np.ndarray) -> bytes:
    """16-bit samples at a level that is always the same."""
    loudest = float(np.abs(voice).max(initial=0)) or 1.0
    return (voice * (0.5 / loudest) * 32767).astype(np.int16).tobytes()
