"""`clearline bench`: what it prints of a run, and what it concludes from figures."""

import json
import re

import numpy as np
import pytest
from helpers.checkpoints import BACKENDS, DATA

from clearline import load
from clearline.lab.bench import BenchReport, bench, frame_bytes, matrix_bytes

MODEL = DATA / "moshi_d1"


def test_every_part_of_a_frame_is_timed(clearline):
    report = json.loads(clearline("bench", "--frames", "10", "--backend", "onnx", "--json").out)
    assert {part for part, milliseconds in report["parts"].items() if milliseconds > 0} == {
        "encode",
        "temporal",
        "depformer",
        "decode",
    }
    assert report["frames"] == 10 and report["overhead"] > 0
    assert report["speed"] == pytest.approx(80 / report["frame"])
    assert (report["model"], report["backend"], report["device"]) == ("nano", "onnx", "cpu") and report["version"]
    assert report["hashes"] == load("nano").checkpoint.hashes()


def test_a_frame_in_one_evaluation_has_no_parts(clearline):
    pytest.importorskip("mlx.core")
    report = json.loads(clearline("bench", "--frames", "10", "--backend", "mlx", "--device", "cpu", "--json").out)
    assert report["parts"] == {} and report["overhead"] is None and report["frame"] > 0
    assert "0.00 ms" not in clearline("bench", "--frames", "10", "--backend", "mlx", "--device", "cpu").out


@pytest.mark.parametrize(
    ("frame", "p99", "words"),
    [(20.0, 40.0, "real time with 4.0x to spare"), (50.0, 90.0, "expect dropouts"), (160.0, 170.0, "too slow")],
)
def test_verdict(frame, p99, words):
    assert words in BenchReport({}, None, frame, p99, 10, 30.0, 1.0).verdict


@pytest.mark.parametrize(("backend", "lm_times", "codec_times"), [("numpy64", 2, 2), ("torch/cpu/bfloat16", 0.5, 1)])
def test_what_a_frame_reads_is_counted_as_it_is_kept(backend, lm_times, codec_times):
    """Against float32. The codec is never kept in less."""
    if backend.split("/")[0] not in BACKENDS:
        pytest.skip("not installed")
    single = load(MODEL, backend="onnx")
    codec = matrix_bytes(single.mimi.weights)
    lm = frame_bytes(single, 3) - codec
    assert codec > 0 and frame_bytes(load(MODEL, backend=backend), 3) == lm_times * lm + codec_times * codec


def test_a_device_with_a_memory_of_its_own_is_not_held_against_the_processors(clearline, monkeypatch):
    tiny = load(MODEL, backend="numpy64")
    monkeypatch.setattr(type(tiny.backend), "device", "mps")
    assert np.isnan(bench(tiny, 10).fraction_of_limit)
    printed = clearline("bench", "--frames", 10, "--backend", "numpy64", "--model", MODEL)
    assert printed.code == 0 and re.search(r"memory: \d+ MB a frame$", printed.out, re.MULTILINE)


def test_fraction_of_the_limit():
    assert BenchReport({}, None, 50.0, 60.0, 10, 30.0, 1.2).fraction_of_limit == pytest.approx(0.8)
