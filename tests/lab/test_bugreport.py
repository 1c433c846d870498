"""A bug report that shows the fault again, claims no more than was measured, and tells nobody where one lives."""

import io
import json
import re
import zipfile

import numpy as np
import pytest
import soundfile
from helpers.checkpoints import DATA, model, speech

from clearline.errors import ClearlineError
from clearline.lab.bugreport import Report, make_report, ruled_out, write_report
from clearline.lab.doctor import Check, Evidence
from clearline.lab.judge import Judgement
from clearline.lab.scrub import scrubbed, scrubbed_facts
from clearline.lab.shorten import cut
from clearline.trace import Trace

MODEL = DATA / "moshi_d1"
SECRET = "hf_abcdefghijklmnopqrstuvwxyz123456"


@pytest.fixture(autouse=True)
def no_ears(monkeypatch):
    monkeypatch.setattr("clearline.lab.judge.judge", lambda *_, **__: Judgement("undecided", 0.5, None, "no ears", ()))


@pytest.fixture
def garbled(clearline, tmp_path):
    soundfile.write(tmp_path / "in.wav", speech(60), 24_000)
    paths = tmp_path / "in.wav", tmp_path / "out.wav", tmp_path / "run.trace"
    answer = clearline(
        "run", paths[0], "-m", MODEL, "-o", paths[1], "--trace", paths[2], "--trace-pcm", "--tail", 0, "--preset", "kyutai-rust-cli"
    )  # fmt: skip
    assert answer.code == 0, answer.err
    return paths


def test_command(clearline, garbled, tmp_path):
    heard, said, trace = garbled
    target = tmp_path / "report.zip"
    answer = clearline("bugreport", MODEL, said, "--trace", trace, "--input", heard, "-o", target, "--json")
    report = json.loads(answer.out)
    assert answer.code == 0 and report["findings"][0] == "acoustic-delay" and report["frames"] < 60
    with zipfile.ZipFile(target) as archive:
        files = {name.removeprefix("bugreport/"): archive.read(name) for name in archive.namelist()}
    assert {
        "report.md",
        "run.trace",
        "input.wav",
        "output.wav",
        "config.json",
        "environment.json",
        "diagnosis.json",
    } <= files.keys()
    text = files["report.md"].decode()
    parts = (
        "Environment",
        "Issue",
        "Evidence",
        "Ruled out",
        "Reproducibility",
        "Hypothesis",
        "What this report does not claim",
        "Attached",
    )
    at = [text.index(f"**{part}**") for part in parts]
    assert at == sorted(at) and text.startswith("# The acoustic delay undone before decoding is 2 frames")
    assert "| the codec's encoder, its codebooks and its state |" in text and "One run was recorded" in text
    # The command in it, run in the unpacked folder, finds the same again.
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    command = re.search(r"^clearline doctor MODEL (.*)$", text, re.MULTILINE)[1]
    words = [tmp_path / word if (tmp_path / word).is_file() else word for word in command.split()]
    again = clearline("doctor", MODEL, *words, "--json")
    assert again.code == 1 and json.loads(again.out)["findings"][0]["name"] == "acoustic-delay"
    rate = soundfile.info(io.BytesIO(files["input.wav"]))
    assert rate.frames == report["frames"] * 1920


def test_nothing_private(monkeypatch):
    """A home folder, a user, a token in the environment, one in the facts, one in the configuration."""
    monkeypatch.setenv("HOME", "/home/planted")
    monkeypatch.setenv("PLANTED_API_TOKEN", "a-very-private-value")
    monkeypatch.setattr("getpass.getuser", lambda: "planted")
    facts = {
        "python": "/home/planted/venv/bin/python", "hf_token": SECRET, "weights": "ab12",
        "command": f"run --auth {SECRET} /home/planted/models/moshi a-very-private-value", "input": "x", "output": "y",
    }  # fmt: skip
    codes = np.random.default_rng(0).integers(0, 32, (40, 8))
    codes[-5:] = 99
    evidence = Evidence(
        model("moshi_d1"), str(MODEL), Trace({"codes_out": codes}, facts), transcript="planted said: Bearer abcdefgh12345678",
        runs=[{"run_id": "1", "output": "x", "path": "/home/planted"}, {"run_id": "2", "output": "x", "password": "hunter22"}],
    )  # fmt: skip
    report = make_report(evidence)
    everything = b"\n".join(report.files.values())
    for private in (b"planted", SECRET.encode(), b"a-very-private-value", b"abcdefgh12345678", b"hunter22", str(MODEL).encode()):
        assert private not in everything, private
    assert b"ab12" in everything and b"codes-out-of-range" in everything


