"""A training phase that takes so many minutes of CPU time, so that a busy machine changes nothing."""

import math
import time

from together import agree, rank

PRINTED, SAVED = 50, 120  # steps, seconds of CPU time


class Loop:
    """`for done in loop:` goes from 0 to 1 by process 0's clock; `note` takes the losses of a step, whose means are printed.

    `save` is called by every process, every two minutes and at the end.
    """

    def __init__(self, name, minutes, save, spent=0.0):
        self.name, self.minutes, self.save = name, minutes, save
        self.start, self.step, self.sums = time.process_time() - spent, 0, {}

    @property
    def spent(self):
        return time.process_time() - self.start

    def __iter__(self):
        saved = time.process_time()
        while (done := agree(self.spent / (60 * self.minutes))) < 1:
            yield done
            self.step += 1
            if self.step % PRINTED == 0:
                self.print()
            if time.process_time() - saved > SAVED:
                saved = time.process_time()
                self.save()
        self.save()

    def note(self, **losses):
        for name, loss in losses.items():
            self.sums.setdefault(name, []).append(float(loss.detach()))

    def print(self):
        means = " ".join(f"{name} {sum(values) / len(values):.3f}" for name, values in self.sums.items())
        if not rank():
            print(f"{self.name} {self.step} {self.spent / 60:.1f}min {means}", flush=True)
        self.sums = {}


def cosine(done, least):
    """Half a cosine from 1 to `least`."""
    return least + (1 - least) * (0.5 + 0.5 * math.cos(math.pi * done))
