"""`clearline backends` and `clearline compare --backends`."""

import json

import numpy as np
import pytest
import soundfile
from helpers.checkpoints import BACKENDS, DATA, speech

import clearline as package
from clearline.backends import KINDS
from clearline.backends.selftest import Measured, SelfTest
from clearline.trace import LOGITS, TOKENS, MemoryRecorder

MODEL = DATA / "moshi_d1"
FRAMES = 30
needs_torch = pytest.mark.skipif("torch" not in BACKENDS, reason="PyTorch is not installed")


@pytest.fixture
def hello(tmp_path):
    path = tmp_path / "hello.wav"
    soundfile.write(path, speech(FRAMES), 24_000, subtype="FLOAT")
    return path


def test_every_backend_is_listed_with_what_it_needs_or_what_it_does(clearline):
    answer = clearline("backends", "--model", MODEL, "--frames", 2, "--json")
    assert answer.code == 0
    report = json.loads(answer.out)
    assert [one["name"] for one in report["backends"]] == list(KINDS)
    for one in report["backends"]:
        assert one["installed"] == (one["name"] in BACKENDS)
        if one["installed"]:
            assert one["usable"] and one["operations"] > 30 and one["frame_ms"] > 0 and one["devices"]
        else:
            assert one["missing"] == f"pip install 'clearline[{KINDS[one['name']].extra}]'" and one["frame_ms"] is None
    small = report["chosen"][str(MODEL)]
    assert small["name"] == "onnx" and small["why"].endswith("sooner on the CPU than on an accelerator")


def test_the_table_says_it_in_words(clearline):
    answer = clearline("backends", "--model", MODEL, "--frames", 0)
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert any(line.startswith("onnx ") and "operations right" in line for line in lines)
    assert any(line.startswith(f"for {MODEL}: onnx (") for line in lines)
    assert any(line.startswith("for a large model:") for line in lines)
    assert "ms a frame" not in answer.out and answer.out.count("operations right; not timed") == len(BACKENDS)


@pytest.mark.parametrize("arguments", [["--device", "moon"], ["--frames", -1], ["--frames", 20_000]])
def test_what_is_refused(clearline, arguments):
    answer = clearline("backends", "--model", MODEL, *arguments)
    assert answer.code == 2 and not answer.out and "Traceback" not in answer.err
    assert arguments[0] != "--device" or answer.err.startswith("error: there is no device 'moon'; known: cpu, ")


def test_a_backend_that_computes_wrong_numbers_is_named_with_the_operation(clearline, monkeypatch):
    wrong = SelfTest([Measured("elu of a transposed array", 0.3, 1e-12), Measured("linear", 0.0, 1e-12)])
    monkeypatch.setattr("clearline.lab.backends.self_test", lambda backend: wrong)
    answer = clearline("backends", "--model", MODEL, "--frames", 3)
    assert "CANNOT BE USED: elu of a transposed array (error 3.0e-01, at most 1e-12)" in answer.out
    assert "operations right" not in answer.out and "ms a frame" not in answer.out


def test_a_library_that_throws_what_nobody_expects_is_a_finding(clearline, monkeypatch):
    def panics(backend):
        raise ValueError("Cannot get gpu stream without gpu backend.")

    monkeypatch.setattr("clearline.lab.backends.self_test", panics)
    answer = clearline("backends", "--model", MODEL, "--frames", 3)
    assert answer.code == 0 and "CANNOT BE USED: ValueError: Cannot get gpu stream without gpu backend." in answer.out


@needs_torch
def test_a_device_that_is_not_here(clearline):
    answer = clearline("backends", "--model", MODEL, "--frames", 0, "--device", "cuda:7")
    assert answer.code == 0 and "CANNOT BE USED" in answer.out and "onnx  " not in answer.out
    assert "torch on cuda:7 (--device cuda:7 is a device of torch), WHICH CANNOT BE USED HERE" in answer.out


