"""`clearline chat`: a recording in real time, and a conversation over a sound card that is made of arrays."""

import asyncio
import io
import itertools
import os
import signal
import sys
import threading
import types

import numpy as np
import pytest
import soundfile
from helpers.checkpoints import DATA, speech
from helpers.serving import until

import clearline as package
from clearline.cli.chat import ECHO_FRAMES, echo_warning, mute_on_enter
from clearline.cli.meters import Meters
from clearline.server.chat import Moment

MODEL = DATA / "moshi_d1"


@pytest.fixture
def hello(tmp_path):
    path = tmp_path / "hello.wav"
    soundfile.write(path, speech(8, rate=16_000), 16_000)
    return path


def test_a_recording_gets_the_reply_that_run_gives(clearline, hello, tmp_path):
    reply = tmp_path / "reply.wav"
    answer = clearline("chat", "--model", MODEL, "--input", hello, "--output", reply, "--seed", 5, "--tail", 0.4)
    assert answer.code == 0, answer.err
    assert f"wrote {reply} (1.0 s)" in answer.err
    said: list[str] = []
    expected = package.load(MODEL).run_file(hello, seed=5, tail=0.4, on_frame=lambda frame, *_: said.append(frame.text))
    pcm, rate = soundfile.read(reply, dtype="int16")
    assert rate == 24_000 and len(pcm) == 13 * 1920
    late = len(pcm) - len(expected.pcm)  # run leaves out the first frames, in which nothing can be said yet
    assert late % 1920 == 0 and not pcm[:late].any()
    np.testing.assert_allclose(pcm[late:], np.clip(expected.pcm, -1, 1) * 32768, atol=1.5)
    assert answer.out.strip() == "".join(said).strip()


