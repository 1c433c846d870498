"""The examination: everything that the evidence allows to look at, in the order in which a frame passes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from clearline.app import Model
from clearline.audio import Recording
from clearline.backends import get_backend
from clearline.errors import ClearlineError
from clearline.generate.session import silent_tokens
from clearline.generate.text import words
from clearline.lab.consistency import SILENCE_DB, loudness, untrained
from clearline.lab.doctor.alignment import look_at_alignment
from clearline.lab.doctor.blind import look_at_codes, look_at_signal
from clearline.lab.doctor.configuration import look_at_files, look_at_setup
from clearline.lab.doctor.decoding import decodable, look_at_decoder
from clearline.lab.doctor.drawing import look_at_sampling
from clearline.lab.doctor.encoding import look_at_encoder
from clearline.lab.doctor.evidence import Evidence
from clearline.lab.doctor.finding import LIKELY, Chart, Finding
from clearline.lab.doctor.listening import look_at_input
from clearline.lab.doctor.machine import look_at_machine
from clearline.lab.doctor.records import look_at_records, look_at_transcript
from clearline.lab.doctor.shifts import sweep_codes
from clearline.lab.doctor.speaking import look_at_output
from clearline.lab.doctor.thinking import look_at_model
from clearline.lab.doctor.timing import look_at_times
from clearline.lab.doctor.verdict import Diagnosis, conclude
from clearline.lab.judge import Judgement, judge_recording
from clearline.lab.tokens import token_report

OnStep = Callable[[str], None]
# Frames kept around sound: more than the sweep moves, and time for the codec to find its feet.
_MARGIN = 5
# The judge's confidence from which on his word alone makes a finding.
HEARD = 0.8


def examine(evidence: Evidence, on_step: OnStep = lambda _: None, *, machine: bool = True, listen: bool = True) -> Diagnosis:
    """Look at everything given. machine: test the backend's operations too; listen: ask the judge about the sound."""
    chart = Chart()

    def look(name: str, what: Callable[[], object]) -> None:
        on_step(name)
        try:
            what()
        except ClearlineError as error:
            chart.unknown(name, str(error))

    if machine:
        backend = evidence.backend or (get_backend("onnx") if evidence.model is None else evidence.model.backend)
        look("machine", lambda: look_at_machine(backend, chart))
    look("model files", lambda: look_at_files(evidence, chart))
    look("configuration", lambda: look_at_setup(evidence, chart))
    look("records", lambda: look_at_records(evidence, chart))
    look("time", lambda: look_at_times(evidence.step_ms, chart, evidence.cpu_ms))
    model = evidence.model
    if model is not None:
        look("input", lambda: look_at_input(evidence, chart, model.mimi.sample_rate))
        look("encoder", lambda: look_at_encoder(evidence, chart))
        look("alignment", lambda: look_at_alignment(evidence, chart))
        computed: list[Model | None] = []
        look("language model", lambda: computed.append(look_at_model(evidence, chart)))
        look("sampling", lambda: look_at_sampling(evidence, chart, computed[0] if computed else None))
        look("codes", lambda: _codes(evidence, model, chart))
        look("decoder", lambda: look_at_decoder(evidence, chart))
        look("speaker", lambda: look_at_output(evidence, chart))
    alone = evidence.given
    if alone is None and evidence.column("codes_out") is None and evidence.column("pcm_out") is None:
        alone = evidence.output
    if alone is not None:
        look("signal", lambda: look_at_signal(alone, chart))
    look("transcript", lambda: look_at_transcript(evidence, said(evidence), chart))
    if listen:
        look("listening", lambda: _judged(evidence, chart))
    look("tokens", lambda: _tokens(evidence, chart))
    return conclude(chart, evidence)


def said(evidence: Evidence) -> str | None:
    """The model's own text, from its tokens."""
    text, model = evidence.column("text_token"), evidence.model
    if text is None or model is None:
        return None
    found = words(
        [int(token) for token in text if 0 <= token < model.config.text_card], silent_tokens(model.config), model.tokenizer, 0.08
    )
    return " ".join(word.text for word in found)


def _codes(evidence: Evidence, model: Model, chart: Chart) -> None:
    """The sweep; and where the tokens behind the codes are not known, what else the codes may be."""
    out = evidence.column("codes_out")
    if out is None or model.config.dep_q == 1:
        return
    given = out[(out != -2).all(1)]
    if evidence.column("audio_tokens") is None:
        look_at_codes(model.mimi, given.T, chart)
    elif not any(finding.boundary == "codes_out" for finding in chart.faults):
        sweep_codes(model.mimi, _sounding(evidence, model, out).T, chart)


