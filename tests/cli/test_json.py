"""`--json`: one value that any reader takes, whatever the numbers are, and what it rests on."""

import hashlib
import json

import numpy as np
import pytest

from clearline.cli.as_json import print_json
from clearline.lab.finite import finite


def strictly(text: str):
    """JSON as other languages read it: NaN and Infinity are errors."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_numbers_that_are_none_are_null_and_words_stay_words(capsys):
    print_json({"NaN": [float("nan"), float("inf"), 1.5], "why": "contains NaN", "nested": ({"x": float("-inf")},)})
    assert strictly(capsys.readouterr().out) == {"NaN": [None, None, 1.5], "why": "contains NaN", "nested": [{"x": None}]}


def test_finite_keeps_what_it_does_not_know():
    assert finite({1: "a", "b": None, "c": True}) == {1: "a", "b": None, "c": True}


def test_a_report_names_the_files_it_rests_on(clearline, tmp_path):
    codes = tmp_path / "NaN.npy"
    np.save(codes, np.random.default_rng(0).integers(0, 512, (8, 30)))
    answer = clearline("tokens", codes, "--json")
    report = strictly(answer.out)
    assert answer.code == 0 and report["version"]
    assert report["hashes"] == {"source": hashlib.sha256(codes.read_bytes()).hexdigest()}


def test_a_run_of_a_log_is_known_by_the_logs_hash(clearline, tmp_path):
    log = tmp_path / "two.log"
    run = "\n".join(f"MOSHI_DEBUG: Step {i} audio tokens: {[i * 7 % 512] * 8}" for i in range(5))
    log.write_text(f"{run}\n{run}\n")
    report = strictly(clearline("tokens", f"{log}#2", "--json").out)
    assert report["hashes"] == {"source": hashlib.sha256(log.read_bytes()).hexdigest()}


def test_report_has_json_too(clearline, tmp_path):
    np.save(tmp_path / "codes.npy", np.zeros((8, 12), np.int64))
    page = tmp_path / "page.html"
    report = strictly(clearline("report", tmp_path / "codes.npy", "-o", page, "--json").out)
    assert report["output_path"] == str(page) and report["bytes"] == page.stat().st_size
    assert report["hashes"]["output"] == hashlib.sha256(page.read_bytes()).hexdigest()