def test_the_reply_lies_beside_where_one_is_when_no_name_is_given(clearline, hello, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert clearline("chat", "--model", MODEL, "--input", hello, "--tail", 0).code == 0
    assert soundfile.info("reply.wav").frames == 8 * 1920


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
    """A sound card in threads: its microphone hears `sound` [n, 1920] again and again, its loudspeaker keeps what it plays.

    When `enough(card)` holds, Ctrl-C is pressed. It runs ten times as fast as a real one.
    """

    PortAudioError = PortAudioError
    seconds_per_block = 0.008

    def __init__(self, enough) -> None:
        self.played: list[np.ndarray] = []
        self.sound = speech(12).reshape(-1, 1920)
        self.unplugged = threading.Event()
        card = self

        class Stream:
            def __init__(self, device, callback, samplerate, channels, blocksize, dtype):
                if device == "nobody's":
                    raise ValueError('No input device matching "nobody\'s"')
                assert (samplerate, channels, blocksize, dtype) == (24_000, 1, 1920, "float32")
                self.callback, self.device = callback, device
                self.closed = threading.Event()
                self.thread = threading.Thread(target=self.run, daemon=True)

            def start(self):
                self.thread.start()

            def close(self):
                self.closed.set()
                if self.thread.is_alive():
                    self.thread.join(60)

        class Input(Stream):
            def run(self):
                pressed = False
                for block in itertools.cycle(card.sound):
                    if self.closed.wait(card.seconds_per_block) or card.unplugged.is_set():
                        return
                    self.callback(block[:, None], 1920, None, None)
                    if not pressed and enough(card):
                        pressed = True
                        os.kill(os.getpid(), signal.SIGINT)

        class Output(Stream):
            def run(self):
                while not self.closed.wait(card.seconds_per_block):
                    block = np.ones((1920, 1), np.float32)
                    self.callback(block, 1920, None, None)
                    card.played.append(block[:, 0].copy())

        self.InputStream, self.OutputStream = Input, Output

    def query_devices(self):
        return "> 0 Card of arrays, 1 in, 1 out"

    @property
    def replies(self) -> list[np.ndarray]:
        """What was played besides silence."""
        return [block for block in self.played if block.any()]


@pytest.fixture
def card(monkeypatch):
    """A card that presses Ctrl-C when six frames of a reply were played."""
    made = Card(lambda card: len(card.replies) >= 6)
    plug_in(monkeypatch, made)
    return made


def plug_in(monkeypatch, card: Card) -> None:
    module = types.ModuleType("sounddevice")
    for name in ("InputStream", "OutputStream", "PortAudioError", "query_devices"):
        setattr(module, name, getattr(card, name))
    monkeypatch.setitem(sys.modules, "sounddevice", module)


def test_with_a_microphone(clearline, card, tmp_path):
    reply = tmp_path / "kept.wav"
    answer = clearline("chat", "--model", MODEL, "--output", reply, "--seed", 3)
    assert answer.code == 0, answer.err
    assert "Wear headphones" in answer.err and "stopped" in answer.err and f"wrote {reply}" in answer.err
    kept = soundfile.read(reply, dtype="float32")[0].reshape(-1, 1920)
    # What was played is what was kept, apart from full-scale clipping of the file; what came too late was dropped.
    assert len(card.replies) >= 6
    for block in card.replies:
        assert any(np.allclose(frame, np.clip(block, -1, 1), atol=1e-4) for frame in kept)


def test_nothing_is_kept_unless_asked(clearline, card, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert clearline("chat", "--model", MODEL).code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_microphone_that_is_unplugged(clearline, monkeypatch, tmp_path):
    from clearline.server import devices

    made = Card(lambda card: len(card.replies) >= 2 and card.unplugged.set())
    plug_in(monkeypatch, made)
    monkeypatch.setattr(devices, "_SILENT_SECONDS", 0.3)
    answer = clearline("chat", "--model", MODEL, "--output", tmp_path / "kept.wav")
    assert answer.code == 2 and "the microphone has given nothing for 0.3 seconds" in answer.err
    assert soundfile.info(tmp_path / "kept.wav").frames >= 2 * 1920  # it is not lost


def frames_heard(muted: bool, monkeypatch) -> list[np.ndarray]:
    from clearline.server.devices import Devices

    plug_in(monkeypatch, Card(lambda card: False))

    async def listen() -> list[np.ndarray]:
        with Devices(1920, 24_000, None, None) as sound:
            sound.muted = muted
            return [await sound.frame() for _ in range(5)]

    return asyncio.run(asyncio.wait_for(listen(), 60))


def test_a_muted_microphone_feeds_silence(monkeypatch):
    assert not np.any(frames_heard(True, monkeypatch)) and all(frame.any() for frame in frames_heard(False, monkeypatch))


def test_enter_mutes_and_opens_again(monkeypatch):
    reading, writing = os.pipe()
    sound, meters = types.SimpleNamespace(muted=False), types.SimpleNamespace(muted=False)
    with os.fdopen(reading) as keys, os.fdopen(writing, "w") as hands:
        monkeypatch.setattr(sys, "stdin", keys)
        thread = threading.Thread(target=mute_on_enter, args=(sound, meters))
        thread.start()
        hands.write("\n")
        hands.flush()
        until(lambda: sound.muted and meters.muted)
        hands.write("something\n")
        hands.flush()
        until(lambda: not sound.muted and not meters.muted)
        hands.close()  # the terminal is gone, and so is who listens to it
        thread.join(60)
        assert not thread.is_alive()
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    mute_on_enter(sound, meters)  # nothing to read from: nothing happens


def test_an_echo_is_warned_of_once(capsys):
    sound = types.SimpleNamespace(echo=lambda: True)
    moment = Moment("", -20.0, -20.0, 0.05, 0, 0)
    with Meters() as meters:
        show = echo_warning(sound, meters)
        for _ in range(10 * ECHO_FRAMES):
            show(moment)
    assert capsys.readouterr().err.count("the microphone hears the loudspeaker") == 1


def test_the_devices_find_their_echo(monkeypatch):
    """A microphone that hears the loudspeaker, 160 ms later."""
    from clearline.server.devices import Devices

    plug_in(monkeypatch, Card(lambda card: False))
    sound = Devices(1920, 24_000, None, None)
    played = speech(40).reshape(-1, 1920)
    for number, frame in enumerate(played):
        sound.play(frame)
        block = np.zeros((1920, 1), np.float32)
        sound._on_output(block, 1920, None, None)
        sound._on_input(played[max(0, number - 2)][:, None] * 0.3, 1920, None, None)
    assert sound.echo()


def test_devices(clearline, card):
    assert clearline("chat", "--devices").out == "> 0 Card of arrays, 1 in, 1 out\n"
    answer = clearline("chat", "--model", MODEL, "--microphone", "nobody's")
    assert answer.code == 2 and "cannot open the sound devices at 24000 Hz" in answer.err and "--devices" in answer.err


def test_without_sounddevice(clearline, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    answer = clearline("chat", "--model", MODEL)
    assert answer.code == 2 and "clearline[chat]" in answer.err and "--input" in answer.err
