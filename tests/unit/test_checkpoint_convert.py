"""Conversion: the same numbers, bit-exact where the formats allow, resumable after a kill, safe for two at once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import ml_dtypes  # noqa: F401 - NumPy needs it to read bfloat16
import numpy as np
import pytest
from helpers.checkpoints import DATA, copy_checkpoint
from safetensors.numpy import load_file, save_file

import clearline
from clearline.checkpoint import is_linear, open_checkpoint, read_weights
from clearline.checkpoint.convert import MANIFEST, convert
from clearline.config.kyutai import parse_checkpoint
from clearline.config.named import MODEL_NAMES, named_model
from clearline.config.raw import to_raw
from clearline.errors import CheckpointError, ConfigError
from clearline.ops.weight import quantise

FORMATS = DATA / "formats"
# A child that converts and is told to stop for good after so many pieces.
CHILD = """
import os, signal, sys
from pathlib import Path
from clearline.checkpoint import open_checkpoint
from clearline.checkpoint import convert as module
stop, calls = int(sys.argv[3]), [0]
def progress(done, total):
    calls[0] += 1
    if calls[0] == stop:
        os.kill(os.getpid(), signal.SIGKILL)
result = module.convert(open_checkpoint(Path(sys.argv[1])), Path(sys.argv[2]), "q8", on_progress=progress)
print(result.sha256, calls[0], result.reused)
"""


def child(source: Path, target: Path, stop: int = 0) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(clearline.__file__).parents[1])}
    command = [sys.executable, "-c", CHILD, str(source), str(target), str(stop)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("precision", ["q8", "q4"])
def test_a_converted_folder_holds_what_load_would_make(precision, tmp_path):
    source = open_checkpoint(DATA / "moshi_d1")
    expected = read_weights(source.lm_weights(), {"q8": 8, "q4": 4}[precision])
    convert(source, tmp_path, precision)
    found = read_weights(open_checkpoint(tmp_path).lm_weights(), 0)
    assert list(found) == list(expected) and any(weight.bits for weight in found.values())
    for name, weight in expected.items():
        assert (found[name].bits, found[name].group) == (weight.bits, weight.group)
        np.testing.assert_array_equal(found[name].data, weight.data)
        assert (found[name].scale is None, found[name].bias is None) == (weight.scale is None, weight.bias is None)
        for there, here in ((found[name].scale, weight.scale), (found[name].bias, weight.bias)):
            if here is not None:
                assert there.dtype == here.dtype
                np.testing.assert_array_equal(there, here)


def test_q4_has_8_bits_at_the_heads_and_where_the_depformer_begins(tmp_path):
    convert(open_checkpoint(FORMATS / "mlx_bf16"), tmp_path, "q4")
    bits = {name.split(".")[0]: weight.bits for name, weight in open_checkpoint(tmp_path).lm_weights().items() if weight.bits}
    assert bits == {"transformer": 4, "depformer": 4, "text_linear": 8, "depformer_in": 8, "linears": 8}
    again = convert(open_checkpoint(tmp_path), tmp_path / "again", "q4")
    assert load_file(again.weights).keys() == load_file(tmp_path / "model.q4.safetensors").keys()
    assert again.sha256 == convert(open_checkpoint(FORMATS / "mlx_bf16"), tmp_path, "q4").sha256


@pytest.mark.parametrize(("bits", "name"), [(4, "model.q4.safetensors"), (8, "model.q8.safetensors")])
def test_symmetric_groups_in_words_are_still_read(bits, name, tmp_path):
    """As earlier versions wrote q4 and q8: uint32 codes and float32 scales, nothing else."""
    source = copy_checkpoint("moshi_d1", tmp_path)
    expected, tensors = {}, {}
    for key, weight in open_checkpoint(source).lm_weights().items():
        expected[key] = quantise(weight, bits) if is_linear(key) and weight.shape[1] % 32 == 0 else weight
        tensors[key] = expected[key].data
        if expected[key].bits:
            tensors[key] = tensors[key].view(np.uint32)
            tensors[f"{key.removesuffix('.weight')}.scales"] = expected[key].scale
    (source / "model.safetensors").unlink()
    save_file(tensors, source / name)
    for key, weight in open_checkpoint(source).lm_weights().items():
        np.testing.assert_array_equal(weight.dense(np.float32), expected[key].dense(np.float32))


def test_q4_keeps_its_codes_under_mlx_names(tmp_path):
    """Scales and offsets are bfloat16's own numbers: what was made once is not rounded again."""
    direct = convert(open_checkpoint(FORMATS / "mlx_q8"), tmp_path / "direct", "q4", "mlx").weights
    convert(open_checkpoint(FORMATS / "mlx_q8"), tmp_path / "kyutai", "q4")
    around = convert(open_checkpoint(tmp_path / "kyutai"), tmp_path / "around", "q4", "mlx").weights
    expected, found = load_file(direct), load_file(around)
    assert expected.keys() == found.keys()
    kept = [key for key in expected if ".layers." in key or key.startswith("text_linear")]
    assert len(kept) > 20
    for key in kept:
        assert expected[key].tobytes() == found[key].tobytes(), key


