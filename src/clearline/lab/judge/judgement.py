"""What the judge answers: testimonies of independent witnesses, and a verdict with its error rates."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from clearline.lab.stats import wilson

Verdict = Literal["clear", "degraded", "garbled", "silent", "undecided"]


@dataclass(frozen=True)
class Testimony:
    """What one witness says of a sound.

    witness: its name: codec, text, language, mos or sound. says: its evidence in one sentence; where `asked` is False, why it
    could not be asked. measures: its numbers by name. garbled: how likely the calibration makes it, on this witness's word
    alone and as many garbled sounds as intelligible ones, that nobody could understand the sound; None where it has no opinion.
    """

    witness: str
    asked: bool
    says: str
    measures: Mapping[str, float] = field(default_factory=dict)
    garbled: float | None = None


@dataclass(frozen=True)
class Rates:
    """How often these witnesses came to a verdict on held-out recordings, and how often garbled sound was called intelligible
    or the reverse."""

    verdicts: int
    wrong: int

    @property
    def at_most(self) -> float:
        """The share of wrong ones that so many recordings allow for: the upper end of Wilson's 95% interval."""
        return wilson(self.wrong, self.verdicts)[1]


@dataclass(frozen=True)
class Judgement:
    """Whether a sound is speech that can be understood, and is what was to be said.

    verdict: clear; degraded: can be understood, with a defect; garbled: something sounds and nobody could understand it;
    silent: no sound to speak of; undecided. confidence: the probability of the verdict by the calibration (0.5 to 1; of
    "undecided": that of the likelier side), as many garbled sounds as intelligible ones supposed. rates: how often the same
    witnesses were wrong with this verdict; None where that was not measured. evidence: one sentence.
    garbled: the probability that nobody could understand it; None of silence. says_text: whether it says the claimed
    words; None where that was not asked or not decided.
    testimonies: all witnesses, also those that could not be asked. defects: what was found wrong with the sound itself.
    windows, stretches: of a longer recording, the judgements of its parts, and the parts that one verdict holds for.
    notes: remarks that decide nothing, such as what a free-running recogniser wrote.
    """

    verdict: Verdict
    confidence: float
    rates: Rates | None
    evidence: str
    testimonies: tuple[Testimony, ...]
    defects: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    says_text: bool | None = None
    garbled: float | None = None
    windows: tuple["Window", ...] = ()
    stretches: tuple["Stretch", ...] = ()

    @property
    def not_asked(self) -> tuple[str, ...]:
        """The witnesses that could not be asked, each with the reason."""
        return tuple(f"{found.witness}: {found.says}" for found in self.testimonies if not found.asked)

    def testimony(self, witness: str) -> Testimony:
        """That of one witness by name. Raises KeyError for an unknown one."""
        return {found.witness: found for found in self.testimonies}[witness]


@dataclass(frozen=True)
class Window:
    """A part of a recording, in seconds, and what is said of it."""

    start: float
    end: float
    judgement: Judgement

    @property
    def verdict(self) -> Verdict:
        return self.judgement.verdict


@dataclass(frozen=True)
class Stretch:
    """A part of a recording, in seconds, that one verdict holds for; confidence: that of its surest window."""

    start: float
    end: float
    verdict: Verdict
    confidence: float
