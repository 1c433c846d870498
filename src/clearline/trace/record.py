"""Recording a session's boundaries into one safetensors file, with the facts of the run as its metadata.

Boundaries, one row per step: codes_in [T, n_user], row [T, 1+n_q], text_token [T], audio_tokens [T, dep_q],
codes_out [T, dep_q] (-2 where no frame was complete yet); with logits also hidden, text_logits and audio_logits.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from clearline.errors import ClearlineError

TRACE_VERSION = "1"
UNGENERATED = -2


class Recorder:
    """Collects rows; `tokens` costs next to nothing, `logits` stores the whole distributions too."""

    def __init__(self, logits: bool = False) -> None:
        self._logits = logits
        self._columns: dict[str, list[np.ndarray]] = {}

    def add(self, values: Mapping[str, np.ndarray | int | None]) -> None:
        """One step: boundary name to value; None is left out, except in codes_out where it is a row of -2."""
        for name, value in values.items():
            if value is None or (not self._logits and name in ("hidden", "text_logits", "audio_logits")):
                continue
            self._columns.setdefault(name, []).append(np.asarray(value))

    def to_bytes(self, facts: Mapping[str, Any]) -> bytes:
        """The file's content; `facts` (hashes, seed, versions) go into its metadata as JSON."""
        columns = {name: np.stack(rows) for name, rows in self._columns.items()}
        metadata = {"format": "clearline-trace", "version": TRACE_VERSION, "facts": json.dumps(facts, sort_keys=True)}
        return save(columns, metadata)


def read_trace(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Columns and facts of a trace. Raises ClearlineError when the file is not a trace this version reads."""
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != "clearline-trace" or metadata.get("version") != TRACE_VERSION:
                raise ClearlineError(f"{path} is not a Clearline trace of version {TRACE_VERSION}")
            columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
            facts: dict[str, Any] = json.loads(metadata["facts"])
    except (SafetensorError, OSError) as error:
        raise ClearlineError(f"{path} is not a readable trace: {error}") from error
    return columns, facts