def _sounding(evidence: Evidence, model: Model, codes: np.ndarray) -> np.ndarray:
    """The frames [n, K] around which there is sound, where the sound was recorded: silence says nothing of alignment."""
    good, pcm = decodable(model, codes), evidence.column("pcm_out")
    if pcm is not None and len(pcm) == len(codes):
        loud = loudness(np.nan_to_num(pcm)) > SILENCE_DB
        good &= np.convolve(loud, np.ones(2 * _MARGIN + 1), "same") > 0
    return codes[good]


def _judged(evidence: Evidence, chart: Chart) -> None:
    """What is heard, judged by ear where the judge's witnesses are there."""
    if evidence.given is not None:
        _heard(chart, judge_recording(evidence.given.samples, evidence.given.rate), "the recording itself: ")
    sound = _sound(evidence)
    if sound is None:
        return
    codes, model = evidence.column("codes_out"), evidence.model
    own = None if codes is None or model is None else codes[decodable(model, codes)].T
    found = judge_recording(
        sound.samples,
        sound.rate,
        text=said(evidence) or None,
        codes=own,
        codec=None if model is None or own is None else model.mimi,
    )
    if found.verdict == "garbled" and own is not None and model is not None and untrained(model.mimi, len(own)):
        chart.unknown("sound", f"the codec does not even give clear speech back: with such weights nobody could. {found.evidence}")
        return
    _heard(chart, found)


def _heard(chart: Chart, found: Judgement, what: str = "") -> None:
    """A judgement as a finding, a passed check, or an unknown one. A garbled stretch counts as much as a garbled whole."""
    bad = [part for part in found.stretches if part.verdict == "garbled" and found.verdict == "degraded"]
    confidence = max((part.confidence for part in bad), default=found.confidence)
    why = what + found.evidence
    if (found.verdict == "garbled" or bad) and confidence >= HEARD:
        where = "".join(f" from {part.start:.0f} to {part.end:.0f} s" for part in bad[:1])
        chart.found(
            Finding(
                "garbled",
                "wrong audio path",
                "sound",
                f"nobody could understand what is heard{where}",
                why,
                "record a trace of the run (--trace, --trace-logits, --trace-pcm), and ask again: it tells where the speech "
                "is lost",
                confidence,
            )
        )
    elif (speed := _speed(found)) is not None:
        chart.found(
            Finding(
                "output-wrong-rate",
                "wrong audio path",
                "sound",
                f"the sound has not the speed of speech: it is speech at {speed} times its speed",
                why,
                "write the rate of the samples into the header: 24000 Hz for Moshi",
                LIKELY,
            )
        )
    elif found.verdict == "degraded":
        chart.found(
            Finding("degraded", "note", "sound", "what is heard can be understood, with defects", why, "listen to it", confidence)
        )
    elif found.verdict == "clear":
        chart.passed("sound", why)
    else:
        chart.unknown("sound", why)


def _speed(found: Judgement) -> float | None:
    """The speed at which it would be speech, where that is not its own."""
    return next((one.measures["speed"] for one in found.testimonies if "speed" in one.measures), None)


def _sound(evidence: Evidence) -> Recording | None:
    if evidence.output is not None:
        return evidence.output
    column, codes, model = evidence.column("pcm_out"), evidence.column("codes_out"), evidence.model
    if model is None:
        return None
    if column is None:
        good = None if codes is None else codes[decodable(model, codes)]
        if good is None or not len(good):
            return None
        column = model.mimi.decode(good.T[: model.mimi.cfg.n_q])
    return Recording(np.nan_to_num(column).reshape(-1, 1).astype(np.float32), model.mimi.sample_rate)


def _tokens(evidence: Evidence, chart: Chart) -> None:
    """What stands out in the tokens by themselves, as notes: none of it proves a fault."""
    if evidence.trace is None or not {"codes_out", "audio_tokens", "text_token"} & evidence.trace.columns.keys():
        return
    card = None if evidence.model is None else evidence.model.config.card
    for line in token_report(evidence.trace, card=card).warnings:
        chart.found(
            Finding(f"tokens: {line[:30]}", "note", "tokens", line, "`clearline tokens`", "look whether it is silence", 0.5)
        )


def as_output(evidence: Evidence) -> Evidence:
    """A recording given beside a trace is the output, unless it is plainly the input."""
    column, model = evidence.column("pcm_in"), evidence.model
    if evidence.output is None or evidence.input is not None or column is None or model is None:
        return evidence
    from clearline.lab.doctor.listening import best_route
    from clearline.lab.doctor.sound import AKIN

    _, found = best_route(evidence.output.samples, evidence.output.rate, model.mimi.sample_rate, column.reshape(-1))
    if abs(found.correlation) >= AKIN:
        return replace(evidence, input=evidence.output, input_hash=evidence.output_hash, output=None, output_hash=None)
    return evidence
