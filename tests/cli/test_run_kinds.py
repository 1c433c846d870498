"""`clearline run` with models that are no Moshi: Hibiki, speech-to-text, PersonaPlex."""

import json

import numpy as np
import pytest
import soundfile
from helpers.checkpoints import DATA, golden, speech
from safetensors.numpy import load_file

import clearline.generate.persona as persona
from clearline.checkpoint import open_checkpoint
from clearline.generate import feed

HIBIKI, PERSONAPLEX = DATA / "formats/hibiki", DATA / "formats/personaplex"


@pytest.fixture
def french(tmp_path):
    path = tmp_path / "french.wav"
    soundfile.write(path, load_file(HIBIKI / "pipeline.safetensors")["pcm"], 24_000, subtype="FLOAT")
    return path


@pytest.mark.parametrize("guidance", [1, 3])
def test_hibiki_runs_until_it_has_said_all(clearline, french, tmp_path, guidance):
    """The reply is as long as that of Kyutai's own command line, and ends with the end of the text."""
    output = tmp_path / "english.wav"
    answer = clearline("run", french, "-m", HIBIKI, "-o", output, "--preset", "greedy", "--guidance", guidance, "--json")
    report = json.loads(answer.out)
    assert answer.code == 0 and report["end_of_text"] and report["guidance"] == guidance and answer.err == ""
    assert soundfile.info(output).frames == load_file(HIBIKI / "pipeline.safetensors")[f"samples_{guidance}"]


def test_a_hibiki_that_never_ends_is_stopped_and_says_so(clearline, french, tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "HIBIKI_EXTRA_SECONDS", -0.5)
    answer = clearline("run", french, "-m", HIBIKI, "-o", tmp_path / "a.wav", "--preset", "greedy")
    assert answer.code == 0 and "had not said the end of its text" in answer.err
    assert "end of its text" not in clearline("run", french, "-m", HIBIKI, "-o", tmp_path / "a.wav", "--tail", 0).err


@pytest.mark.parametrize(("guidance", "message"), [(3, "conditions"), (101, "guidance")])
def test_guidance_where_it_cannot_be(clearline, french, tmp_path, guidance, message):
    answer = clearline("run", french, "-m", DATA / "moshi_d1", "-o", tmp_path / "a.wav", "--guidance", guidance)
    assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err


def test_transcriptions_have_the_times_of_the_recording(clearline, tmp_path):
    """A word is written prefix + delay after it is said; what was written before that counts as said at 0."""
    path = tmp_path / "speech.wav"
    soundfile.write(path, golden("stt")["pcm"], 24_000, subtype="FLOAT")
    answer = clearline("run", path, "-m", DATA / "stt", "-o", tmp_path / "a.wav", "--preset", "greedy")
    config = open_checkpoint(DATA / "stt").config
    lead = config.stt_prefix_seconds + config.stt_delay_seconds
    assert lead == pytest.approx(0.66)
    lines = [line.split() for line in answer.out.splitlines()]
    times = [float(time) for line in lines for time in line[:2]]
    assert answer.code == 0 and len(lines) > 3 and times == sorted(times) and times[0] >= 0
    late = [time for time in times if time > 0]
    assert all(abs((time + lead) / 0.08 - round((time + lead) / 0.08)) < 0.07 for time in late)  # whole frames, to 1/100 s
    assert max(late) <= len(golden("stt")["pcm"]) / 24_000 + 1.1  # silence is fed for a second more


@pytest.fixture
def small_codec(monkeypatch):
    """The released codec's codes, folded into the small one's 32."""
    for name in ("SILENCE", "SINE"):
        monkeypatch.setattr(persona, name, tuple(code % 32 for code in getattr(persona, name)))


@pytest.mark.usefixtures("small_codec")
def test_personaplex_with_a_voice_and_a_role(clearline, tmp_path):
    path, output = tmp_path / "question.wav", tmp_path / "reply.wav"
    soundfile.write(path, speech(8), 24_000)
    common = ("run", path, "-m", PERSONAPLEX, "-o", output, "--tail", 0, "--json", "--text-prompt")
    answers = [
        clearline(*common, "banba", "--voice-prompt", PERSONAPLEX / "voice.wav"),
        clearline(*common, "banba", "--voice-prompt", PERSONAPLEX / "voice.safetensors"),
        clearline(*common, ""),
    ]
    reports = [json.loads(answer.out) for answer in answers]
    assert [report["persona"]["text"] for report in reports] == ["<system> banba <system>"] * 2 + [""]
    assert reports[2]["persona"]["voice"] is None and len(reports[0]["persona"]["voice"]) == 64
    assert reports[0]["preset"] == "nvidia-personaplex" and soundfile.info(output).frames == 8 * 1920
    assert reports[0]["text"] != reports[2]["text"]


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (PERSONAPLEX, ("--voice-prompt", "nowhere.wav"), "does not exist"),
        (PERSONAPLEX, ("--voice-prompt", "voice.pt"), "pickle"),
        (PERSONAPLEX, (), "is its codec the released one"),
        (DATA / "moshi_d1", ("--text-prompt", "a pirate"), "this one is a moshi"),
    ],
)
def test_personas_that_cannot_be(clearline, tmp_path, model, options, message):
    path = tmp_path / "question.wav"
    soundfile.write(path, np.zeros(1920), 24_000)
    answer = clearline("run", path, "-m", model, "-o", tmp_path / "a.wav", *options)
    assert answer.code == 2 and message in answer.err and not (tmp_path / "a.wav").exists()
