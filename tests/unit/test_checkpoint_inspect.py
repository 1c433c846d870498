"""`clearline inspect`: dimensions from shapes, and every contradiction by name."""

import json

import numpy as np
import pytest
from helpers.checkpoints import CASES, DATA, copy_checkpoint
from helpers.command import command
from safetensors.numpy import load_file, save_file

from clearline.checkpoint import open_checkpoint
from clearline.checkpoint.infer import configured, inferred
from clearline.checkpoint.inspection import expected_speed, inspect
from clearline.config.kyutai import MOSHI_7B, parse_checkpoint

FORMATS = [
    "bitsandbytes_q8",
    "candle",
    "gguf_q4_k_moshi_cpp",
    "gguf_q8_0_candle",
    "lora",
    "mlx_bf16",
    "mlx_q4",
    "mlx_q8",
    "transformers",
]


@pytest.mark.parametrize("case", [*CASES, *(f"formats/{name}" for name in FORMATS)])
def test_shapes_tell_what_the_configuration_says(case):
    checkpoint = open_checkpoint(DATA / case)
    found, expected = inferred(checkpoint.lm_tensors()), configured(checkpoint.config.lm)
    assert {key: value for key, value in found.items() if value} == {key: value for key, value in expected.items() if value}
    assert not inspect(DATA / case).contradictions


def test_a_config_of_another_model_is_named_by_its_dimensions(tmp_path):
    """The seeds lost days to this: here it is one line for each dimension, not a thousand tensors."""
    folder = copy_checkpoint("moshi_d1", tmp_path)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"dim": 64, "num_layers": 3}))
    lines = inspect(folder).contradictions
    assert "width: the weights have 32, the configuration says 64" in lines
    assert "layers: the weights have 2, the configuration says 3" in lines


def test_weights_without_a_config_are_held_against_the_7b(tmp_path):
    folder = copy_checkpoint("moshi_d1", tmp_path)
    (folder / "config.json").unlink()
    report = inspect(folder)
    assert "width: the weights have 32, the configuration says 4096" in report.contradictions
    assert "assumed" in report.facts["configuration"]


def test_a_tokenizer_and_a_codec_of_another_model(tmp_path):
    folder = copy_checkpoint("moshi_d1", tmp_path)
    (folder / "tokenizer.model").write_bytes((DATA / "delay0/tokenizer.model").read_bytes())
    (folder / "mimi.safetensors").write_bytes((DATA / "odd/mimi.safetensors").read_bytes())
    lines = inspect(folder).contradictions
    assert any(line.startswith("tokenizer: 48 pieces") for line in lines)
    assert any(line.startswith("codec: ") for line in lines)


def test_a_single_missing_tensor_is_named(tmp_path):
    folder = copy_checkpoint("delay0", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_linear.weight"]
    tensors["emb.1.weight"] = np.zeros((3, 3), np.float32)
    save_file(tensors, folder / "model.safetensors")
    text = "\n".join(inspect(folder).contradictions)
    assert "text vocabulary out" in text or "text_linear.weight" in text


def test_what_a_7b_needs():
    """Facts: bytes of weights read a step bf16 14.75 GB (2 bytes each), 3.1 GB of float32 keys and values at full context."""
    cfg = parse_checkpoint(MOSHI_7B).lm
    speed = expected_speed(cfg, 30e9)
    assert speed["q4"]["at full context"] == pytest.approx(30e9 * 0.08 / (7.37e9 * 0.625 + 3.15e9), rel=0.02)
    assert speed["q4"]["at 30 s"] > speed["q8"]["at 30 s"] > speed["f32"]["at 30 s"]


def test_the_command_line(tmp_path):
    folder = copy_checkpoint("moshi_d1", tmp_path / "model")
    good = command("inspect", folder, "--json")
    report = json.loads(good.out)
    assert good.code == 0 and report["dimensions"]["width"] == 32 and report["parameters"]["all"] == 129920
    assert report["speed"]["bandwidth"] > 1e8
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | {"dim": 64}))
    bad = command("inspect", folder, "--no-speed")
    assert bad.code == 1 and "CONTRADICTIONS" in bad.out
    (folder / "config.json").write_text("{")
    broken = command("inspect", folder)
    assert broken.code == 2 and "config.json" in broken.err and "Traceback" not in broken.err
    lone = command("inspect", DATA / "formats/gguf_q4_k_moshi_cpp/model.gguf")
    assert lone.code == 0 and "Q4_K" in lone.out


def test_a_folder_with_nothing_in_it_is_no_model(tmp_path):
    found = command("inspect", tmp_path)
    assert found.code == 2 and "holds no model" in found.err


def test_a_configuration_alone_cannot_be_run(tmp_path):
    for name in ("config.json", "mimi_config.json"):
        (tmp_path / name).write_bytes((DATA / "moshi_d1" / name).read_bytes())
    found = command("inspect", tmp_path, "--no-speed")
    assert found.code == 0 and "not as it is: files are missing" in found.out and "model.safetensors" in found.out
