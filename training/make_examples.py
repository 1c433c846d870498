"""Recordings for the examples: held-out voices, 48 kHz, 16 bit, mono.

python make_examples.py FOLDER
"""

import pathlib
import random
import sys

import numpy as np
import soundfile
import soxr
from common import RATE
from synthesise import Kokoro, trim

EXAMPLES = {"hello": ("Hello.", "af_nova"), "capital": ("What is the capital of France?", "bm_lewis")}

if __name__ == "__main__":
    folder, engine = pathlib.Path(sys.argv[1]), Kokoro()
    folder.mkdir(parents=True, exist_ok=True)
    for name, (text, voice) in EXAMPLES.items():
        rng = random.Random(0)
        rng.uniform = lambda a, b: 1.0  # an ordinary pace
        wav, _ = trim(np.asarray(engine(text, voice, rng), np.float32))
        wav = np.concatenate([np.zeros(RATE // 2), wav * (0.5 / np.abs(wav).max()), np.zeros(RATE * 7 // 2)])
        wav = soxr.resample(wav, RATE, 48000)
        soundfile.write(folder / f"{name}.wav", np.round(wav * 32767).astype(np.int16), 48000, subtype="PCM_16")
