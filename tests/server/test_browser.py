"""A browser talks to `nano`: a recorded question goes in at the microphone, and what comes back is the model's reply, whole
and intelligible."""

import json
from pathlib import Path

import numpy as np
import soundfile
from helpers.browser import both_sides, chromium, needs_chromium, opened, shown_text, sound, start, stop, until
from helpers.serving import FRAME, running
from helpers.wire import RATE, judged

import clearline
from clearline.server.access import Access
from clearline.server.limits import Limits
from clearline.server.run import Options, make_hub

pytestmark = needs_chromium
QUIET_FRAMES = 20  # a pause between two sentences is shorter
HELLO = Path(__file__).parents[2] / "examples" / "hello.wav"


def quiet_frames(page):
    """How many frames came after the last that brought text; the last word is still being said when its text is there."""
    return sum(isinstance(message, bytes) for message in page.line.received) - page.line.messages("text")[-1]["frame"]


def level(samples):
    """dB of full scale of each frame."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64) / 32768
    return 10 * np.log10((frames**2).mean(1) + 1e-12)


def test_the_reply_is_the_models_and_can_be_understood(tmp_path):
    question, rate = soundfile.read(HELLO)
    question = question[: 2 * rate]  # the word, without the silence after it
    microphone = tmp_path / "hello.wav"
    soundfile.write(microphone, np.concatenate([np.zeros(rate), question]), rate, subtype="PCM_16")
    model = clearline.load("nano", threads=1)
    hub = make_hub({"nano": model}, Options("127.0.0.1", Access(), Limits(), workers=1))
    with (
        running(hub) as (address, _),
        chromium(Path(f"{microphone}%noloop")) as browser,
        opened(browser) as page,
    ):
        start(page, address, "pcm", "greedy")
        until(page, lambda: shown_text(page).endswith((".", "?", "!")) and quiet_frames(page) > QUIET_FRAMES)
        spoken = page.line.messages("text")[-1]["frame"]
        files = stop(page, tmp_path)
        shown = shown_text(page)
    left, right = both_sides(files["Sound"])

    # The microphone came through: the question, as loud as it was. (Chromium's fake microphone skips on a busy machine.)
    assert left.tobytes().startswith(sound(page.line.sent))
    word, heard = question[:: rate // RATE], left / 32768
    size = 1 << (len(heard) + len(word)).bit_length()
    match = np.fft.irfft(np.fft.rfft(heard, size) * np.fft.rfft(word, size).conj(), size)[: len(heard)].max()
    energy = (word**2).sum()
    assert 0.5 < match / energy < 1.02

    # What came over the line is in the recording, each frame after the one that it answers.
    got = np.frombuffer(sound(page.line.received), "<i2")[: json.loads(files["Trace"].read_text())["samples_said"]]
    first = page.line.messages("first_sound")[0]["frame"]
    assert np.array_equal(right[(first + 1) * FRAME :][: len(got)], got) and len(got) >= (spoken + 8 - first) * FRAME

    # It is, to the last bit, the reply of a session that hears the same, and so is the text.
    session = model.session("greedy", seed=7)
    replies, text = [], ""
    for frame in left[: first * FRAME + len(got)].reshape(-1, FRAME):
        reply = session.step(frame.astype(np.float32) / 32768)
        text += reply.text
        if reply.pcm is not None:
            replies.append(np.clip(np.rint(reply.pcm * 32768), -32768, 32767).astype(np.int16))
    session.close()
    assert np.array_equal(got, np.concatenate(replies))
    assert shown == text and page.line.text.startswith(shown) and len(shown.split()) >= 3

    # The judge, which knows only the sound and the text that it should say, hears speech that says it.
    verdict = judged(got, shown)
    assert verdict.verdict in ("clear", "degraded") and verdict.says_text is True, verdict.evidence

    # It is speech at a level one hears, after the question and not before, and lasts as long as its words need.
    loud = np.flatnonzero(level(right) > -40)
    onset = np.flatnonzero(level(left) > -30)[0]
    assert loud[0] > onset and level(right)[loud].max() > -30
    assert 0.15 < len(loud) * 0.08 / len(shown.split()) < 1.0  # seconds a word
    assert files["Text"].read_text().rstrip().endswith(f"Model: {shown.strip()}")
