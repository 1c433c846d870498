"""`clearline codec` and `clearline presets`."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import soundfile
from helpers.checkpoints import DATA, golden, model
from safetensors.numpy import load_file

from clearline import PRESETS

MODEL = DATA / "moshi_d1"


@pytest.fixture
def recording(tmp_path):
    """The golden recording as floats, so that it is the very same samples."""
    soundfile.write(tmp_path / "in.wav", golden("moshi_d1")["pcm"], 24_000, "FLOAT")
    return tmp_path / "in.wav"


@pytest.mark.parametrize("suffix", ["safetensors", "npy"])
@pytest.mark.parametrize("codebooks", [None, 1, 4])
def test_encode_then_decode(clearline, recording, tmp_path, suffix, codebooks):
    """The codes are those of Kyutai's streaming encoder, the sound what its decoder makes of them."""
    codes, sound = tmp_path / f"codes.{suffix}", tmp_path / "out.wav"
    option = [] if codebooks is None else ["-k", codebooks]
    assert clearline("codec", "encode", recording, "-o", codes, "-m", MODEL, *option).code == 0
    found = np.load(codes) if suffix == "npy" else load_file(codes)["codes"]
    expected = golden("moshi_d1")["codes_stream"][:codebooks]
    np.testing.assert_array_equal(found, expected)
    assert clearline("codec", "decode", codes, "-o", sound, "-m", MODEL).code == 0
    heard, rate = soundfile.read(sound)
    wanted = golden("moshi_d1")["pcm_stream"] if codebooks is None else model("moshi_d1").mimi.decode(expected)
    assert rate == 24_000 and np.abs(heard - np.clip(wanted, -1, 1)).max() < 1e-4


def test_json(clearline, recording, tmp_path):
    codes = tmp_path / "codes.npy"
    report = json.loads(clearline("codec", "encode", recording, "-o", codes, "-m", MODEL, "--json").out)
    assert (report["codebooks"], report["frames"], report["output_path"]) == (10, 40, str(codes))
    assert report["hashes"]["input"] == hashlib.sha256(recording.read_bytes()).hexdigest()
    assert report["hashes"]["output"] == hashlib.sha256(codes.read_bytes()).hexdigest()
    assert report["hashes"]["codec_weights"] == hashlib.sha256((MODEL / "mimi.safetensors").read_bytes()).hexdigest()
    assert report["backend"] == "onnx" and report["version"]


def test_the_codec_of_a_lone_file_has_the_released_shape(clearline, recording, tmp_path):
    """A file with no configuration beside it says nothing of its shape but by its tensors: this one is not the released codec."""
    alone = shutil.copy(MODEL / "mimi.safetensors", tmp_path)
    answer = clearline("codec", "encode", recording, "-o", tmp_path / "a.npy", "-m", alone)
    assert answer.code == 2 and "mimi.safetensors" in answer.err and "expected" in answer.err


def test_presets_are_listed(clearline):
    lines = clearline("presets").out.splitlines()
    assert [line.split()[0] for line in lines] == list(PRESETS)
    rust = next(line for line in lines if line.startswith("kyutai-rust-cli"))
    assert "top-k 250" in rust and "299792458" in rust and "acoustic delay forced to 2" in rust
    report = json.loads(clearline("presets", "--json").out)
    assert report["kyutai-pytorch-server"]["seed"] == 42424242 and report["kyutai-mlx-local"]["text"]["top_p"] == 0.95
