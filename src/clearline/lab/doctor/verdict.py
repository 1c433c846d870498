"""The diagnosis: one paragraph of what is wrong, the evidence, and what to change; or that all is well."""

from dataclasses import dataclass

from clearline.lab.doctor.evidence import Evidence
from clearline.lab.doctor.finding import Chart, Check, Finding, Kind

# The first thing wrong is told first, in the order in which one depends on the other.
_ORDER: tuple[Kind, ...] = ("broken machine", "wrong configuration", "wrong tokens", "wrong audio path", "too slow", "bad evidence")


@dataclass(frozen=True)
class Diagnosis:
    """well: nothing is wrong. kind: what the gravest finding is about; without one "all is well", or "undecided" where all there
    is to look at is sound or codes that nobody could tell garbled from clear. findings: faults, the gravest first;
    notes; checks: all that was looked at. paragraph: the answer."""

    well: bool
    kind: str
    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    checks: tuple[Check, ...]
    paragraph: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(finding.name for finding in self.findings)


def conclude(chart: Chart, evidence: Evidence) -> Diagnosis:
    """The chart as a diagnosis. A place that is only known to be wrong says nothing new beside a named cause for it."""
    faults = sorted(_told(chart.faults), key=lambda finding: (_vague(finding), _ORDER.index(finding.kind)))
    notes = tuple(finding for finding in chart.findings if not finding.fault)
    kind = faults[0].kind if faults else "undecided" if _open(chart.checks) else "all is well"
    return Diagnosis(
        kind == "all is well", kind, tuple(faults), notes, tuple(chart.checks), _paragraph(faults, notes, chart.checks, evidence)
    )


# Checks that a recording, or codes, of another program can pass: what stays when nothing can be computed again.
_BY_THEMSELVES = {"machine", "model files", "signal", "sound", "codes", "shift sweep", "speaker"}


def _open(checks: list[Check]) -> bool:
    """Whether nothing was computed again, and the sound or the codes could not be told garbled from clear."""
    decided = {check.what for check in checks if check.ok}
    asked = {check.what for check in checks if check.what in ("sound", "codes")}
    return decided <= _BY_THEMSELVES and bool(asked) and not asked & decided


def _vague(finding: Finding) -> bool:
    return finding.name.startswith("unexplained") or finding.name == "garbled"


def _told(faults: list[Finding]) -> list[Finding]:
    """Without what a named fault makes superfluous: that it sounds garbled, that it is unexplained."""
    named = [finding for finding in faults if not _vague(finding)]
    superfluous = {"garbled": len(faults) > 1, "unexplained-tokens": bool(named)}
    return [finding for finding in faults if not superfluous.get(finding.name, False)]


def _paragraph(faults: list[Finding], notes: tuple[Finding, ...], checks: list[Check], evidence: Evidence) -> str:
    bad = {check.what for check in checks if check.ok is False}
    looked = [check.what for check in checks if check.ok and check.what not in bad]
    unknown = [check for check in checks if check.ok is None]
    if not faults:
        if not looked:
            return "Nothing can be said: there was too little to look at. Give a trace (--trace), the recording heard, or both."
        undecided = "Undecided: nothing wrong was found, and nothing shows that it can be understood."
        well = undecided if _open(checks) else "All is well, as far as the evidence goes."
        text = f"{well} In order: {_list(looked)}."
        text += "".join(f" {_sentence(check.evidence)}" for check in checks if check.ok and check.what in ("shift sweep", "sound"))
    else:
        text = f"{_KIND[faults[0].kind]}: {_sentence(faults[0].what, False)} [{faults[0].name}]. Evidence: {faults[0].evidence}. "
        text += f"What to change: {faults[0].remedy}. Confidence {faults[0].confidence:.0%}."
        for other in faults[1:]:
            text += f" Also, {_KIND[other.kind].lower()}: {other.what} [{other.name}] ({other.evidence}); {other.remedy}."
            text += f" Confidence {other.confidence:.0%}."
        if looked:
            text += f" In order: {_list(looked)}."
    if unknown:
        text += " Could not be told: " + "; ".join(f"{check.what} ({check.evidence})" for check in unknown) + "."
    for note in [note for note in notes if not note.name.startswith("tokens:")][:2]:
        text += f" Note: {note.what}."
    return text


_KIND = {
    "broken machine": "BROKEN MACHINE",
    "wrong configuration": "WRONG CONFIGURATION",
    "bad evidence": "BAD EVIDENCE",
    "wrong tokens": "WRONG TOKENS",
    "wrong audio path": "WRONG AUDIO PATH",
    "too slow": "TOO SLOW (the tokens are not to blame)",
}


def _sentence(text: str, capital: bool = True) -> str:
    text = text[:1].upper() + text[1:] if capital else text
    return text if not capital else text.rstrip(".") + "."


def _list(names: list[str]) -> str:
    unique = list(dict.fromkeys(names))
    return ", ".join(unique)