def test_a_converted_model_runs_like_its_source(tmp_path):
    """The whole folder: codec, tokenizer and configuration came along."""
    convert(open_checkpoint(DATA / "moshi_d1"), tmp_path, "f32")
    pcm = 0.1 * np.sin(np.arange(24000) / 20).astype(np.float32)
    here, there = (clearline.load(folder).run(pcm, 24000, "greedy", tail=0.0) for folder in (tmp_path, DATA / "moshi_d1"))
    np.testing.assert_array_equal(here.codes_out, there.codes_out)
    np.testing.assert_array_equal(here.pcm, there.pcm)


@pytest.mark.parametrize(
    ("case", "precision", "layout", "name"),
    [
        ("mlx_q4", "q4", "mlx", "model.q4.safetensors"),
        ("mlx_q8", "q8", "mlx", "model.q8.safetensors"),
        ("mlx_bf16", "bf16", "mlx", "model.safetensors"),
        ("candle", "bf16", "candle", "model.safetensors"),
    ],
)
def test_there_and_back_is_bit_exact(case, precision, layout, name, tmp_path):
    """Official file -> Kyutai's names -> the official naming: every tensor has the same dtype, shape and bytes."""
    convert(open_checkpoint(FORMATS / case), tmp_path / "kyutai", precision)
    convert(open_checkpoint(tmp_path / "kyutai"), tmp_path / "back", precision, layout)
    before, after = load_file(FORMATS / case / name), load_file(tmp_path / "back" / name)
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert (tensor.dtype, tensor.shape, tensor.tobytes()) == (after[key].dtype, after[key].shape, after[key].tobytes()), key


@pytest.mark.parametrize(
    ("case", "precision", "layout"), [("gguf_q8_0_candle", "q8", "candle"), ("gguf_q4_k_moshi_cpp", "q4", "moshi.cpp")]
)
def test_gguf_there_and_back_keeps_the_blocks(case, precision, layout, tmp_path):
    """GGUF -> Kyutai's names -> GGUF: blocks of a type that is written have the same bytes, Q4_K's codes stay."""
    convert(open_checkpoint(FORMATS / case), tmp_path / "kyutai", precision)
    convert(open_checkpoint(tmp_path / "kyutai"), tmp_path / "back", precision, layout)
    before = {tensor.name: tensor for tensor in gguf.GGUFReader(FORMATS / case / "model.gguf").tensors}
    after = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "back" / f"model.{precision}.gguf").tensors}
    blocks = {name for name, tensor in before.items() if tensor.tensor_type.name in ("Q8_0", "Q4_0")}
    assert blocks and before.keys() <= after.keys()  # the back has the norms of every depformer step
    for name, tensor in before.items():
        assert tuple(tensor.shape) == tuple(after[name].shape)
        if name in blocks:
            assert tensor.data.tobytes() == after[name].data.tobytes(), name
        elif tensor.tensor_type.name == "Q4_K":
            assert after[name].tensor_type.name == "Q4_1"
            expected, found = (gguf.quants.dequantize(x.data, x.tensor_type) for x in (tensor, after[name]))
            assert np.abs(found - expected).max() <= 2e-3 * np.abs(expected).max(), name  # scales in float16


@pytest.mark.parametrize(("case", "precision"), [("mlx_q4", "q4"), ("mlx_q8", "q8"), ("moshi_d1", "q4"), ("moshi_d1", "bf16")])
def test_the_gguf_package_reads_what_is_written(case, precision, tmp_path):
    """And finds the numbers that Clearline finds in the same file, which are near the source's."""
    source = open_checkpoint(DATA / case if case == "moshi_d1" else FORMATS / case)
    convert(source, tmp_path, precision, "moshi.cpp")
    found, before = open_checkpoint(tmp_path).lm_weights(), source.lm_weights()
    (path,) = tmp_path.glob("model*.gguf")
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert theirs.keys() == {f"lm.{name}" for name in found}
    kinds = set()
    for name, weight in found.items():
        tensor = theirs[f"lm.{name}"]
        kinds.add(tensor.tensor_type.name)
        dense = weight.dense(np.float32)
        np.testing.assert_allclose(gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(dense.shape), dense, rtol=1e-6)
        original = before[name].dense(np.float32)
        step = np.abs(original).max() * {"q4": 1 / 7, "q8": 1 / 120, "bf16": 0}[precision]
        assert np.abs(dense - original).max() <= step + 1e-3 * np.abs(original).max()
    assert {"mlx_q4": "Q4_1", "mlx_q8": "Q8_0"}.get(case, {"q4": "Q4_0", "bf16": "BF16"}.get(precision)) in kinds


