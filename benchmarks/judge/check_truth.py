"""Are the conditions what they claim to be? Word error rates of a recogniser that the judge does not use, against the known text.

    python benchmarks/judge/check_truth.py WHISPER_FOLDER --each 2

Intelligible conditions should have few errors and garbled ones about 100%. Errors against a known text are a measurement; a
transcript by itself would be none.
"""

import argparse
from pathlib import Path

import numpy as np
from codec_conditions import CODEC_CONDITIONS
from conditions import CONDITIONS
from corpus import voices
from faster_whisper import WhisperModel
from measure import chosen, replies

from clearline.app import load_codec
from clearline.lab.judge.hearing import hear
from clearline.lab.judge.words import spoken


def errors(wanted: list[str], heard: list[str]) -> int:
    """Edit distance in words."""
    row = list(range(len(heard) + 1))
    for i, a in enumerate(wanted, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=2)
    parser.add_argument("--only", default="", help="conditions, separated by commas; `codec` stands for all that are done to codes")
    parser.add_argument("--cache", type=Path, default=Path())
    arguments = parser.parse_args()
    whisper = WhisperModel(str(arguments.folder), device="cpu", compute_type="float32", cpu_threads=1)
    rng, codec = np.random.default_rng(5), load_codec("nano", threads=1)
    own, clips = replies(arguments.cache, 20), voices(10**9, rng)
    for name in dict.fromkeys(chosen(arguments.only)):
        wrong = words = 0
        for _ in range(arguments.each):
            if name in CONDITIONS:
                clip = next(c for c in clips if not c.voice.startswith("espeak"))
                pcm, rate = CONDITIONS[name].change(clip.pcm, rng)
                truth = CONDITIONS[name].truth
            else:
                clip = own[int(rng.integers(len(own)))]
                truth, _, harm = CODEC_CONDITIONS[name]
                pcm, rate = codec.decode(harm(clip.codes, rng)), 24_000
            voice = hear(np.asarray(pcm, np.float32), rate).voice
            said = " ".join(part.text for part in whisper.transcribe(np.pad(voice, 4000), language="en", beam_size=1)[0])
            wanted = spoken(clip.text)
            wrong, words = wrong + min(len(wanted), errors(wanted, spoken(said))), words + len(wanted)
        print(f"| {truth} | {name} | {wrong / words:.0%} of {words} |", flush=True)


if __name__ == "__main__":
    main()
