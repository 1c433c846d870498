"""What `clearline run --trace t` costs: CPU time of the same run with and without a recorder, in turn, and of the recorder alone.

    python benchmarks/trace.py [--model nano] [--seconds 8] [--pairs 12]

CPU time of the process, since other programs on the machine lengthen the wall clock of one run and not of the next.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import machine

import clearline
from clearline.trace import CLOCK, LOGITS, PCM, TOKENS, FileRecorder


class Timed(FileRecorder):
    """A file recorder that adds up the CPU time it takes."""

    seconds = 0.0

    def add(self, values):
        begun = time.thread_time()
        super().add(values)
        self.seconds += time.thread_time() - begun

    def __exit__(self, *reason):
        begun = time.thread_time()
        super().__exit__(*reason)  # writes the last rows
        self.seconds += time.thread_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--pairs", type=int, default=12)
    chosen = parser.parse_args()
    print(machine())
    model = clearline.load(chosen.model, threads=1)
    pcm = (0.1 * np.random.default_rng(0).standard_normal(int(24_000 * chosen.seconds))).astype(np.float32)
    frames = len(pcm) // 1920

    def run(recorder=None) -> float:
        begun = time.process_time()
        model.run(pcm, 24_000, tail=0, recorder=recorder, input_hash="none")
        return time.process_time() - begun

    run()
    for name, boundaries in (("tokens", TOKENS | CLOCK), ("tokens, logits, hidden, samples", TOKENS | CLOCK | LOGITS | PCM)):
        plain, traced, own, size = [], [], [], 0
        with tempfile.TemporaryDirectory() as folder:
            for i in range(chosen.pairs):
                with Timed(Path(folder) / f"{i}.trace", boundaries) as recorder:
                    order = [None, recorder] if i % 2 else [recorder, None]
                    times = {found is None: run(found) for found in order}
                # The last rows, written after the run, count for the recorder but not for the run.
                plain.append(times[True])
                traced.append(times[False])
                own.append(recorder.seconds)
                size = (Path(folder) / f"{i}.trace").stat().st_size
        ratio = [t / p - 1 for t, p in zip(traced, plain, strict=True)]
        step = statistics.median(plain) / frames
        print(
            f"{name}: {size / frames:.0f} bytes a frame; a frame {step * 1e3:.2f} ms without, the recorder "
            f"{statistics.median(own) / frames * 1e6:.0f} us of it with = {statistics.median(own) / statistics.median(plain):.2%}; "
            f"whole runs, median of {chosen.pairs} pairs: {statistics.median(ratio):+.2%} "
            f"(quartiles {np.quantile(ratio, 0.25):+.2%} .. {np.quantile(ratio, 0.75):+.2%})"
        )


if __name__ == "__main__":
    main()