def test_a_killed_gguf_goes_on(tmp_path):
    whole = convert(open_checkpoint(DATA / "moshi_d1"), tmp_path / "whole", "q8", "candle")
    calls = 0

    def stop(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(open_checkpoint(DATA / "moshi_d1"), tmp_path / "broken", "q8", "candle", stop)
    assert convert(open_checkpoint(DATA / "moshi_d1"), tmp_path / "broken", "q8", "candle").sha256 == whole.sha256


def test_a_large_model_is_quantised_once_and_mapped_ever_after(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CLEARLINE_HOME", str(tmp_path))
    uncached = clearline.load(FORMATS / "hibiki", quantize="q4").programs.weights
    monkeypatch.setattr("clearline.app.loading._CACHED_FROM_BYTES", 0)
    first = clearline.load(FORMATS / "hibiki", quantize="q4")
    assert "to q4, once, into" in capfd.readouterr().err
    (made,) = tmp_path.glob("converted/hibiki-q4-*/model.q4.safetensors")
    stamp = made.stat().st_mtime_ns
    second = clearline.load(FORMATS / "hibiki", quantize="q4")
    assert made.stat().st_mtime_ns == stamp and not capfd.readouterr().err
    for name, weight in uncached.items():
        for found in (first.programs.weights[name], second.programs.weights[name]):
            np.testing.assert_array_equal(found.dense(np.float32), weight.dense(np.float32))
            assert not weight.bits or not found.data.flags.writeable  # the file itself


def test_transformers_come_apart(tmp_path):
    """The codec inside becomes a file of its own, as kyutai/mimi is published; every number stays."""
    source = open_checkpoint(FORMATS / "transformers")
    convert(source, tmp_path, "f32")
    found = open_checkpoint(tmp_path)
    assert found.mimi_path.name == "mimi.safetensors" and found.mimi_config == source.mimi_config
    assert found.config.lm == source.config.lm
    for before, after in ((source.lm_weights(), found.lm_weights()), (source.mimi_weights(), found.mimi_weights())):
        assert list(before) == list(after)
        for name, weight in before.items():
            np.testing.assert_array_equal(weight.data, after[name].data)


def test_a_lora_is_fused_and_gone(tmp_path):
    source = open_checkpoint(FORMATS / "lora")
    convert(source, tmp_path, "f32")
    result = open_checkpoint(tmp_path)
    assert result.config.lora is None
    fused, plain = source.lm_weights(), result.lm_weights()
    for name, weight in fused.items():
        np.testing.assert_array_equal(weight.dense(np.float32), plain[name].data)


@pytest.mark.parametrize("stop", [1, 7, 40])
def test_a_killed_conversion_goes_on_where_it_was(stop, tmp_path):
    source, whole, broken = DATA / "moshi_d1", tmp_path / "whole", tmp_path / "broken"
    expected = convert(open_checkpoint(source), whole, "q8").sha256
    killed = child(source, broken, stop)
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert not (broken / "model.q8.safetensors").exists() and not (broken / "config.json").exists()
    again = child(source, broken)
    out, err = again.communicate(timeout=120)
    digest, calls, reused = out.split()
    pieces = len(open_checkpoint(source).lm_weights())
    assert (digest, reused) == (expected, "False"), err
    assert int(calls) <= pieces - stop + 1, "it began again from the start"
    assert (broken / "model.q8.safetensors").read_bytes() == (whole / "model.q8.safetensors").read_bytes()
    assert not list(broken.glob("*.part")) and not list(broken.glob("*.journal"))


def test_damage_behind_the_journal_is_found(tmp_path):
    """The part file of a killed run has other bytes than its journal says: written anew from there, not trusted."""
    source, target = DATA / "moshi_d1", tmp_path / "target"
    expected = convert(open_checkpoint(source), tmp_path / "whole", "q8").sha256
    child(source, target, 30).communicate(timeout=120)
    part = target / "model.q8.safetensors.part"
    raw = bytearray(part.read_bytes())
    raw[len(raw) // 2] ^= 255
    part.write_bytes(raw)
    assert convert(open_checkpoint(source), target, "q8").sha256 == expected


def test_another_conversion_does_not_go_on_from_this_one(tmp_path):
    """The journal belongs to a source and a precision: a changed source begins anew."""
    source, target = copy_checkpoint("moshi_d1", tmp_path / "source"), tmp_path / "target"
    child(source, target, 30).communicate(timeout=120)
    tensors = load_file(source / "model.safetensors")
    tensors["text_emb.weight"] = tensors["text_emb.weight"][::-1].copy()
    save_file(tensors, source / "model.safetensors")
    expected = convert(open_checkpoint(source), tmp_path / "whole", "q8").sha256
    assert convert(open_checkpoint(source), target, "q8").sha256 == expected


def test_two_processes_at_once(tmp_path):
    children = [child(DATA / "moshi_d1", tmp_path) for _ in range(2)]
    answers = [process.communicate(timeout=120) for process in children]
    assert [process.returncode for process in children] == [0, 0], answers
    digests = {out.split()[0] for out, _ in answers}
    assert len(digests) == 1 and {out.split()[2] for out, _ in answers} == {"False", "True"}


def test_a_damaged_result_is_made_again(tmp_path):
    source = open_checkpoint(DATA / "moshi_d1")
    first = convert(source, tmp_path, "q8")
    assert convert(source, tmp_path, "q8").reused
    raw = bytearray(first.weights.read_bytes())
    raw[-1] ^= 1
    first.weights.write_bytes(raw)
    second = convert(source, tmp_path, "q8")
    assert not second.reused and second.sha256 == first.sha256
    assert json.loads((tmp_path / MANIFEST).read_text())["sha256"]["model.q8.safetensors"] == second.sha256


@pytest.mark.parametrize(
    ("case", "precision", "layout", "message"),
    [
        ("moshi_d1", "q5", "kyutai", "q5"),
        ("moshi_d1", "q8", "rust", "rust"),
        ("odd", "bf16", "mlx", "norm_emb"),
        ("moshi_d1", "q8", "mlx", "groups of 64"),
    ],
)
def test_what_cannot_be_converted_is_refused(case, precision, layout, message, tmp_path):
    with pytest.raises((CheckpointError, ConfigError), match=message):
        convert(open_checkpoint(DATA / case), tmp_path / "new", precision, layout)
    assert not list(tmp_path.glob("new/model*"))


def test_a_model_is_not_converted_onto_itself(tmp_path):
    source = copy_checkpoint("moshi_d1", tmp_path / "model")
    with pytest.raises(CheckpointError, match="the model itself"):
        convert(open_checkpoint(source), source, "f32")


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_configurations_written_as_json_say_the_same(name):
    found = named_model(name)
    assert found is not None and parse_checkpoint(to_raw(found[1])).lm == found[1]


MEASURE = """
import resource, sys
from pathlib import Path
from clearline.checkpoint import open_checkpoint
from clearline.checkpoint.convert import convert
checkpoint = open_checkpoint(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = convert(checkpoint, Path(sys.argv[2]), sys.argv[3])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, result.nbytes)
"""


def test_memory_stays_below_the_result(tmp_path):
    """A 130 MB bfloat16 file to q4: the peak, mapped source pages included, stays within 1.2 times the 37 MB result."""
    raw = json.loads((DATA / "moshi_d1/config.json").read_text())
    raw |= {"dim": 512, "num_heads": 8, "num_layers": 22, "text_card": 320}
    source = tmp_path / "source"
    copy_checkpoint("moshi_d1", source)
    (source / "config.json").write_text(json.dumps(raw))
    from clearline.model import lm_weights

    rng = np.random.default_rng(1)
    shapes = lm_weights(parse_checkpoint(raw).lm)
    import ml_dtypes as dtypes

    save_file(
        {n: rng.standard_normal(s, np.float32).astype(dtypes.bfloat16) for n, s in shapes.items()}, source / "model.safetensors"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(clearline.__file__).parents[1])}
    command = [sys.executable, "-c", MEASURE, str(source), str(tmp_path / "target"), "q4"]
    started = time.perf_counter()
    peak, size = map(int, subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split())
    assert size < 0.35 * (source / "model.safetensors").stat().st_size
    assert peak <= 1.2 * size, f"{peak / 1e6:.0f} MB for {size / 1e6:.0f} MB in {time.perf_counter() - started:.1f} s"


def test_a_file_is_no_place_for_the_result(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(CheckpointError, match="it is a file"):
        convert(open_checkpoint(DATA / "moshi_d1"), tmp_path / "out", "q8")