def test_scrubbing():
    assert scrubbed("in /home/ann/models/x and C:\\Users\\bob\\y") == "in ~/models/x and ~\\y"
    assert scrubbed(f"--token={SECRET} next") == "--token=<secret removed> next"
    assert scrubbed("password: tr0ub4dor&3").startswith("password: <secret removed>")
    assert scrubbed("see /srv/models/private/moshi/config.json") == "see .../config.json"
    assert scrubbed("AKIAIOSFODNN7EXAMPLE and ghp_0123456789abcdef0123") == "<secret removed> and <secret removed>"
    # What only looks like it stays.
    for text in (
        "text_token: 3 and 5",
        "audio tokens: [1, 2]",
        "24/48 kHz, 1/2",
        "https://example.org/a/b/c",
        "tokenizer: spm",
        "a ~ b",
    ):
        assert scrubbed(text) == text
    assert scrubbed_facts({"secret": "abc", "deep": [{"hf_token": "x"}], "text_token": "5", "n": 3}) == {
        "secret": "<secret removed>", "deep": [{"hf_token": "<secret removed>"}], "text_token": "5", "n": 3,
    }  # fmt: skip


def test_claims_are_no_stronger_than_the_evidence(garbled):
    from clearline.lab.doctor.files import gather

    _, said, trace = garbled
    text = make_report(gather(str(MODEL), said, trace=str(trace))).files["report.md"].decode()
    assert (
        "nothing is said about other hardware" in text
        and "(99%)" in text
        and "Follows from what was recorded" not in text.split("**Hyp")[0]
    )
    assert "not looked at: logits and hidden states" in text
    for word in ("definitively", "HIGH", "proves", "root cause", "✅"):
        assert word not in text
    healthy = make_report(Evidence(model("moshi_d1"), str(MODEL))).files["report.md"].decode()
    assert healthy.startswith("# No fault found") and "There is no trace of the run" in healthy


def test_cutting():
    trace = Trace({"codes_out": np.zeros((50, 8), int)}, {"input": "a", "output": "b", "seed": 3})
    evidence = Evidence(model("moshi_d1"), trace=trace, input_hash="a", output_hash="b", step_ms=np.ones(50))
    small = cut(evidence, 12)
    assert small.trace.steps == 12 == len(small.step_ms) and small.input_hash is None and small.trace.facts == {"seed": 3}


def test_every_check_has_words():
    assert ruled_out(Check("time", True, "")) == "frames that come too late" and ruled_out(Check("new", True, "")) == "new"


def test_where_it_is_written(tmp_path):
    report = Report({"a.txt": b"1"}, None, None)
    write_report(report, tmp_path / "folder")
    assert (tmp_path / "folder" / "a.txt").read_bytes() == b"1"
    with pytest.raises(ClearlineError, match="there already"):
        write_report(report, tmp_path / "folder")
    write_report(report, tmp_path / "one.zip")
    write_report(report, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_refusals(clearline, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    for arguments, words in (
        ([MODEL, "none.wav"], "does not exist"),
        ([MODEL, "-o", tmp_path / "full"], "there already"),
        ([MODEL, "-o", tmp_path / "none" / "r.zip"], "does not exist"),
    ):
        answer = clearline("bugreport", *arguments)
        assert answer.code == 2 and words in answer.err, answer
