"""The same codec under the names of Hugging Face's `kyutai/mimi`: same codes, same sound."""

import json

import numpy as np
import pytest
from helpers.checkpoints import DATA, assert_close, copy_checkpoint, golden
from safetensors.numpy import load_file, save_file

import clearline
from clearline.errors import CheckpointError


@pytest.fixture
def renamed(tmp_path):
    """The delay2 checkpoint with its codec under Hugging Face's names."""
    folder = copy_checkpoint("delay2", tmp_path)
    (folder / "mimi.safetensors").write_bytes((DATA / "delay2" / "mimi_hf.safetensors").read_bytes())
    return folder


@pytest.mark.parametrize("backend", ["onnx", "numpy64"])
def test_same_codes_same_sound(renamed, backend):
    codec, g = clearline.load_codec(renamed, backend=backend), golden("delay2")
    np.testing.assert_array_equal(codec.encode(g["pcm"]), g["codes_stream"])
    assert_close(codec.decode(g["codes_stream"]), g["pcm_stream"], "pcm")


def test_a_projection_of_which_a_third_is_missing_is_reported(renamed):
    tensors = load_file(renamed / "mimi.safetensors")
    name = next(name for name in tensors if name.endswith("k_proj.weight"))
    del tensors[name]
    save_file(tensors, renamed / "mimi.safetensors")
    with pytest.raises(CheckpointError, match=r"in_projs|k_proj"):
        clearline.load_codec(renamed)


def test_the_config_beside_it_is_transformers_own():
    """What the renamed file was checked with (oracle/check_huggingface.py): transformers' MimiModel."""
    assert json.loads((DATA / "delay2" / "mimi_hf_config.json").read_text())["model_type"] == "mimi"
