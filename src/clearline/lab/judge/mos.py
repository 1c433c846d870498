"""What listeners would say of the quality: a learned mean opinion score (DistillMOS, 1 bad .. 5 excellent)."""

import contextlib
import importlib.machinery
import io
import sys
import types
from functools import cache
from typing import Any

import numpy as np

from clearline.errors import ClearlineError
from clearline.lab.judge.case import Case
from clearline.lab.judge.judgement import Testimony

NAME = "mos"
# It looks at windows of 7.68 s; more than these, spread over the sound, say nothing new.
_WINDOWS, _WINDOW = 4, 122_880


def ask(case: Case) -> Testimony:
    score = opinion(case.heard.voice)
    return Testimony(NAME, True, f"a learned mean opinion score of {score:.1f} (1 bad, 5 excellent)", {"mos": score})


def opinion(voice: np.ndarray) -> float:
    """Mean opinion score of voice float32 [n] at 16 kHz. Raises ClearlineError where distillmos is not installed."""
    model, torch = _model()
    padded = np.pad(voice, 4000).astype(np.float32)  # it was trained on recordings that begin and end in silence
    count = min(_WINDOWS, -(-len(padded) // _WINDOW))
    starts = np.linspace(0, max(0, len(padded) - _WINDOW), count).astype(int)
    windows = np.stack([np.pad(padded[s : s + _WINDOW], (0, max(0, _WINDOW - len(padded[s:])))) for s in starts])
    with torch.no_grad():
        return float(model(torch.from_numpy(windows)).mean())


@cache
def _model() -> tuple[Any, Any]:
    try:
        import torch

        with _torchaudio(), contextlib.redirect_stdout(io.StringIO()):  # it prints where its weights lie
            import distillmos

            return distillmos.ConvTransformerSQAModel().eval(), torch
    except ImportError as error:
        raise ClearlineError(f"distillmos cannot be used ({error}): pip install 'clearline[judge]'") from error


@contextlib.contextmanager
def _torchaudio() -> Any:
    """distillmos imports torchaudio for its command line only, and torchaudio may not fit the installed torch."""
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError):
        stand_in = types.ModuleType("torchaudio")
        stand_in.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
        sys.modules["torchaudio"] = stand_in
        yield
        sys.modules.pop("torchaudio", None)
    else:
        yield
