"""The judge: hears a sound, asks every witness, and decides."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from clearline.errors import AudioError, ClearlineError
from clearline.generate import Codec
from clearline.generate.text import Word
from clearline.lab.judge import calibration, language, mos, sound
from clearline.lab.judge import codes as codec_witness
from clearline.lab.judge import text as text_witness
from clearline.lab.judge.case import Case, Witness, unasked
from clearline.lab.judge.defects import defects
from clearline.lab.judge.hearing import Heard, hear
from clearline.lab.judge.judgement import Judgement, Testimony
from clearline.lab.judge.recogniser import Recogniser
from clearline.lab.judge.verdict import decide

WITNESSES: dict[str, Witness] = {
    codec_witness.NAME: codec_witness.ask,
    text_witness.NAME: text_witness.ask,
    language.NAME: language.ask,
    mos.NAME: mos.ask,
    sound.NAME: sound.ask,
}
# Nothing above this level (dB of full scale), or less than this much of it (seconds), is silence; and this much is needed.
SILENT_DB, SILENT_SECONDS, ENOUGH_SECONDS = -55.0, 0.1, 0.3


def judge(
    pcm: np.ndarray,
    sample_rate: int,
    *,
    text: str | Sequence[Word] | None = None,
    codes: np.ndarray | None = None,
    codec: Codec | None = None,
    recogniser: Recogniser | None = None,
    witnesses: Sequence[str] = tuple(WITNESSES),
    on_step: Callable[[int, int, str], None] | None = None,
) -> Judgement:
    """Is this intelligible speech, and is it what was to be said?

    pcm: samples [n] or [n, channels], floats in -1..1 or signed integers, at any rate in Hz; none at all is silence.
    text: the words it should say (the inner monologue), with their times in seconds of pcm where those are known.
    codes int [K, T] and codec: what it was decoded from, and by what. recogniser: another one than PocketSphinx.
    witnesses: those to ask. What is missing is not asked, and the judgement says so. on_step(number, total, witness) when
    one has been asked. Raises AudioError for arrays that are no sound, ClearlineError for a witness that does not exist.
    """
    for name in witnesses:
        if name not in WITNESSES:
            raise ClearlineError(f"there is no witness {name!r}; there are {', '.join(WITNESSES)}")
    heard = hear(pcm, sample_rate)
    too_little = _too_little(heard)
    if too_little is not None:
        return too_little
    case = Case(heard, text, codes, codec, recogniser)
    testimonies = []
    for number, (name, ask) in enumerate(WITNESSES.items()):
        testimonies.append(_testimony(name, ask, case) if name in witnesses else unasked(name, "it was left out on request"))
        if on_step is not None:
            on_step(number, len(WITNESSES), name)
    return decide(testimonies, defects(heard))


def _testimony(name: str, ask: Witness, case: Case) -> Testimony:
    """A witness's testimony with its probability; one that cannot be asked says why."""
    try:
        found = ask(case)
    except AudioError:
        raise
    except ClearlineError as error:
        return unasked(name, str(error))
    if not found.asked:
        return found
    return replace(found, garbled=calibration.probability(calibration.curve("garbled", name).odds(found.measures)))


def _too_little(heard: Heard) -> Judgement | None:
    nobody = tuple(unasked(name, "there is too little sound to ask about") for name in WITNESSES)
    why = None
    if not len(heard.pcm):
        why = "there are no samples at all"
    elif heard.loudest < SILENT_DB:
        why = f"nothing is louder than {heard.loudest:.0f} dB of full scale"
    elif heard.active < SILENT_SECONDS:
        why = f"only {heard.active:.2f} s of it are more than silence"
    if why is not None:
        return Judgement("silent", 1.0, None, f"Silent: {why}.", nobody)
    if heard.active < ENOUGH_SECONDS:
        return Judgement("undecided", 0.5, None, f"Undecided: {heard.active:.2f} s of sound are too short to judge.", nobody)
    return None
