"""What the programs of this folder share: a job file in, boundaries out."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

TOKENS = ("codes_in", "row", "text_token", "audio_tokens", "codes_out")


class Recording:
    """Rows by boundary; a step without a value becomes -2 (tokens) or NaN."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Any]] = {}

    def add(self, **values: Any) -> None:
        for name, value in values.items():
            self._rows.setdefault(name, []).append(None if value is None else np.array(value))

    def columns(self) -> dict[str, np.ndarray]:
        out = {}
        for name, rows in self._rows.items():
            like = next((row for row in rows if row is not None), None)
            if like is not None:
                dtype = np.int64 if name in TOKENS else np.float32
                absent = np.full(like.shape, -2 if name in TOKENS else np.nan, dtype)
                out[name] = np.stack([absent if row is None else row.astype(dtype) for row in rows])
        return out


def main(run: Callable[[dict[str, Any], np.ndarray], dict[str, np.ndarray]]) -> None:
    """run(job, frames [n, 1920]) -> columns, written where the job says."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    columns = run(job, np.load(job["pcm"]))
    save_file({name: np.ascontiguousarray(column) for name, column in columns.items()}, job["out"])
