"""A trace written and read again; one that was torn or damaged; and files that are no traces."""

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

import clearline
from clearline.errors import ClearlineError
from clearline.trace import BOUNDARIES, LOGITS, TOKENS, FileRecorder, MemoryRecorder, Trace, read_trace, write_trace

FACTS = {"seed": 2**63, "preset": "greedy", "weights": "ab", "nested": {"a": [1, None]}}


def row(step: int) -> dict:
    return {
        "text_token": step,
        "codes_in": np.array([step, 40_000 * step]),
        "codes_out": None if step == 0 else np.array([step]),
        "hidden": np.array([0.5 * step], np.float32),
        "text_logits": np.zeros(3, np.float32),
        "audio_logits": np.full((2, 3), np.nan, np.float32),
    }


def written(path: Path, steps: int, boundaries=TOKENS, chunk_rows: int = 2) -> Path:
    with FileRecorder(path, boundaries, chunk_rows) as recorder:
        recorder.begin(FACTS)
        for step in range(steps):
            recorder.add(row(step))
        recorder.begin({"output": "cd"})
    return path


@pytest.mark.parametrize("boundaries", [TOKENS, TOKENS | LOGITS, {"hidden"}])
@pytest.mark.parametrize("chunk_rows", [1, 2, 50])
def test_round_trip(tmp_path, boundaries, chunk_rows):
    path = written(tmp_path / "run.trace", 3, boundaries, chunk_rows)
    trace = read_trace(path)
    memory = MemoryRecorder(boundaries)
    memory.begin(FACTS)
    for step in range(3):
        memory.add(row(step))
    assert trace.complete and trace.steps == 3 and trace.facts == FACTS | {"output": "cd"}
    assert list(trace.columns) == [name for name in BOUNDARIES if name in boundaries and name in row(1)]
    for name, column in memory.trace().columns.items():
        np.testing.assert_array_equal(trace.columns[name], column)
    if "codes_out" in trace.columns:
        assert trace.columns["text_token"].tolist() == [0, 1, 2]
        assert trace.columns["codes_in"].tolist() == [[0, 0], [1, 40_000], [2, 80_000]]
        assert trace.columns["codes_out"].tolist() == [[-2], [1], [2]]  # nothing came out in the first step
        assert trace.frames("codes_out").tolist() == [[1], [2]]
    if "hidden" in boundaries:
        assert trace.columns["hidden"].tolist() == [[0.0], [0.5], [1.0]]
    assert not list(tmp_path.glob("*.part"))


def test_the_format_is_what_its_description_says(tmp_path):
    """Read with nothing but the safetensors package."""
    data = written(tmp_path / "t", 3).read_bytes()
    assert data[:16] == b"clearline-trace2"
    bodies, at = [], 16
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        bodies.append(data[at + 12 : at + 12 + length])
        assert zlib.crc32(bodies[-1]) == int.from_bytes(data[at + 8 : at + 12], "little")
        at += 12 + length
    notes = [json.loads(json.loads(b[8 : 8 + int.from_bytes(b[:8], "little")])["__metadata__"]["clearline"]) for b in bodies]
    assert [note["rows"] for note in notes] == [0, 2, 1, 0] and notes[0]["facts"] == FACTS and notes[-1]["end"] is True
    assert load(bodies[1])["text_token"].dtype == np.int16 and load(bodies[1])["codes_in"].dtype == np.int32


def test_the_same_run_gives_the_same_bytes(tmp_path):
    assert written(tmp_path / "a", 5).read_bytes() == written(tmp_path / "b", 5).read_bytes()


def test_tokens_are_compact(tmp_path):
    """An hour of the 7B's tokens (12.5 frames a second, 16 + 17 + 8 + 8 + 1 of them) stays below 6 MB."""
    rng = np.random.default_rng(0)
    with FileRecorder(tmp_path / "t") as recorder:
        for _ in range(500):
            recorder.add({name: rng.integers(0, 2048, n) for name, n in (("codes_in", 8), ("row", 17), ("audio_tokens", 8))}
                         | {"codes_out": rng.integers(0, 2048, 8), "text_token": int(rng.integers(32_000))})  # fmt: skip
    assert (tmp_path / "t").stat().st_size * 45_000 / 500 < 6e6


