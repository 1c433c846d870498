"""What the doctor says: findings, each with its evidence, and the diagnosis they add up to."""

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["wrong configuration", "broken machine", "wrong tokens", "wrong audio path", "too slow", "bad evidence", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or (kind "note") worth knowing.

    name: what it is called, the same for the same cause; `unexplained-...` where only the place is known. boundary: where it
    was seen. what, evidence, remedy: sentences without a full stop. confidence in 0..1; `CERTAIN` means that it was measured
    directly, or that the recorded values were reproduced by making this very mistake, and by nothing else that was tried.
    """

    name: str
    kind: Kind
    boundary: str
    what: str
    evidence: str
    remedy: str
    confidence: float

    @property
    def fault(self) -> bool:
        return self.kind != "note"


CERTAIN, LIKELY, POSSIBLE = 0.99, 0.9, 0.7


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: a boundary or a part, whether it is in order (None: could not be told), and why."""

    what: str
    ok: bool | None
    evidence: str


@dataclass
class Chart:
    """Everything one examination wrote down, in the order in which it looked."""

    findings: list[Finding] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def passed(self, what: str, evidence: str) -> None:
        self.checks.append(Check(what, True, evidence))

    def unknown(self, what: str, evidence: str) -> None:
        self.checks.append(Check(what, None, evidence))

    def found(self, finding: Finding) -> None:
        """A finding, and the failed check it is."""
        if finding.fault:
            self.checks.append(Check(finding.boundary, False, f"{finding.name}: {finding.evidence}"))
        if all(other.name != finding.name for other in self.findings):
            self.findings.append(finding)

    @property
    def faults(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.fault]

    def names(self) -> set[str]:
        return {finding.name for finding in self.faults}
