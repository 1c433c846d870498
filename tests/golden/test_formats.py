"""Every published format: a checkpoint written by official tools, and the logits official code computes from it.

Made by oracle/make_formats.py and make_formats_mlx.py, whose docstrings say what wrote and what ran each file.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.checkpoints import BACKENDS
from safetensors.numpy import load_file, save_file

from clearline.app import load_codec
from clearline.backends import get_backend
from clearline.checkpoint import open_checkpoint
from clearline.generate import LMPrograms

DATA = Path(__file__).parent / "data"
FORMATS = DATA / "formats"
CASES = sorted(path.parent.name for path in FORMATS.glob("*/golden.safetensors"))
# The sources of the MLX files: run by PyTorch, under another file name.
FROM_PYTORCH = ("mlx_wide", "mlx_schedule")
QUANTISED = {"mlx_q8", "mlx_q4", "bitsandbytes_q8", "gguf_q8_0_candle", "gguf_q4_k_moshi_cpp"}
# The reference computes in float64 from the same codes: 1e-5 of the largest value leaves no room for another scale or order.
# ONNX Runtime rounds the activations of quantised products to 8 bits, about 5e-3 of each product.
EXACT, ROUNDED = 2e-5, 6e-2


def run(folder: Path, backend: str, golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    checkpoint = open_checkpoint(folder)
    cfg = checkpoint.config.lm
    if folder.name.startswith("mlx_") and (folder.name not in FROM_PYTORCH):
        # moshi_mlx lets a query see `context` old keys and its own; PyTorch counts the own one among them.
        cfg = replace(cfg, transformer=replace(cfg.transformer, context=cfg.transformer.context + 1))
    programs = LMPrograms(cfg, get_backend(backend), dict(checkpoint.lm_weights()))
    state, out = programs.temporal_state(), {"hidden": [], "text_logits": [], "audio_logits": []}
    for row, tokens in zip(golden["rows"], golden["tokens"], strict=True):
        step = programs.temporal.run(state, {"row": row[None]})
        depth_state, logits = programs.depth_state(), []
        for program, token in zip(programs.depth, tokens, strict=True):
            logits.append(program.run(depth_state, {"hidden": step["hidden"], "token": np.array([token])})["logits"][0])
        out["hidden"].append(step["hidden"][0])
        out["text_logits"].append(step["text_logits"][0])
        out["audio_logits"].append(np.stack(logits))
    return {name: np.stack(values) for name, values in out.items()}


def worst(actual: dict[str, np.ndarray], golden: dict[str, np.ndarray]) -> float:
    return max(np.abs(actual[name] - golden[name]).max() / np.abs(golden[name]).max() for name in actual)


def test_all_formats_are_there():
    assert {"candle", "lora", "mlx_bf16", "transformers", *QUANTISED} <= set(CASES)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", [case for case in CASES if case not in FROM_PYTORCH])
def test_logits(case, backend):
    golden = load_file(FORMATS / case / "golden.safetensors")
    error = worst(run(FORMATS / case, backend, golden), golden)
    assert error <= (ROUNDED if backend == "onnx" and case in QUANTISED else EXACT), f"{error:.2e}"


@pytest.mark.parametrize("case", FROM_PYTORCH)
def test_stacked_bfloat16(case, tmp_path):
    """Kyutai's older PyTorch naming, which is what MLX's own loader was given."""
    folder = shutil.copytree(FORMATS / case, tmp_path / case)
    (folder / "base.safetensors").rename(folder / "model.safetensors")
    golden = load_file(folder / "golden.safetensors")
    assert worst(run(folder, "numpy64", golden), golden) <= EXACT


def test_sharded(tmp_path):
    """The same tensors in three files with an index give the same weights, bit for bit."""
    whole = DATA / "moshi_d1"
    tensors = load_file(whole / "model.safetensors")
    names = sorted(tensors)
    for name in ("config.json", "mimi_config.json"):
        shutil.copy(whole / name, tmp_path)
    config = json.loads((whole / "config.json").read_text())
    del config["moshi_name"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    weight_map = {}
    for i in range(3):
        part = f"model-{i + 1:05d}-of-00003.safetensors"
        save_file({name: tensors[name] for name in names[i::3]}, tmp_path / part)
        weight_map |= dict.fromkeys(names[i::3], part)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    expected, found = open_checkpoint(whole).lm_weights(), open_checkpoint(tmp_path).lm_weights()
    assert list(expected) == list(found)
    for name, weight in expected.items():
        np.testing.assert_array_equal(weight.data, found[name].data)


@pytest.mark.parametrize("backend", BACKENDS)
def test_transformers_mimi(tmp_path, backend):
    """transformers' naming of a codec (oracle/check_huggingface.py proves the file with transformers' MimiModel)."""
    shutil.copy(DATA / "delay2/mimi_hf.safetensors", tmp_path / "model.safetensors")
    shutil.copy(DATA / "delay2/mimi_hf_config.json", tmp_path / "config.json")
    codec = load_codec(tmp_path / "model.safetensors", backend=backend)
    golden = load_file(DATA / "delay2/golden.safetensors")
    np.testing.assert_array_equal(codec.encode(golden["pcm"]), golden["codes_stream"])
    pcm = codec.decode(golden["codes_stream"])
    assert np.abs(pcm - golden["pcm_stream"]).max() <= 1e-4 * np.abs(golden["pcm_stream"]).max()


def test_codec_of_moshi_cpp(tmp_path):
    """Written as its source writes one: names over 63 bytes hashed, conv weights in F16, their biases as columns."""
    import zlib

    import gguf

    source = open_checkpoint(DATA / "delay2").mimi_weights()
    writer, hashed = gguf.GGUFWriter(tmp_path / "mimi-e351c8d8-125.gguf", "moshi"), 0
    for name, weight in source.items():
        full, data = f"mimi.{name}", np.asarray(weight.data, np.float32)
        if len(full) > 63:
            crc, hashed = zlib.crc32(full.encode()), hashed + 1
            full = "".join(f"{crc >> 8 * i & 15:x}" for i in range(8))
        if data.ndim == 3 and "convtr" not in name:
            data = data.astype(np.float16)
        if name.endswith(".bias") and "conv" in name:
            data = data[:, None]
        writer.add_tensor(full, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert hashed >= 4
    for name in ("config.json", "mimi_config.json", "model.safetensors", "tokenizer.model"):
        shutil.copy(DATA / "delay2" / name, tmp_path)
    found = open_checkpoint(tmp_path).mimi_weights()
    assert list(found) == list(source)
    for name, weight in source.items():
        expected = np.asarray(weight.data, np.float32)
        if expected.ndim == 3 and "convtr" not in name:
            expected = expected.astype(np.float16)
        np.testing.assert_array_equal(found[name].data, expected.astype(found[name].data.dtype), name)
    codec = load_codec(tmp_path)
    pcm = load_file(DATA / "delay2/golden.safetensors")["pcm"]
    assert codec.decode(codec.encode(pcm)).shape == pcm.shape


def test_a_wrong_group_size_would_be_seen():
    """The test of tests: reading the 8-bit MLX file with its scales shifted by one group misses by far."""
    checkpoint = open_checkpoint(FORMATS / "mlx_q8")
    weights = dict(checkpoint.lm_weights())
    name = "transformer.layers.0.gating.linear_in.weight"
    scale = weights[name].scale
    assert scale is not None and weights[name].bias is not None and weights[name].group == 64 and weights[name].bits == 8
    golden = load_file(FORMATS / "mlx_q8/golden.safetensors")
    weights[name] = replace(weights[name], scale=np.roll(scale, 1, 0))
    programs = LMPrograms(checkpoint.config.lm, get_backend("numpy64"), weights)
    hidden = programs.temporal.run(programs.temporal_state(), {"row": golden["rows"][:1]})["hidden"]
    assert np.abs(hidden - golden["hidden"][:1]).max() > 100 * EXACT * np.abs(golden["hidden"]).max()
