"""A conversation without a network, in virtual time: real-time pace, the end of a recording, lag, levels; and echoes."""

import asyncio

import numpy as np
import pytest
from helpers.serving import FRAME, NO_CODES, Halver, hub
from helpers.virtual import run_virtual

from clearline.config import GenerationConfig
from clearline.errors import AudioError, SessionError
from clearline.generate import Frame
from clearline.server.chat import Recorder, RecordingEars, hold, level
from clearline.server.echo import EchoDetector


def run(pcm: np.ndarray, tail: float | None, **keywords):
    """(moments, reply, seconds) of a recording that was played to a hub of Halvers."""
    moments, recorder = [], Recorder()

    async def scenario(loop):
        made = hub(loop=loop, **keywords)
        started = loop.time()
        ears = RecordingEars(pcm, FRAME, 0.08, tail)
        try:
            await hold(made, GenerationConfig(), ears, recorder, moments.append)
        finally:
            made.shut_down()
        return loop.time() - started

    seconds = run_virtual(scenario)
    return moments, recorder.pcm(), seconds


def test_a_recording_is_played_in_real_time():
    pcm = np.linspace(-1, 1, 10 * FRAME - 700, dtype=np.float32)
    moments, reply, seconds = run(pcm, tail=0.4, seconds=0.03)
    assert seconds == pytest.approx(15 * 0.08 + 0.03)
    assert "".join(moment.text for moment in moments) == "abcdefghijklmno" and len(reply) == 15 * FRAME
    np.testing.assert_array_equal(reply[: len(pcm)], pcm / 2)
    assert not reply[len(pcm) :].any()
    assert all(moment.lag == pytest.approx(0.03) and (moment.missed, moment.underruns) == (0, 0) for moment in moments)
    assert moments[0].heard_db == pytest.approx(level(pcm[:FRAME])) and moments[0].said_db == pytest.approx(level(pcm[:FRAME] / 2))
    assert moments[-1].heard_db == moments[-1].said_db == -96


def test_a_machine_that_is_too_slow_shows_its_lag():
    moments, reply, _ = run(np.ones(20 * FRAME, np.float32), tail=0, seconds=0.1)
    assert moments[-1].lag == pytest.approx(0.1 + 19 * 0.02) and moments[-1].missed == 20 and len(reply) == 20 * FRAME


class Talker(Halver):
    """Says something in the first `words` frames."""

    words = 0

    def step(self, pcm):
        super().step(pcm)
        return Frame(pcm / 2, "word" if self.frames <= self.words else "", 5, NO_CODES, NO_CODES, None)


@pytest.mark.parametrize(
    "words, frames",
    [
        (0, 10 + 25),  # it says nothing: two seconds after the recording
        (5, 10 + 25),  # it was quiet before the recording was over
        (50, 50 + 25),  # two seconds after its last word
        (10_000, 10 + 188),  # it does not stop: 15 seconds after the recording
    ],
)
def test_without_a_tail_it_ends_when_the_model_has_been_quiet(words, frames):
    class Says(Talker):
        pass

    Says.words = words
    moments, _, _ = run(np.ones(10 * FRAME, np.float32), tail=None, open_engine=lambda config: Says())
    assert len(moments) == pytest.approx(frames, abs=1)


def test_a_model_that_breaks():
    engines = iter([Halver() for _ in range(3)])
    with pytest.raises(SessionError, match="the engine broke"):
        run(np.ones(9 * FRAME, np.float32), tail=0, open_engine=lambda config: next(engines, None) or Halver(fails_at=4))


def test_a_microphone_that_breaks():
    class Ears:
        frames = 0

        async def frame(self):
            self.frames += 1
            await asyncio.sleep(0.08)
            if self.frames == 4:
                raise AudioError("it was unplugged")
            return np.ones(FRAME, np.float32)

        def replied(self, text): ...

    recorder = Recorder()

    async def scenario(loop):
        made = hub(loop=loop)
        try:
            await hold(made, GenerationConfig(), Ears(), recorder, lambda moment: None)
        finally:
            made.shut_down()

    with pytest.raises(SessionError, match="it was unplugged"):
        run_virtual(scenario)
    assert len(recorder.pcm()) == 3 * FRAME  # what has been said is kept


def speech(seed: int) -> np.ndarray:
    """Three seconds like speech: a pulse train of changing pitch through a resonance, in syllables."""
    rng = np.random.default_rng(seed)
    t = np.arange(3 * 24_000) / 24_000
    pitch = rng.uniform(90, 220) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.3, 0.9) * t + rng.uniform(0, 6)))
    voice = np.sign(np.sin(np.cumsum(pitch) * 2 * np.pi / 24_000)) * (0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 5) * t))
    ringing = np.exp(-np.arange(480) / 60) * np.cos(np.arange(480) * rng.uniform(0.1, 0.5))
    return (0.05 * np.convolve(voice, ringing)[: len(t)] + 0.003 * rng.standard_normal(len(t))).astype(np.float32)


def found(heard: np.ndarray, played: np.ndarray) -> bool:
    detector = EchoDetector(24_000, FRAME)
    for ears, mouth in zip(heard.reshape(-1, FRAME), played.reshape(-1, FRAME), strict=False):
        detector.add(ears, mouth)
    return detector.echo()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("delay", [0, 2400, 12_000])
def test_an_echo_is_found(seed, delay):
    played = speech(seed)[: 36 * FRAME]
    room = np.zeros(4000)
    room[0], room[700], room[2900] = 0.3, 0.1, 0.05
    heard = np.convolve(np.pad(played, (delay, 0)), room)[: len(played)] + speech(seed + 50)[: len(played)] * 0.1
    assert found(heard.astype(np.float32), played)


@pytest.mark.parametrize("seed", range(10))
def test_two_voices_are_no_echo(seed):
    assert not found(speech(seed)[: 36 * FRAME], speech(seed + 100)[: 36 * FRAME])


def test_silence_is_no_echo():
    voice, silence = speech(1)[: 36 * FRAME], np.zeros(36 * FRAME, np.float32)
    assert not found(voice, silence) and not found(silence, voice) and not found(silence, silence)
    assert not found(voice[: 5 * FRAME], voice[: 5 * FRAME])  # too short to tell
