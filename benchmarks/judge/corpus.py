"""Recordings whose words are known: synthetic voices as training/synthesise.py leaves them, and nano's own.

The folder $NANO_WORK/audio holds pairs NAME.i16 (16-bit samples at 24 kHz, one recording after the other) and NAME.jsonl (a line
for each: text, voice, engine, start and length in samples). Voices of the files called "heldout" occur in no other file.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WORK = Path(os.environ.get("NANO_WORK", "/root/nano"))
SHORTEST = 1.1  # seconds


@dataclass(frozen=True)
class Clip:
    """pcm float32 [n] at 24 kHz. split: fit or test. codes [8, T]: of sound that was decoded by nano's codec."""

    pcm: np.ndarray
    text: str
    voice: str
    split: str
    codes: np.ndarray | None = None


def voices(count: int, rng: np.random.Generator) -> Iterator[Clip]:
    """Random recordings, three of five for fitting, the engines equally often."""
    files = {
        "fit": [*(f"kokoro-train-{n}" for n in range(3)), *(f"{e}-train-0" for e in ("flite", "hibari", "espeak", "festival"))],
        "test": ["kokoro-heldout-0", "kokoro-heldout-0", "flite-heldout-0", "festival-heldout-0", "espeak-heldout-0"],
    }
    rows = {name: _rows(name) for names in files.values() for name in names}
    for n in range(count):
        split = "test" if n % 5 < 2 else "fit"
        name = str(rng.choice(files[split]))
        row = rows[name][int(rng.integers(len(rows[name])))]
        while row["length"] < SHORTEST * 24_000:
            row = rows[name][int(rng.integers(len(rows[name])))]
        samples = np.fromfile(WORK / f"audio/{name}.i16", np.int16, row["length"], offset=2 * row["start"])
        yield Clip(samples.astype(np.float32) / 32768, row["text"], f"{row['engine']} {row['voice']}", split)


def _rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (WORK / f"audio/{name}.jsonl").read_text().splitlines()]