def test_compare_every_installed_backend(clearline, hello):
    answer = clearline("compare", "--backends", ",".join(BACKENDS), hello, "--model", MODEL, "--preset", "greedy", "--json")
    assert answer.code == 0
    runs = json.loads(answer.out)
    assert [run["name"] for run in runs] == BACKENDS
    assert all(run["identical"] and run["equal_frames"] == run["frames"] == FRAMES and run["frame_ms"] > 0 for run in runs)
    assert all(0 < run["logit_error"] < 1e-4 for run in runs[1:])
    assert all(run["hashes"].keys() == {"input", "weights", "codec_weights", "config"} and run["version"] for run in runs)


def test_one_frame_is_timed_too(clearline, hello):
    answer = clearline("compare", "--backends", "onnx,numpy64", hello, "--model", MODEL, "--frames", 1, "--json")
    assert answer.code == 0 and all(run["frames"] == 1 and run["frame_ms"] > 0 for run in json.loads(answer.out))


@needs_torch
def test_the_first_difference_and_its_margin(clearline, hello):
    """In bfloat16 a random model soon says something else; where, and by how little, is what two runs of it say."""
    answer = clearline("compare", "--backends", "onnx,torch/bfloat16", hello, "--model", MODEL, "--json")
    assert answer.code == 1
    run = json.loads(answer.out)[1]
    traces = []
    for keywords in ({"backend": "onnx"}, {"backend": "torch", "dtype": "bfloat16"}):
        recorder = MemoryRecorder(TOKENS | LOGITS)
        package.load(MODEL, **keywords).run(speech(FRAMES), 24_000, tail=0, recorder=recorder)
        traces.append(recorder.trace().columns)
    a, b = traces
    differs = [np.atleast_2d((a[name] != b[name]).T).any(0) for name in ("row", "text_token", "audio_tokens")]
    first = int(np.any(differs, 0).argmax())
    assert run["equal_frames"] == first and not run["identical"] and run["dtype"] == "bfloat16"
    assert run["boundary"] in ("text_token", "audio_tokens")
    choice = run["choice"]
    text = choice["stream"] == "text"
    chosen = a["text_token"][first] if text else a["audio_tokens"][first, int(choice["stream"].split()[1])]
    assert choice["frame"] == first and choice["token_a"] == int(chosen)
    assert choice["margin_a"] > 0 and choice["how"] == "same noise"
    words = clearline("compare", "--backends", "onnx,torch/bfloat16", hello, "--model", MODEL)
    assert words.code == 1 and f"identical up to frame {first}, then {run['boundary']} differs" in words.out
    assert ("not a tie" in words.out) != run["tie"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backends", "onnx"], "two or more names"),
        (["--backends", "onnx,gpu"], "no backend 'gpu'; known: auto, onnx"),
        (["--backends", "onnx,onnx/cuda"], "no device 'cuda'"),
        (["--backends", "onnx,onnx/bfloat16"], "does not compute in 'bfloat16'"),
        (["other.wav", "--backends", "onnx,numpy64"], "nothing else to compare"),
        (["--backends", "onnx,numpy64", "--tolerance", "1e-4"], "--tolerance is for numbers; --backends compares tokens"),
    ],
)
def test_what_cannot_be_compared(clearline, hello, arguments, message):
    answer = clearline("compare", hello, "--model", MODEL, *arguments)
    assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err


@needs_torch
@pytest.mark.parametrize("option", [["--backend", "torch", "--device", "cpu"], ["--backend", "torch/cpu/float64"]])
def test_a_run_on_another_backend_says_so(clearline, hello, tmp_path, option):
    answer = clearline("run", hello, "-o", tmp_path / "reply.wav", "--model", MODEL, "--tail", 0, "--json", *option)
    report = json.loads(answer.out)
    assert (report["backend"], report["device"]) == ("torch", "cpu")
    assert report["dtype"] == ("float64" if "float64" in option[-1] else "float32")


def test_serving_a_batch_without_a_backend_for_it(clearline):
    answer = clearline("serve", "--backend", "onnx", "--batch", 4, "--port", 0)
    assert answer.code == 2 and "--batch is for --backend torch" in answer.err
    answer = clearline("serve", "--backend", "onnx", "--batch", 4, "--workers", 2)
    assert answer.code == 2 and "--workers" in answer.err
