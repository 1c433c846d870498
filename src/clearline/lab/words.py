"""The words of a trace: its text tokens through the tokenizer of the model that said them."""

import json
from pathlib import Path
from typing import Any

from clearline.app import model_folder
from clearline.checkpoint import open_checkpoint
from clearline.errors import ClearlineError
from clearline.generate.session import silent_tokens
from clearline.generate.text import Word, words
from clearline.trace import Trace

FRAME_SECONDS = 0.08


def words_of(trace: Trace, model: str | None) -> list[Word] | None:
    """Words with the times of the steps that said them, in seconds.

    `model` names the tokenizer; without it, a trace of nano's weights is read with nano's. None when the trace has no text, or
    nobody says which tokenizer it is.
    """
    if "text_token" not in trace.columns or (model is None and not of_nano(trace)):
        return None
    checkpoint = open_checkpoint(model_folder(model or "nano"))
    cfg = checkpoint.config.lm
    tokens = [int(token) for token in trace.columns["text_token"]]
    known = [token if 0 <= token < cfg.text_card else cfg.text_padding for token in tokens]
    return words(known, silent_tokens(cfg), checkpoint.tokenizer(), FRAME_SECONDS)


def of_nano(trace: Trace) -> bool:
    """Whether the trace's facts say that nano's weights made it."""
    return "weights" in trace.facts and trace.facts["weights"] == open_checkpoint(model_folder("nano")).hashes()["weights"]


def read_words(path: Path) -> list[Word]:
    """Words and times as recognisers write them: {"chunks": [{"text": "yes", "timestamp": [0.5, 0.8]}]}, or that list alone, or
    [["yes", 0.5, 0.8]]. Raises ClearlineError for anything else."""
    try:
        found: Any = json.loads(path.read_text())
        found = found["chunks"] if isinstance(found, dict) else found
        rows = [(row["text"], *row["timestamp"]) if isinstance(row, dict) else tuple(row) for row in found]
        return sorted((Word(str(text).strip(), float(start), float(end)) for text, start, end in rows), key=lambda w: w.start)
    except (OSError, ValueError, KeyError, TypeError) as error:
        shape = '{"chunks": [{"text": "yes", "timestamp": [0.5, 0.8]}]} or [["yes", 0.5, 0.8]]'
        raise ClearlineError(f"{path} does not hold words with times, as {shape}: {_said(error)}") from error


def _said(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
