"""The reports of the judge and of the doctor: their verdicts, what they rest on, and the sound itself."""

import numpy as np

from clearline.audio import Recording, to_mono
from clearline.lab.conversation import RATE
from clearline.lab.doctor import Diagnosis, Evidence
from clearline.lab.judge import Judgement
from clearline.lab.report.figures import step_times
from clearline.lab.report.page import Figure, Report, Section, Table, Tone
from clearline.lab.report.parts import MAX_SECONDS, codes_section, facts_section, shown, sound_figure, text_section, times_section

_TONES: dict[str, Tone] = {"clear": "good", "undecided": "unsure", "degraded": "unsure"}
_OVER_TIME = ("part", "verdict", "confidence", "evidence")
_MARKS = {True: "in order", False: "wrong", None: "could not be told"}


def judge_report(source: str, found: Judgement, pcm: np.ndarray, rate: int) -> Report:
    """What the witnesses said of pcm [n] or [n, channels] at `rate` Hz."""
    rows = [
        (one.witness, one.says if one.asked else f"not asked: {one.says}", "" if one.garbled is None else f"{one.garbled:.0%}")
        for one in found.testimonies
    ]
    text = []
    if found.rates is not None and found.verdict != "undecided":
        text.append(f"These witnesses called {found.rates.verdicts} held-out recordings {found.verdict}; "
                    f"{found.rates.wrong} of them were not.")  # fmt: skip
    text += [f"Found in the sound: {defect}." for defect in found.defects]
    over_time = [
        (f"{part.start:.1f} to {part.end:.1f} s", part.verdict, f"{part.judgement.confidence:.0%}", part.judgement.evidence)
        for part in found.windows
    ]
    told = [f"{part.start:.1f} to {part.end:.1f} s: {part.verdict}." for part in found.stretches]
    sections = [
        *([Section("Over time", told, tables=[Table(over_time, _OVER_TIME)])] if over_time else []),
        Section("Witnesses", text, tables=[Table(rows, ("witness", "says", "garbled"))]),
        *([Section("Notes", [f"{note}." for note in found.notes])] if found.notes else []),
        *_sound({source: Recording(pcm if pcm.ndim == 2 else pcm[:, None], rate)}),
    ]
    verdict = f"{found.verdict[0].upper()}{found.verdict[1:]} (confidence {found.confidence:.0%})."
    return Report(f"Judged: {source}", verdict, found.evidence, _TONES.get(found.verdict, "bad"), sections)


def doctor_report(model: str, found: Diagnosis, evidence: Evidence) -> Report:
    """What was looked at, what was found, and the evidence itself: sound, codes, text and step times as far as they were given."""
    findings = [
        f"{finding.name} ({finding.kind}, confidence {finding.confidence:.0%}): {finding.what}. Evidence: {finding.evidence}. "
        f"What to change: {finding.remedy}."
        for finding in (*found.findings, *found.notes)
    ]
    checks = [(check.what, _MARKS[check.ok], check.evidence) for check in found.checks]
    sections: list[Section | None] = []
    if findings:
        sections.append(Section("Findings", findings))
    sections.append(Section("What was looked at", tables=[Table(checks, ("what", "", "evidence"))]))
    recordings = {"input": evidence.input, "output": evidence.output, "recording": evidence.given}
    sections += _sound({name: recording for name, recording in recordings.items() if recording is not None})
    if evidence.step_ms is not None and len(evidence.step_ms):
        times = np.asarray(evidence.step_ms, float)
        caption = (
            f"median {np.median(times):.1f} ms, longest {times.max():.1f} ms; {int((times > 80).sum())} of {len(times)} over 80 ms"
        )
        sections.append(Section("Step times", figures=[Figure(step_times(times / 1e3), caption)]))
    if evidence.trace is not None:
        sides = [shown("trace", evidence.trace, None)]
        timed = times_section(sides) if evidence.step_ms is None else None
        sections += [text_section(sides, None), codes_section(sides, None), timed, facts_section(sides)]
    kind = "All is well." if found.well else f"{found.kind[0].upper()}{found.kind[1:]}."
    tone: Tone = "good" if found.well else "bad" if found.findings else "unsure"
    return Report(f"Doctor: {model}", kind, found.paragraph, tone, [section for section in sections if section is not None])


def _sound(recordings: dict[str, Recording]) -> list[Section]:
    figures = []
    for name, recording in recordings.items():
        if recording.samples.size:
            pcm = to_mono(recording.samples, recording.rate, RATE)[: round(MAX_SECONDS * RATE)]
            figures.append(sound_figure(pcm, name, None))
    return [Section("Sound", figures=figures)] if figures else []
