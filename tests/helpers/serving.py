"""A server in a thread, with an engine whose every answer is known: what it hears, halved, and a letter for each frame."""

import threading
import time
from contextlib import contextmanager

import numpy as np

from clearline.config import GenerationConfig
from clearline.generate import Frame
from clearline.server.access import Access
from clearline.server.hub import Hub
from clearline.server.limits import Limits
from clearline.server.metrics import Metrics
from clearline.server.offer import Offer
from clearline.server.run import Options, Server, bind, configured

FRAME = 1920
NO_CODES = np.zeros(0, np.int64)


class Halver:
    """Answers each frame with itself at half its volume, after `seconds`; raises at frame `fails_at`."""

    open = 0  # engines not yet closed

    def __init__(self, seconds: float = 0.0, fails_at: int | None = None, sleep=time.sleep) -> None:
        self.seconds, self.fails_at, self.sleep, self.frames, self.closed = seconds, fails_at, sleep, 0, False
        Halver.open += 1

    def step(self, pcm: np.ndarray) -> Frame:
        assert not self.closed, "stepped after its state was released"
        if self.seconds:
            self.sleep(self.seconds)
        if self.frames == self.fails_at:
            raise ValueError("the engine broke")
        self.frames += 1
        return Frame(pcm / 2, chr(ord("a") + (self.frames - 1) % 26), 5, NO_CODES, NO_CODES, None)

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        Halver.open -= 1


def hub(seconds: float = 0.0, workers: int = 2, open_engine=None, observer=None, loop=None, models=None, name="halver", **limits):
    """A hub of Halvers; on a VirtualLoop their time, and that of everything else, is the loop's.

    models: the seconds of a step by the names of several models, instead of one called `name`.
    """
    limits.setdefault("load", 1e6)  # whatever this machine is busy with, admission is tested where it is the subject
    sleep, clock = (time.sleep, time.monotonic) if loop is None else (loop.work, loop.time)

    def offer(name: str, seconds: float) -> Offer:
        return Offer(name, open_engine or (lambda config: Halver(seconds, sleep=sleep)), GenerationConfig(), FRAME, 24_000)

    offers = [offer(*model) for model in (models or {name: seconds}).items()]
    return Hub(offers, Limits(**limits), workers, observer, clock)


@contextmanager
def running(hub_=None, access: Access | None = None, tls=None, metrics: Metrics | None = None, **limits):
    """(host:port, hub) of a server that runs until the block ends."""
    metrics = metrics or Metrics()
    hub_ = hub_ or hub(observer=metrics, **limits)
    metrics.watch(hub_)
    with bind("127.0.0.1", 0) as listener:
        options = Options("127.0.0.1", access or Access(), hub_.limits, 2, None, tls)
        server = Server(configured(hub_, metrics, options), hub_)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            until(lambda: server.started)
            yield f"127.0.0.1:{listener.getsockname()[1]}", hub_
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive(), "the server does not stop"
            hub_.shut_down()


def until(condition, seconds: float = 60.0) -> None:
    """Wait for something that has to happen soon; the bound is for a machine that does ten other things."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
