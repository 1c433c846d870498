"""`clearline bench`: what it prints of a run, and what it concludes from figures."""

import json

import pytest

from clearline import load
from clearline.lab.bench import BenchReport


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


def test_fraction_of_the_limit():
    assert BenchReport({}, None, 50.0, 60.0, 10, 30.0, 1.2).fraction_of_limit == pytest.approx(0.8)