def test_a_killed_run_loses_at_most_its_last_chunk(tmp_path):
    """kill -9 in the middle: nothing is flushed, nothing is closed."""
    program = (
        "import os, signal\nfrom pathlib import Path\nfrom clearline.trace import FileRecorder\n"
        "with FileRecorder(Path('t'), chunk_rows=4) as r:\n    r.begin({'seed': 1})\n"
        "    for i in range(11): r.add({'text_token': i})\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(clearline.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment).returncode == -signal.SIGKILL
    assert not (tmp_path / "t").exists()
    trace = read_trace(tmp_path / "t.part")
    assert trace.columns["text_token"].tolist() == list(range(8))
    assert trace.facts == {"seed": 1} and not trace.complete


def test_cut_anywhere_it_is_read_up_to_the_last_whole_chunk(tmp_path):
    data = written(tmp_path / "whole", 6).read_bytes()
    for cut in range(16, len(data)):
        (tmp_path / "cut").write_bytes(data[:cut])
        trace = read_trace(tmp_path / "cut")
        assert not trace.complete and trace.steps in (0, 2, 4, 6)
    assert trace.columns["text_token"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_torn_write_at_the_end_is_not_believed(tmp_path):
    data = bytearray(written(tmp_path / "t", 2).read_bytes())
    data[-1] ^= 1
    (tmp_path / "t").write_bytes(data)
    assert read_trace(tmp_path / "t").steps == 2 and not read_trace(tmp_path / "t").complete


def test_damage_before_the_end_is_an_error(tmp_path):
    path = written(tmp_path / "t", 6)
    whole = path.read_bytes()
    data = bytearray(whole)
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(ClearlineError, match="damaged: the chunk at byte 16"):
        read_trace(path)
    for body in (save({"text_token": np.zeros(2)}), save({}, {"clearline": "[]"}), save({"row": np.zeros((2, 1))},
                 {"clearline": '{"rows": 3}'}), b"{}", b""):  # fmt: skip
        path.write_bytes(whole + len(body).to_bytes(8, "little") + zlib.crc32(body).to_bytes(4, "little") + body + b" " * 16)
        with pytest.raises(ClearlineError, match="damaged"):
            read_trace(path)
    body = save({"surprise": np.zeros(1)}, {"clearline": '{"rows": 1}'})
    path.write_bytes(whole + len(body).to_bytes(8, "little") + zlib.crc32(body).to_bytes(4, "little") + body)
    with pytest.raises(ClearlineError, match="'surprise'"):
        read_trace(path)


def test_an_error_leaves_what_was_recorded(tmp_path):
    with pytest.raises(ZeroDivisionError), FileRecorder(tmp_path / "t", chunk_rows=1) as recorder:
        recorder.add(row(0))
        raise ZeroDivisionError
    assert not (tmp_path / "t").exists() and read_trace(tmp_path / "t.part").steps == 1


def test_an_empty_trace_is_a_trace(tmp_path):
    with FileRecorder(tmp_path / "t"):
        pass
    assert read_trace(tmp_path / "t") == Trace({}, {}, True)


def test_a_trace_in_memory_can_be_written(tmp_path):
    trace = Trace({"codes_in": np.array([[1, 2], [3, 4]]), "pcm_out": np.full((2, 3), 0.5, np.float32)}, {"seed": 3})
    write_trace(tmp_path / "t", trace)
    again = read_trace(tmp_path / "t")
    assert again.facts == {"seed": 3} and list(again.columns) == ["codes_in", "pcm_out"]
    for name, column in trace.columns.items():
        np.testing.assert_array_equal(again.columns[name], column)


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(ClearlineError, match="no boundary 'logits'"):
        FileRecorder(tmp_path / "t", {"logits"})
    with pytest.raises(ClearlineError, match="does not exist"):
        FileRecorder(tmp_path / "no" / "t")
    with pytest.raises(ClearlineError, match="outside its `with` block"):
        FileRecorder(tmp_path / "t").begin({})
    with FileRecorder(Path("/dev/null")) as recorder:
        recorder.add(row(0))
    assert not Path("/dev/null.part").exists()
    with pytest.raises(ClearlineError, match="No space left"), FileRecorder(Path("/dev/full")):
        pass


def test_files_that_are_no_traces(tmp_path):
    path = tmp_path / "x.trace"
    for bad in (path, tmp_path):
        with pytest.raises(ClearlineError, match="not a readable trace"):
            read_trace(bad)
    for content in (b"", b"clearline-trace", b"clearline-trace1", save({"a": np.zeros(1)})):
        path.write_bytes(content)
        with pytest.raises(ClearlineError, match="not a Clearline trace of version 2"):
            read_trace(path)


def test_recording_tokens_costs_next_to_nothing(tmp_path):
    """2% of the fastest frame there is, 4 ms of a model of a few million parameters: the best of five measurements."""
    values = {"codes_in": np.arange(8), "row": np.arange(17), "audio_tokens": np.arange(8), "codes_out": np.arange(8)}
    times = []
    for attempt in range(5):
        with FileRecorder(tmp_path / f"{attempt}") as recorder:
            start = time.perf_counter()
            for _ in range(200):
                recorder.add(values | {"text_token": 3})
            times.append((time.perf_counter() - start) / 200)
    assert min(times) < 0.02 * 4e-3
