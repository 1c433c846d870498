"""`clearline doctor` as a user meets it: traces, logs, codes, recordings, folders; right ones and wrong ones."""

import json
import shutil
import sys

import numpy as np
import pytest
import soundfile
from helpers.checkpoints import DATA, copy_checkpoint, model, speech

from clearline.lab import doctor as lab
from clearline.lab.doctor import Evidence, as_output, examine
from clearline.lab.doctor.files import gather
from clearline.lab.judge import Judgement

MODEL = DATA / "moshi_d1"


@pytest.fixture(autouse=True)
def no_ears(monkeypatch):
    """The judge has tests of its own; here he hears nothing unless a test says otherwise."""
    monkeypatch.setattr("clearline.lab.judge.judge", lambda *_, **__: Judgement("undecided", 0.5, None, "no ears", ()))


@pytest.fixture
def run(clearline, tmp_path):
    """run(*options) -> (input, output, trace) of a run of the command line."""
    soundfile.write(tmp_path / "in.wav", speech(30), 24_000)

    def made(*options):
        paths = tmp_path / "in.wav", tmp_path / "out.wav", tmp_path / "run.trace"
        answer = clearline(
            "run",
            paths[0],
            "-m",
            MODEL,
            "-o",
            paths[1],
            "--trace",
            paths[2],
            "--trace-pcm",
            "--trace-logits",
            "--tail",
            0,
            *options,
        )
        assert answer.code == 0, answer.err
        return paths

    # How long a frame takes on the machine that tests is nobody's business.
    (tmp_path / "fast.json").write_text(json.dumps([20.0] * 30))

    return made


def test_a_run_that_is_well(clearline, run):
    heard, said, trace = run()
    answer = clearline("doctor", MODEL, said, "--trace", trace, "--input", heard, "--times", said.with_name("fast.json"), "--json")
    report = json.loads(answer.out)
    assert answer.code == 0 and report["well"] and report["kind"] == "all is well" and report["findings"] == []
    looked = {check["what"] for check in report["checks"] if check["ok"]}
    assert {"input", "output", "pcm_in", "codes_in", "hidden, logits", "sampling", "pcm_out", "speaker"} <= looked
    # Without saying so, the input is recognised as the input.
    assert "pcm_in" in clearline("doctor", MODEL, heard, "--trace", trace).out


def test_the_seeds_program(clearline, run):
    """moshi-core's generator settings, honestly recorded: the delay is named, from the tokens."""
    heard, said, trace = run("--preset", "kyutai-rust-cli")
    answer = clearline("doctor", MODEL, said, "--trace", trace, "--input", heard, "--checks")
    assert answer.code == 1 and "BAD  codes_out: acoustic-delay" in answer.out and "BAD  row: acoustic-delay" in answer.out
    paragraph = answer.out.strip().splitlines()[-1]
    assert paragraph.startswith("WRONG TOKENS: ")
    assert "undone before decoding is 2 frames, but the weights were trained with 1" in paragraph
    assert "one frame (80 ms) late" in paragraph


def test_settings_that_cannot_speak(clearline, run):
    _, _, trace = run("--temperature", 5, "--text-temperature", 5)
    assert "[temperature-high]" in clearline("doctor", MODEL, "--trace", trace).out


def test_a_file_of_another_run(clearline, run, tmp_path):
    _, _, trace = run()
    soundfile.write(tmp_path / "old.wav", speech(30, seed=9), 24_000)
    answer = clearline("doctor", MODEL, tmp_path / "old.wav", "--trace", trace)
    assert answer.code == 1 and "stale-result" in answer.out


def test_codes_that_cannot_be_codes(clearline, tmp_path):
    codes = np.random.default_rng(0).integers(0, 32, (8, 40))
    codes[:, -3:] = 32
    lines = [f"MOSHI_DEBUG: Step {t} audio tokens: {row.tolist()}" for t, row in enumerate(codes.T)]
    (tmp_path / "run.log").write_text("\n".join(lines))
    answer = clearline("doctor", MODEL, "--trace", tmp_path / "run.log")
    assert answer.code == 1 and "[codes-out-of-range]" in answer.out and "3 of 40 frames" in answer.out


