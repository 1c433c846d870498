"""Two things that the calibration takes for granted: p is uniform when text and sound have nothing to do with each other, and the
search for another speed finds wrong sample rates and nothing else.

    NANO_WORK=/root/nano python benchmarks/judge/check_null.py --each 24
"""

import argparse

import numpy as np
from conditions import CONDITIONS
from corpus import voices

from clearline.lab.judge import language, text
from clearline.lab.judge.case import Case
from clearline.lab.judge.hearing import hear


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--each", type=int, default=24)
    each = parser.parse_args().each
    rng = np.random.default_rng(11)
    clips = voices(10**9, rng)
    ps = []
    for _ in range(each):
        sound, other = next(clips), next(clips)
        while set(other.text.split()) & set(sound.text.split()):
            other = next(clips)
        ps.append(text.ask(Case(hear(sound.pcm, 24_000), other.text)).measures["p"])
    print("p of clean speech with another recording's text:", " ".join(f"{p:.2f}" for p in sorted(ps)), flush=True)
    for name in ("slow", "fast", "clean", "frames shuffled", "bands scattered", "spectrum inverted", "envelope noise"):
        speeds = []
        for _ in range(each // 3):
            clip = next(c for c in clips if not c.voice.startswith("espeak"))
            pcm, rate = CONDITIONS[name].change(clip.pcm, rng)
            found = language.ask(Case(hear(np.asarray(pcm, np.float32), rate))).measures
            speeds.append(f"{found.get('speed', 1):g} ({found['advantage']:+.2f})")
        print(name, "|", ", ".join(speeds), flush=True)


if __name__ == "__main__":
    main()
