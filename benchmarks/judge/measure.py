"""Asks every witness about recordings whose truth is known, and appends what each measured, a line a recording.

    NANO_WORK=/root/nano python benchmarks/judge/measure.py measures.jsonl --seed 1 --minutes 20

Rounds of one recording per condition, until the time is over; runs with different seeds add up. `fit.py` makes the
calibration of them.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from codec_conditions import CODEC_CONDITIONS
from conditions import CONDITIONS
from corpus import Clip, voices

import clearline
from clearline.app import load_codec
from clearline.errors import ClearlineError
from clearline.lab.judge import codes, language, mos, sound, text
from clearline.lab.judge.case import Case
from clearline.lab.judge.defects import FRAME_SECONDS, clipped_share, doubled_count, frame_pattern, gap_count, looped
from clearline.lab.judge.hearing import Heard, hear

# Conditions that a healthy recording is in deserve more recordings: false alarms are the worse mistake.
TWICE = ("clean", "between silences", "light noise", "nano healthy")


def replies(folder: Path, count: int) -> list[Clip]:
    """nano's own replies with their codes, made once for these weights."""
    model = clearline.load("nano", threads=1)
    path = folder / f"nano_replies-{model.checkpoint.hashes()['weights'][:12]}.npz"
    if not path.exists():
        made = {}
        for number, clip in enumerate(voices(count, np.random.default_rng(17))):
            result = model.run(clip.pcm, 24_000, tail=4.5)
            if result.words:
                begin = max(0, int(result.words[0].start / 0.08) - 3)
                made |= {f"codes {number}": result.codes_out[:, begin:], f"text {number}": np.array(result.text)}
        np.savez(path, **made)
    found = np.load(path)
    numbers = [name.split()[1] for name in found if name.startswith("codes")]
    splits = ["test" if n % 5 < 2 else "fit" for n in range(len(numbers))]
    return [
        Clip(np.zeros(0, np.float32), str(found[f"text {n}"]), "nano", split, found[f"codes {n}"])
        for n, split in zip(numbers, splits, strict=True)
    ]


def between_silences(pcm: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Half of all sounds, so that silence around a sound says nothing of it."""
    front, back = (rng.uniform(0.3, 2, 2) * rate * (rng.random() < 0.5)).astype(int)
    return np.pad(np.asarray(pcm, np.float32), (front, back))


def measures(case: Case) -> dict[str, dict[str, float]]:
    out = {}
    for witness in (sound, mos, language, text, codes):
        try:
            found = witness.ask(case)
        except ClearlineError as error:
            raise SystemExit(str(error)) from error
        if found.asked:
            out[witness.NAME] = dict(found.measures)
    return out


def defect_values(heard: Heard) -> dict[str, float]:
    """What the rules of `defects` compare with their thresholds."""
    return {
        "clipped": clipped_share(heard.pcm), "pattern": frame_pattern(heard), "gaps": gap_count(heard) / heard.active,
        "doubled": doubled_count(heard, FRAME_SECONDS), "looped": looped(heard.voice)[0], "offset": abs(float(heard.pcm.mean())),
    }  # fmt: skip


def chosen(only: str) -> list[str]:
    every = [*CONDITIONS, *CODEC_CONDITIONS, *TWICE]
    wanted = only.split(",")
    return [name for name in every if not only or name in wanted or ("codec" in wanted and name in CODEC_CONDITIONS)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--only", default="", help="conditions, separated by commas; `codec` stands for all that are done to codes")
    parser.add_argument("--decoys", type=int, default=29)
    arguments = parser.parse_args()
    text.DECOYS = arguments.decoys
    language.SURE = -2.0  # the curve needs the advantage alone, not the search for another speed
    rng = np.random.default_rng(arguments.seed)
    codec = load_codec("nano", threads=1)
    own = replies(arguments.output.parent, 20)
    number, until = 0, time.time() + 60 * arguments.minutes
    with arguments.output.open("a") as file:
        while time.time() < until:
            names = chosen(arguments.only)
            clips = voices(10**9, rng)
            for name in rng.permutation(names):
                started, number = time.process_time(), number + 1
                side = np.random.default_rng([arguments.seed, number])
                if name in CONDITIONS:
                    condition = CONDITIONS[name]
                    for _ in range(int(rng.integers(1, 6))):
                        clip = next(clips)
                    pcm, rate = condition.change(clip.pcm, rng)
                    truth, family = condition.truth, condition.family
                    case = Case(hear(between_silences(pcm, rate, side), rate), clip.text)
                else:
                    truth, family, harm = CODEC_CONDITIONS[name]
                    clip = own[int(rng.integers(len(own)))]
                    harmed = harm(clip.codes, rng)
                    case = Case(hear(between_silences(codec.decode(harmed), 24_000, side), 24_000), clip.text, harmed, codec)
                if case.heard.active < 0.3:
                    continue
                row = {
                    "condition": str(name), "truth": truth, "family": family, "voice": clip.voice, "split": clip.split,
                    "seconds": len(case.heard.voice) / 16_000, "witnesses": measures(case), "defects": defect_values(case.heard),
                }  # fmt: skip
                file.write(json.dumps(row | {"cpu": time.process_time() - started}) + "\n")
                file.flush()
                if time.time() > until:
                    break


if __name__ == "__main__":
    main()
