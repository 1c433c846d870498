"""Runs the published `moshi.client` against a server: its own classes, with a sound card that is made of arrays.

    python moshi_client.py URL FRAMES     (in an environment with Kyutai's `moshi`; prints one JSON object)

`sounddevice` needs PortAudio, which servers have not; the two streams that `moshi.client` opens are replaced by one thread
that calls its callbacks every 80 ms, as PortAudio would. Nothing else is touched.
"""

import json
import sys
import threading
import time
import types
from contextlib import suppress

import numpy as np

FRAMES = int(sys.argv[2])
heard: list[np.ndarray] = []


class InputStream:
    def __init__(self, samplerate, channels, blocksize, callback):
        assert (samplerate, channels, blocksize) == (24_000, 1, 1920)
        self._callback = callback

    def __enter__(self):
        threading.Thread(target=self._run, daemon=True).start()

    def __exit__(self, *error):
        return None

    def _run(self):
        t = np.arange(FRAMES * 1920) / 24_000
        tone = (0.4 * np.sin(2 * np.pi * 440 * t)).astype(np.float32).reshape(FRAMES, 1920, 1)
        for block in tone:
            self._callback(block, 1920, None, None)
            time.sleep(0.08)


class OutputStream(InputStream):
    def _run(self):
        """Until nearly all has been answered, and then long enough to play it; a loaded machine is slow, not wrong."""
        end = time.monotonic() + 60
        while len(printer.text) < FRAMES - 4 and time.monotonic() < end:
            self._play()
        for _ in range(10):
            self._play()
        finished.set()

    def _play(self):
        block = np.zeros((1920, 1), np.float32)
        self._callback(block, 1920, None, None)
        heard.append(block[:, 0])
        time.sleep(0.08)


finished = threading.Event()
sys.modules["sounddevice"] = types.SimpleNamespace(InputStream=InputStream, OutputStream=OutputStream)

import asyncio  # noqa: E402
from argparse import Namespace  # noqa: E402

from moshi import client  # noqa: E402
from moshi.client_utils import RawPrinter  # noqa: E402


class Collector(RawPrinter):
    def __init__(self):
        self.text, self.log_lines, self.lags = "", [], 0

    def print_token(self, token):
        self.text += token

    def log(self, level, msg):
        self.log_lines.append([level, msg])

    def print_lag(self):
        self.lags += 1


async def main(printer):
    running = asyncio.create_task(client.run(printer, Namespace(url=sys.argv[1], host=None, port=None, https=False)))
    while not finished.is_set() and not running.done():
        await asyncio.sleep(0.05)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


printer = Collector()
asyncio.run(main(printer))
sound = np.concatenate(heard)
spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
print(
    json.dumps(
        {
            "text": printer.text,
            "log": printer.log_lines,
            "peak_hz": float(np.fft.rfftfreq(len(sound), 1 / 24_000)[spectrum.argmax()]),
            "loudness": float(np.abs(sound).max()),
        }
    )
)
