"""What the doctor is given: everything optional but the model, and nothing that names a fault."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clearline.app import Model
from clearline.audio import Recording
from clearline.ops import Backend
from clearline.trace import Trace


@dataclass(frozen=True)
class Evidence:
    """The artefacts of one run, of Clearline or of another program.

    model: the weights, loaded by Clearline: the reference that every boundary is recomputed with; None where they do not
    load. trace: any subset of the boundaries. input: what the user said. output: what was heard. step_ms: time of each
    frame. setup: the configuration that the program under test uses, as `clearline audit` takes it. runs: records of
    runs that are said to be separate (keys run_id, seed, output, seconds, started: any of them). transcript: what somebody, or
    a recogniser, says was heard. backend: what is tested operation by operation (None: the model's own). given: a
    recording that is to be looked at for itself. cpu_ms: like step_ms, of the program's own processor time.
    """

    model: Model | None = None
    folder: str = "nano"
    trace: Trace | None = None
    input: Recording | None = None
    input_hash: str | None = None
    output: Recording | None = None
    output_hash: str | None = None
    step_ms: np.ndarray | None = None
    setup: str | None = None
    runs: Sequence[dict[str, Any]] = field(default_factory=tuple)
    transcript: str | None = None
    backend: Backend | None = None
    given: Recording | None = None
    cpu_ms: np.ndarray | None = None

    def column(self, name: str) -> np.ndarray | None:
        """A boundary of the trace, or None."""
        return None if self.trace is None else self.trace.columns.get(name)

    @property
    def facts(self) -> dict[str, Any]:
        return {} if self.trace is None else dict(self.trace.facts)
