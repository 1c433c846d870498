"""`clearline run`: what it writes and prints when all is well."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.checkpoints import DATA, model, speech
from helpers.command import command

import clearline as package
from clearline.trace import read_trace

MODEL = DATA / "moshi_d1"


@pytest.fixture
def hello(tmp_path):
    path = tmp_path / "hello.wav"
    soundfile.write(path, speech(8), 24_000)
    return path


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_writes_the_reply_and_prints_its_text(clearline, hello, tmp_path):
    answer = clearline("run", hello, "-o", tmp_path / "reply.wav", "--model", MODEL, "--seed", 3, "--tail", 0)
    assert answer.code == 0
    expected = package.load(MODEL).run_file(hello, seed=3, tail=0)
    # Printed as it comes: the same words in the same order, whatever white space is between them.
    assert "".join(answer.out.split()) == "".join(expected.text.split())
    assert "reply.wav" in answer.err and "x real time" in answer.err and "seed 3" in answer.err
    with wave.open(str(tmp_path / "reply.wav")) as file:
        assert file.getparams()[:4] == (1, 2, 24_000, 8 * 1920)
        heard = np.frombuffer(file.readframes(8 * 1920), "<i2") / 32768
    assert np.abs(heard - np.clip(expected.pcm, -1, 1)).max() < 1e-4


def test_json_says_everything_a_result_depends_on(clearline, hello, tmp_path):
    output = tmp_path / "reply.wav"
    answer = clearline("run", hello, "-o", output, "-m", MODEL, "--seed", 3, "--preset", "kyutai-mlx-run", "--json", "--tail", 0)
    assert (answer.code, answer.err) == (0, "")
    report = json.loads(answer.out)
    assert report["hashes"] == {
        "input": sha256(hello),
        "output": sha256(output),
        "weights": sha256(MODEL / "model.safetensors"),
        "codec_weights": sha256(MODEL / "mimi.safetensors"),
        "config": report["hashes"]["config"],
    }
    assert len(report["hashes"]["config"]) == 64
    assert (report["seed"], report["preset"], report["backend"]) == (3, "kyutai-mlx-run", "onnx")
    assert report["version"] == package.app.code_version()
    assert report["output_seconds"] == 7 * 0.08 and report["input_seconds"] == 8 * 0.08 and report["sample_rate"] == 24_000
    assert report["clipped_samples"] == 0 and report["text"] == " ".join(word["text"] for word in report["words"])


def test_a_preset_is_reported_by_the_name_it_was_asked_for(clearline, hello, tmp_path):
    for name in ("kyutai-rust-backend", "kyutai-rust-cli"):
        answer = clearline("run", hello, "-o", tmp_path / "a.wav", "-m", MODEL, "--preset", name, "--json", "--tail", 0)
        assert json.loads(answer.out)["preset"] == name
    answer = clearline("run", hello, "-o", tmp_path / "a.wav", "-m", MODEL, "--preset", name, "--top-k", 9, "--json", "--tail", 0)
    assert json.loads(answer.out)["preset"] == "custom"


def test_sampling_options_reach_their_stream(clearline, hello, tmp_path):
    answer = clearline(
        "run", hello, "-o", tmp_path / "a.wav", "-m", MODEL, "--json", "--tail", 0, "--temperature", 0.5, "--top-k", 7,
        "--top-p", 0.9, "--min-p", 0.01, "--text-temperature", 0.6, "--text-top-k", 8, "--text-top-p", 0.8,
        "--text-min-p", 0.02, "--repetition-penalty", 1.1, "--padding-bonus", 0.5,
    )  # fmt: skip
    report = json.loads(answer.out)
    audio, text = report["audio_sampling"], report["text_sampling"]
    assert (audio["temperature"], audio["top_k"], audio["top_p"], audio["min_p"]) == (0.5, 7, 0.9, 0.01)
    assert (text["temperature"], text["top_k"], text["top_p"], text["min_p"]) == (0.6, 8, 0.8, 0.02)
    assert (text["repetition_penalty"], text["padding_bonus"]) == (1.1, 0.5)


@pytest.mark.parametrize("option", [["--threads", 1], ["--threads", 3]])
def test_threads_do_not_change_the_file(clearline, hello, tmp_path, option):
    for name, extra in (("a.wav", []), ("b.wav", option)):
        assert clearline("run", hello, "-o", tmp_path / name, "-m", MODEL, "--tail", 0, *extra).code == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_a_trace_holds_the_tokens_and_the_facts(clearline, hello, tmp_path):
    path = tmp_path / "run.trace"
    arguments = ("run", hello, "-o", tmp_path / "a.wav", "-m", MODEL, "--tail", 0, "--trace", path)
    report = json.loads(clearline(*arguments, "--json").out)
    trace = read_trace(path)
    result = model("moshi_d1").run_file(hello, tail=0)
    np.testing.assert_array_equal(trace.columns["codes_in"].T, result.codes_in)
    np.testing.assert_array_equal(trace.frames("codes_out").T, result.codes_out)
    assert trace.complete and trace.columns["row"].shape == (8, 17) and "text_logits" not in trace.columns
    assert trace.facts["seed"] == report["seed"]
    for name, digest in report["hashes"].items():
        assert trace.facts[name] == digest
    clearline(*arguments)
    again = read_trace(path)
    assert again.facts == trace.facts and again.columns.keys() == trace.columns.keys()
    for name, column in again.columns.items():
        # How long a step took is the machine's, not the model's.
        assert name == "seconds" or column.tobytes() == trace.columns[name].tobytes(), name
    clearline(*arguments, "--trace-logits", "--trace-pcm")
    columns = read_trace(path).columns
    assert columns["text_logits"].shape == (8, 320) and columns["pcm_in"].shape == (8, 1920)
    np.testing.assert_array_equal(columns["pcm_out"].reshape(-1), result.pcm)


def test_a_text_only_model_writes_no_sound(clearline, hello, tmp_path):
    answer = clearline("run", hello, "-o", tmp_path / "a.wav", "-m", DATA / "stt", "--json")
    report = json.loads(answer.out)
    assert answer.code == 0 and report["output_path"] is None and report["hashes"]["output"] is None
    assert not (tmp_path / "a.wav").exists()
    answer = clearline("run", hello, "-o", tmp_path / "a.wav", "-m", DATA / "stt")
    lines = [line.split() for line in answer.out.splitlines()]
    assert [[float(start), float(end), text] for start, end, text in lines] == [
        [word["start"], word["end"], word["text"]] for word in report["words"]
    ]
    assert report["words"] and "text only" in answer.err


@pytest.mark.skipif(sys.platform == "win32", reason="no /dev/null")
def test_to_a_device(clearline, hello):
    assert clearline("run", hello, "-o", "/dev/null", "-m", MODEL, "--tail", 0).code == 0


def test_the_module_runs_as_the_command_does(hello, tmp_path):
    """`python -m clearline`, in a process of its own."""
    answer = command("run", hello, "-m", MODEL, "--tail", 0, "--json", folder=tmp_path)
    assert answer.code == 0 and json.loads(answer.out)["output_path"] == "reply.wav"
    prelude = "import runpy, sys\nsys.argv[0] = 'clearline'\nrunpy.run_module('clearline', run_name='__main__')\n"
    again = command("run", hello, "-m", MODEL, "--tail", 0, "--json", folder=tmp_path, prelude=prelude)
    assert json.loads(again.out)["hashes"] == json.loads(answer.out)["hashes"]


def test_a_terminal_that_cannot_show_a_character(hello, tmp_path):
    """Some seed says something beyond ASCII; on a terminal that knows only ASCII it is replaced, and the run goes on."""
    seed = next(s for s in range(50) if not model("moshi_d1").run_file(hello, seed=s, tail=0).text.isascii())
    arguments = ("run", hello, "-o", tmp_path / "a.wav", "-m", MODEL, "--tail", 0, "--seed", seed)
    answer = command(*arguments, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert answer.code == 0 and "?" in answer.out and "Traceback" not in answer.err


@pytest.mark.skipif(sys.platform == "win32", reason="another kind of Ctrl-C")
def test_an_interrupted_run_leaves_nothing(tmp_path):
    """Ctrl-C in the middle of five minutes of noise."""
    soundfile.write(tmp_path / "long.wav", np.tile(speech(100), 40), 24_000)
    (tmp_path / "work").mkdir()
    arguments = [sys.executable, "-m", "clearline", "run", "../long.wav", "-m", str(MODEL)]
    folder = str(Path(package.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": folder, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        arguments, cwd=tmp_path / "work", env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.read(1)  # it has begun to speak
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.endswith("interrupted\n") and "Traceback" not in err
    assert list((tmp_path / "work").iterdir()) == []


def test_version_and_help(clearline):
    assert clearline("--version").out.startswith("clearline ")
    for arguments in (["--help"], ["run", "--help"], ["codec", "--help"]):
        answer = clearline(*arguments)
        assert answer.code == 0 and "Usage" in answer.out


@pytest.mark.skipif(sys.platform == "win32", reason="no /dev/stdout")
def test_the_reply_may_go_to_standard_output_and_nothing_else_goes_there(hello, tmp_path):
    arguments = ("run", hello, "-m", MODEL, "--tail", "0", "--seed", "3")
    command = [sys.executable, "-m", "clearline", *map(str, arguments)]
    assert subprocess.run([*command, "-o", str(tmp_path / "a.wav")], capture_output=True).returncode == 0
    piped = subprocess.run([*command, "-o", "/dev/stdout"], capture_output=True)
    assert piped.returncode == 0 and piped.stdout == (tmp_path / "a.wav").read_bytes()


def test_a_dash_is_no_file(clearline, hello, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = clearline("run", hello, "-m", MODEL, "-o", "-")
    assert answer.code == 2 and "/dev/stdout" in answer.err and not (tmp_path / "-").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="another kind of pipe")
def test_a_reader_that_goes_away_is_no_finding():
    """`clearline compare A B | head` must not end like a comparison that found a difference."""
    program = [sys.executable, "-m", "clearline", "presets"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 0
