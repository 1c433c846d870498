"""What a trace knows of the sound that came of it: the claimed words with their times, and the codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clearline.app import model_folder
from clearline.checkpoint import Checkpoint, open_checkpoint
from clearline.checkpoint.safetensors import file_hash
from clearline.generate.session import silent_tokens
from clearline.generate.text import Word, words
from clearline.trace import Trace

FRAME_SECONDS = 0.08


@dataclass(frozen=True)
class Evidence:
    """words: with times in seconds of the sound; None without a text. codes int [K, T]; None without. notes: what is missing,
    and why."""

    words: Sequence[Word] | None
    codes: np.ndarray | None
    notes: tuple[str, ...] = ()


def evidence(trace: Trace, model: str | Path) -> Evidence:
    """Of a trace whose sound begins with its first complete codes, as `clearline run` writes it.

    The words need the model's tokenizer. A trace of another codec than the model's says nothing here, and is left out.
    """
    codes = trace.frames("codes_out").T if "codes_out" in trace.columns else np.zeros((0, 0), np.int64)
    folder = model_folder(model)
    checkpoint = None if folder.is_file() else open_checkpoint(folder)
    theirs = trace.facts.get("codec_weights")
    # A codec that lies in the language model's file has no hash of its own.
    if theirs is not None and not (checkpoint is not None and checkpoint.codec_inside):
        ours = file_hash(folder if checkpoint is None else checkpoint.mimi_path)
        if theirs != ours:
            note = f"the trace was made with another codec than that of {model}: name its model with --model"
            return Evidence(None, None, (note,))
    notes = []
    said = None
    if "text_token" in trace.columns and checkpoint is None:
        notes.append(f"the text of the trace cannot be read: {folder.name} is a codec and has no tokenizer")
    elif "text_token" in trace.columns and checkpoint is not None:
        said = _words(trace, checkpoint)
    return Evidence(said, codes if codes.size else None, tuple(notes))


def _words(trace: Trace, checkpoint: Checkpoint) -> list[Word]:
    # The sound begins where the codes do; before that, the delays have nothing complete.
    begin = _first(trace.columns["codes_out"]) if "codes_out" in trace.columns else 0
    tokens = [int(token) for token in trace.columns["text_token"][begin:] if token >= 0]
    return words(tokens, silent_tokens(checkpoint.config.lm), checkpoint.tokenizer(), FRAME_SECONDS)


def _first(codes: np.ndarray) -> int:
    complete = (codes >= 0).all(1)
    return int(complete.argmax()) if complete.any() else 0