def test_a_program_that_is_too_slow(clearline, run, tmp_path):
    _, said, trace = run()
    (tmp_path / "times.json").write_text(json.dumps([130.0] * 30))
    answer = clearline("doctor", MODEL, said, "--trace", trace, "--times", tmp_path / "times.json")
    assert answer.code == 1 and answer.out.startswith("TOO SLOW (the tokens are not to blame)")
    assert "sampling" in answer.out.partition("In order:")[2]


def test_the_program_s_configuration(clearline):
    answer = clearline("doctor", MODEL, "--setup", "@rust:moshi-cli")
    assert answer.code == 1 and answer.out.startswith("WRONG CONFIGURATION") and "[acoustic-delay]" in answer.out


def test_a_model_alone(clearline):
    answer = clearline("doctor", MODEL)
    assert answer.code == 0 and "In order: machine, model files" in answer.out


def test_another_model_s_config(clearline, tmp_path):
    folder = copy_checkpoint("moshi_d1", tmp_path / "broken")
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"num_layers": raw["num_layers"] + 2, "text_card": 50}))
    answer = clearline("doctor", folder)
    assert answer.code == 1 and "[config-of-another-model]" in answer.out and "layers: the weights have" in answer.out
    # A delay is in no shape: only what is heard, or another configuration, could tell.
    (folder / "config.json").write_text(json.dumps(raw))
    shutil.copy(DATA / "moshi_d1" / "config.json", tmp_path / "theirs.json")
    theirs = json.loads((tmp_path / "theirs.json").read_text())
    theirs["delays"] = [0, *[d and d + 1 for d in theirs["delays"][1:]]]
    (tmp_path / "theirs.json").write_text(json.dumps(theirs))
    assert "[acoustic-delay]" in clearline("doctor", folder, "--setup", tmp_path / "theirs.json").out


def test_a_recording_is_run(clearline, tmp_path):
    soundfile.write(tmp_path / "in.wav", speech(12), 24_000)
    evidence = gather(str(MODEL), tmp_path / "in.wav")
    assert evidence.trace is not None and evidence.given is not None and len(evidence.step_ms) == evidence.trace.steps
    found = examine(evidence, machine=False)
    assert {"pcm_in", "row", "pcm_out", "speaker"} <= {check.what for check in found.checks if check.ok}


def test_the_judge_is_heard(monkeypatch, run):
    _, said, trace = run()
    asked = []

    def judge(pcm, rate, *, text=None, codes=None, codec=None):
        asked.append((len(pcm), codes is not None, codec is not None))
        return Judgement("garbled", 0.97, 0.02, "no witness understood it", ())

    module = sys.modules["clearline.lab.doctor.examine"]
    monkeypatch.setattr(module, "judge_recording", judge)
    monkeypatch.setattr(module, "untrained", lambda codec, count: False)
    found = examine(as_output(gather(str(MODEL), said, trace=str(trace), times=said.with_name("fast.json"))), machine=False)
    assert found.names == ("garbled",) and found.findings[0].confidence == 0.97 and "no witness understood it" in found.paragraph
    assert asked and asked[0][1:] == (True, True)
    # What explains it is told instead of it.
    slow = Evidence(
        model("moshi_d1"), str(MODEL), output=gather(str(MODEL), said, trace=str(trace)).output, step_ms=np.full(30, 200.0)
    )
    assert examine(slow, machine=False).names == ("too-slow",)


def test_refusals(clearline, tmp_path, hello):
    (tmp_path / "text.wav").write_text("no sound")
    for arguments, words in (
        (["nowhere"], "is not a model folder"),
        ([MODEL, "none.wav"], "does not exist"),
        ([MODEL, tmp_path / "text.wav"], "cannot be read"),
        ([MODEL, "--trace", "none.trace"], "does not exist"),
        ([MODEL, hello, "--times", tmp_path / "text.wav"], "times of frames"),
        ([MODEL, hello, "--runs", tmp_path / "text.wav"], "cannot be read"),
        (["--setup", "rust:moshi-clj"], "no known name"),
        (["--setup", "@rust:moshi-clj"], "no program 'rust:moshi-clj'"),
    ):
        answer = clearline("doctor", *arguments)
        assert answer.code == 2 and words in answer.err and "Traceback" not in answer.err, answer


def test_public_names():
    assert set(lab.__all__) <= set(dir(lab))
