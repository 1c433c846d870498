"""Quantised language models in Clearline's own folder: made once, and mapped into memory from then on."""

import sys
from collections.abc import Callable
from dataclasses import replace

from clearline.checkpoint.convert import Precision, conversion_key, convert
from clearline.checkpoint.folder import Checkpoint
from clearline.checkpoint.hub import home


def cached(checkpoint: Checkpoint, precision: Precision, on_progress: Callable[[int, int], None] | None = None) -> Checkpoint:
    """The checkpoint with its language model quantised, in a folder below CLEARLINE_HOME; made there if it is not yet.

    `on_progress` is told of bytes written, and of how many. By default a line on standard error says it.
    """
    key = conversion_key(checkpoint, precision, "kyutai")
    folder = home() / "converted" / f"{checkpoint.folder.resolve().name}-{precision}-{key[:12]}"
    told = on_progress or _line(f"rounding {checkpoint.folder.name} to {precision}, once, into {folder}")
    result = convert(checkpoint, folder, precision, on_progress=told, weights_only=True)
    return replace(checkpoint, lm_path=result.weights, config=replace(checkpoint.config, lora=None), _hashes={})


def _line(text: str) -> Callable[[int, int], None]:
    """A line with a percentage where standard error is a terminal, else the text alone."""
    shown = ""

    def told(done: int, total: int) -> None:
        nonlocal shown
        terminal = sys.stderr.isatty()
        line = f"\r{text}: {100 * done // total}%" if terminal else text + "\n"
        if line != shown:
            print(line, end="\n" if terminal and done == total else "", file=sys.stderr, flush=True)
        shown = line

    return told
