"""Everything that can be opened as a trace: logs as Rust's `tracing` prints them, codes in every usual layout, sound."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.checkpoints import model, speech
from safetensors.numpy import save_file

from clearline.errors import ClearlineError
from clearline.lab.source import open_source
from clearline.trace import Trace, write_trace

DATA = Path(__file__).parent / "data"
CODES = np.arange(24).reshape(2, 12)  # [codebooks, frames]

# The seed's own statement, printed by Rust: {:?} of a Vec<u32>, with the time stamps and colours of `tracing`.
LOG = """\
2025-11-08T21:00:11.120Z  INFO xswarm::voice: loading
\x1b[2m2025-11-08T21:00:12.120Z\x1b[0m \x1b[32m INFO\x1b[0m xswarm::voice: MOSHI_DEBUG: Step 0 text token: 3
2025-11-08T21:00:12.121Z  INFO xswarm::voice: MOSHI_DEBUG: Step 0 audio tokens: [4294967295, 4294967295]
2025-11-08T21:00:12.200Z  INFO xswarm::voice: MOSHI_DEBUG: Step 1 audio tokens: [1049, 12]
2025-11-08T21:00:12.201Z  INFO xswarm::voice: MOSHI_DEBUG: Step 1 text token: Some(262)
2025-11-08T21:00:12.280Z  INFO xswarm::voice: MOSHI_DEBUG: Step 3 audio tokens: [7, 2047]
"""


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "moshi.log"
    path.write_text(LOG)
    return path


def test_a_log(log):
    trace = open_source(str(log))
    assert trace.columns["codes_out"].tolist() == [[-2, -2], [1049, 12], [-2, -2], [7, 2047]]
    assert trace.columns["text_token"].tolist() == [3, 262, -2, -2]
    assert trace.frames("codes_out").tolist() == [[1049, 12], [7, 2047]]


@pytest.mark.parametrize("name", ["moshi_debug.log", "moshi_debug_plain.log"])
def test_a_log_that_rust_wrote(name):
    """Printed by the seed's statements through Rust's `tracing` (oracle/moshi_debug), from tokens that lie beside it."""
    rows = [line.split() for line in (DATA / "tokens.txt").read_text().splitlines()]
    trace = open_source(str(DATA / name))
    assert trace.columns["text_token"].tolist() == [int(row[0]) for row in rows]
    codes = [[-2 if token == "-" else int(token) for token in row[1:]] or [-2] * 8 for row in rows]
    assert trace.columns["codes_out"].tolist() == codes and len(codes) > 30 and codes[0] == codes[1] == [-2] * 8


def test_the_log_of_an_earlier_version(log):
    """The statement of the seeds' program in its version 7.5, with the tokens that its notes quote."""
    log.write_text(
        "INFO xswarm::voice: MOSHI_DEBUG: Frame 2: Audio tokens: [1776, 1267, 628, 703, 1203, 1020, 162, 1940]\n"
        "INFO xswarm::voice: MOSHI_DEBUG: Frame 2: Tensor shape: [1, 8, 1], stride: [8, 1, 8], dtype: U32\n"
        "INFO xswarm::voice: MOSHI_DEBUG: Frame 3: Audio tokens: [1340, 666, 151, 1921, 444, 276, 1707, 962]\n"
    )
    codes = open_source(str(log)).columns["codes_out"]
    assert codes[2].tolist() == [1776, 1267, 628, 703, 1203, 1020, 162, 1940] and codes[3, 0] == 1340 and (codes[:2] == -2).all()


@pytest.mark.parametrize("name", ["moshi.npy", "moshi.safetensors", "moshi.json", "mlx.npy", "mlx.safetensors"])
def test_codes_that_other_programs_wrote(name):
    """Codes of Kyutai's Mimi, saved by NumPy, PyTorch, json and MLX (oracle/make_imports.py): ours of the same sound."""
    expected = model("moshi_d1").mimi.encode(speech(10), 8)
    np.testing.assert_array_equal(open_source(str(DATA / name)).columns["codes_out"], expected.T)


def test_a_log_of_several_runs(log):
    log.write_text(LOG + LOG.replace("1049", "5"))
    with pytest.raises(ClearlineError, match=r"2 runs; name one of .*#1 .. .*#2"):
        open_source(str(log))
    assert open_source(f"{log}#1").columns["codes_out"][1, 0] == 1049
    assert open_source(f"{log}#2").columns["codes_out"][1, 0] == 5
    with pytest.raises(ClearlineError, match="no #3"):
        open_source(f"{log}#3")


def test_logs_that_cannot_be_used(log):
    log.write_text("nothing")
    with pytest.raises(ClearlineError, match="MOSHI_DEBUG: Step 0"):
        open_source(str(log))
    log.write_text(LOG + "MOSHI_DEBUG: Step 4 audio tokens: [1, 2, 3]\n")
    with pytest.raises(ClearlineError, match=r"different numbers of audio tokens: \[2, 3\]"):
        open_source(str(log))


@pytest.mark.parametrize("layout", ["frames", "batch", "transposed"])
def test_npy(tmp_path, layout):
    codes = np.arange(8 * 100, dtype=np.int32).reshape(8, 100)
    np.save(tmp_path / "a.npy", {"frames": codes, "batch": codes[None], "transposed": codes.T}[layout])
    trace = open_source(str(tmp_path / "a.npy"))
    np.testing.assert_array_equal(trace.columns["codes_out"], codes.T)
    assert trace.columns["codes_out"].dtype == np.int64


def test_safetensors_and_json(tmp_path):
    save_file({"codes": CODES}, tmp_path / "a.safetensors")
    (tmp_path / "a.json").write_text(json.dumps({"codes": CODES.tolist()}))
    (tmp_path / "b.json").write_text(json.dumps(CODES.tolist()))
    for name in ("a.safetensors", "a.json", "b.json"):
        assert open_source(str(tmp_path / name)).columns["codes_out"].tolist() == CODES.T.tolist()
    save_file({"text_token": np.arange(3), "hidden": np.ones((3, 2), np.float32), "else": np.ones(1)}, tmp_path / "c.safetensors")
    trace = open_source(str(tmp_path / "c.safetensors"))
    assert trace.columns["text_token"].tolist() == [0, 1, 2] and set(trace.columns) == {"text_token", "hidden"}


def test_sound_and_traces(tmp_path):
    pcm = np.sin(np.arange(5000) / 20).astype(np.float32) * 0.5
    soundfile.write(tmp_path / "a.wav", pcm, 24_000, subtype="FLOAT")
    sound = open_source(str(tmp_path / "a.wav")).columns["pcm_out"]
    assert sound.shape == (3, 1920) and not sound[2, 5000 - 3840 :].any()
    np.testing.assert_array_equal(sound.reshape(-1)[:5000], pcm)
    write_trace(tmp_path / "whatever", Trace({"codes_out": CODES.T}, {"seed": 1}))
    trace = open_source(str(tmp_path / "whatever"))
    assert trace.columns["codes_out"].tolist() == CODES.T.tolist() and trace.facts["seed"] == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npy", b"x", "cannot be read"),
        ("a.json", b"{", "cannot be read"),
        ("a.json", b"[[1, 2], [3]]", "different lengths"),
        ("a.json", b"[1, 2]", "codebooks, frames"),
        ("a.json", b"[[1.5]]", "whole numbers"),
        ("a.json", b'{"tokens": [[1]]}', "holds neither 'codes' nor a boundary"),
        ("a.json", b'{"text_token": [0.5]}', "text_token must be"),
        ("a.safetensors", b"", "cannot be read"),
        ("a.wav", b"RIFF", "cannot be read as audio"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ClearlineError, match=words):
        open_source(str(tmp_path / name))


def test_files_that_are_not_there(tmp_path):
    for name in ("none", "none#2", str(tmp_path)):
        with pytest.raises(ClearlineError, match="does not exist or is not a file"):
            open_source(name)
