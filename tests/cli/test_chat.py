"""`clearline chat`: a recording in real time, and a conversation over a sound card that is made of arrays."""

import io
import os
import signal
import sys
import threading
import time
import types

import numpy as np
import pytest
import soundfile
from helpers.checkpoints import DATA, speech

import clearline as package

MODEL = DATA / "moshi_d1"


@pytest.fixture
def hello(tmp_path):
    path = tmp_path / "hello.wav"
    soundfile.write(path, speech(8, rate=16_000), 16_000)
    return path


def test_a_recording_gets_the_reply_that_run_gives(clearline, hello, tmp_path):
    reply = tmp_path / "reply.wav"
    started = time.monotonic()
    answer = clearline("chat", "--model", MODEL, "--input", hello, "--output", reply, "--seed", 5, "--tail", 0.4)
    assert answer.code == 0, answer.err
    assert time.monotonic() - started >= 13 * 0.08  # in real time
    assert f"wrote {reply} (1.0 s)" in answer.err
    said: list[str] = []
    expected = package.load(MODEL).run_file(hello, seed=5, tail=0.4, on_frame=lambda frame, *_: said.append(frame.text))
    pcm, rate = soundfile.read(reply, dtype="int16")
    assert rate == 24_000 and len(pcm) == 13 * 1920
    late = len(pcm) - len(expected.pcm)  # run leaves out the first frames, in which nothing can be said yet
    assert late % 1920 == 0 and not pcm[:late].any()
    np.testing.assert_allclose(pcm[late:], np.clip(expected.pcm, -1, 1) * 32768, atol=1.5)
    assert answer.out.strip() == "".join(said).strip()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--input", "gone.wav"], "gone.wav does not exist"),
        (["--input", "HELLO", "--output", "HELLO"], "the input itself"),
        (["--input", "HELLO", "--microphone", "1"], "no use for --microphone"),
        (["--input", "HELLO", "--output", "/does/not/exist.wav"], "does not exist"),
        (["--input", "HELLO", "--preset", "nobodys"], "no preset"),
        (["--input", "HELLO", "--seed", "-1"], "seed is -1"),
        (["--input", "HELLO", "--model", DATA / "stt"], "writes text only"),
        (["--input", "HELLO", "--tail", "-1"], "--tail"),
    ],
)
def test_mistakes(clearline, hello, arguments, message):
    arguments = [hello if argument == "HELLO" else argument for argument in arguments]
    answer = clearline("chat", *([] if "--model" in arguments else ["--model", MODEL]), *arguments)
    assert answer.code == 2 and message in answer.err and not (hello.parent / "reply.wav").exists()


class PortAudioError(Exception):
    """What `sounddevice` raises."""


class Card:
    """A sound card: a thread that calls back with noise, and one that takes what is played; unplugged after `blocks`."""

    PortAudioError = PortAudioError
    blocks = 12

    def __init__(self):
        self.played: list[np.ndarray] = []
        card = self

        class Stream:
            def __init__(self, device, callback, samplerate, channels, blocksize, dtype):
                if device == "nobody's":
                    raise ValueError('No input device matching "nobody\'s"')
                assert (samplerate, channels, blocksize, dtype) == (24_000, 1, 1920, "float32")
                self.callback, self.device = callback, device
                self.closed = threading.Event()

            def start(self):
                threading.Thread(target=self.run, daemon=True).start()

            def close(self):
                self.closed.set()

        class Input(Stream):
            def run(self):
                for block in speech(card.blocks).reshape(-1, 1920, 1):
                    if self.closed.is_set():
                        return
                    self.callback(block, 1920, None, None)
                    time.sleep(0.08)
                os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C

        class Output(Stream):
            def run(self):
                while not self.closed.is_set():
                    block = np.ones((1920, 1), np.float32)
                    self.callback(block, 1920, None, None)
                    card.played.append(block[:, 0].copy())
                    time.sleep(0.08)

        self.InputStream, self.OutputStream = Input, Output

    def query_devices(self):
        return "> 0 Card of arrays, 1 in, 1 out"


@pytest.fixture
def card(monkeypatch):
    made = Card()
    module = types.ModuleType("sounddevice")
    for name in ("InputStream", "OutputStream", "PortAudioError", "query_devices"):
        setattr(module, name, getattr(made, name))
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    return made


def test_with_a_microphone(clearline, card, tmp_path):
    reply = tmp_path / "kept.wav"
    answer = clearline("chat", "--model", MODEL, "--output", reply, "--seed", 3)
    assert answer.code == 0, answer.err
    assert "Wear headphones" in answer.err and "stopped" in answer.err
    kept = soundfile.read(reply, dtype="float32")[0]
    assert len(kept) >= 5 * 1920
    played = np.concatenate([block for block in card.played if block.any()])
    assert played.size and np.abs(played).max() > 0
    # What was played is what was kept, apart from full-scale clipping of the file.
    first = next(block for block in card.played if block.any())
    frames = kept[: len(kept) // 1920 * 1920].reshape(-1, 1920)
    assert any(np.allclose(frame, np.clip(first, -1, 1), atol=1e-4) for frame in frames)


def test_nothing_is_kept_unless_asked(clearline, card, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert clearline("chat", "--model", MODEL).code == 0
    assert list(tmp_path.iterdir()) == []


def test_muted_microphone(clearline, card, tmp_path, monkeypatch):
    replies = []
    for keys in ("", "\n"):  # Enter, before anything is heard
        monkeypatch.setattr(sys, "stdin", io.StringIO(keys))
        answer = clearline("chat", "--model", MODEL, "--seed", 3, "--preset", "greedy")
        replies.append(answer.out)
    assert replies[0] != replies[1]


def test_devices(clearline, card):
    assert clearline("chat", "--devices").out == "> 0 Card of arrays, 1 in, 1 out\n"
    answer = clearline("chat", "--model", MODEL, "--microphone", "nobody's")
    assert answer.code == 2 and "cannot open the sound devices at 24000 Hz" in answer.err and "--devices" in answer.err


def test_without_sounddevice(clearline, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    answer = clearline("chat", "--model", MODEL)
    assert answer.code == 2 and "clearline[chat]" in answer.err and "--input" in answer.err
