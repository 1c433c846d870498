"""Looking into a step: every layer of two sides, and the first one that differs. Faults are put into copies of a checkpoint."""

import json

import numpy as np
import pytest
from helpers.checkpoints import BACKENDS, DATA, copy_checkpoint, model, speech
from safetensors.numpy import load_file, save_file

import clearline
from clearline.errors import ClearlineError
from clearline.lab.compare import compare_sides
from clearline.lab.compare.layers import compare_layers, probe_model
from clearline.lab.compare.nearest import nearest_code
from clearline.lab.live import Side
from clearline.trace import LOGITS, PCM, TOKENS, MemoryRecorder, Trace

MODEL = DATA / "moshi_d1"


def run(chosen, frames: int = 6, preset: str = "greedy") -> Trace:
    recorder = MemoryRecorder(TOKENS | LOGITS | PCM)
    chosen.run(speech(frames), 24_000, preset, tail=0, recorder=recorder)
    return recorder.trace()


def damaged(folder, file: str, tensor: str):
    """A copy of the checkpoint in which one tensor is another."""
    copy_checkpoint("moshi_d1", folder)
    tensors = load_file(folder / file)
    (name,) = [name for name in tensors if name == tensor]
    tensors[name] = tensors[name] * np.linspace(0.5, 1.5, tensors[name].size, dtype=np.float32).reshape(tensors[name].shape)
    save_file(tensors, folder / file)
    return clearline.load(folder)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_layer_is_seen_and_the_last_ones_are_the_outputs(backend):
    """The probed step is the step: what the last layers give is what the run recorded."""
    chosen = model("moshi_d1", backend)
    trace = run(chosen)
    seen = probe_model(chosen, trace, "language model", 4)
    cfg = chosen.config
    for layer in range(cfg.transformer.num_layers):
        for name in ("norm1", "self_attn.in_projs.0", "self_attn.attention", "self_attn.out_projs.0", "norm2", "gating.linear_out"):
            assert f"transformer.layers.{layer}.{name}" in seen
    np.testing.assert_array_equal(seen["out_norm"], trace.columns["hidden"][4])
    np.testing.assert_array_equal(seen["text_linear"], trace.columns["text_logits"][4])
    for k in range(cfg.dep_q):
        np.testing.assert_array_equal(seen[f"codebook {k}: linears.{k}"], trace.columns["audio_logits"][4, k])
    heard = probe_model(chosen, trace, "decoder", 4)
    np.testing.assert_array_equal(list(heard.values())[-1].astype(np.float32), trace.columns["pcm_out"][4])
    codes = [int(value[0]) for name, value in probe_model(chosen, trace, "encoder", 4).items() if name.endswith("_codebook")]
    assert codes == trace.columns["codes_in"][4].tolist()


@pytest.mark.parametrize("preset", ["greedy", "kyutai-pytorch-server", "kyutai-mlx-run"])
def test_the_first_frame_as_each_program_steps_it(preset):
    """Steps are found whether the first frame was stepped once, twice, or forgotten by the codec."""
    chosen = model("moshi_d1")
    trace = run(chosen, preset=preset)
    for frame in (0, 2):
        np.testing.assert_array_equal(
            probe_model(chosen, trace, "language model", frame)["out_norm"], trace.columns["hidden"][frame]
        )
        seen = probe_model(chosen, trace, "encoder", frame)
        assert [int(v[0]) for name, v in seen.items() if name.endswith("_codebook")] == trace.columns["codes_in"][frame].tolist()


@pytest.mark.parametrize(
    ("file", "tensor", "part", "layer"),
    [
        ("model.safetensors", "transformer.layers.1.gating.linear_out", "language model", "transformer.layers.1.gating.linear_out"),
        ("model.safetensors", "text_linear", "language model", "text_linear"),
        ("model.safetensors", "linears.3", "language model", "codebook 3: linears.3"),
        ("mimi.safetensors", "decoder.model.0.conv.conv", "decoder", "decoder.model.0.conv.conv"),
    ],
)  # fmt: skip
def test_a_damaged_tensor_is_named(tmp_path, file, tensor, part, layer):
    good, bad = model("moshi_d1"), damaged(tmp_path / "bad", file, f"{tensor}.weight")
    found = compare_sides(Side("a", run(good), good), Side("b", run(bad), bad), 1e-4)
    assert found.kind == "a different computation"
    assert [(seen.part, seen.first) for seen in found.layers] == [(part, layer)]
    assert layer in found.layers[0].finding and "layers before it agree within" in found.layers[0].finding


def test_a_damaged_encoder_is_no_tie(tmp_path):
    tensor = "encoder.model.0.conv.conv.weight"
    good, bad = model("moshi_d1"), damaged(tmp_path / "bad", "mimi.safetensors", tensor)
    a, b = run(good), run(bad)
    found = compare_sides(Side("a", a, good), Side("b", b, bad), 1e-4)
    assert found.first.boundary == "codes_in" and found.kind == "a different computation" and "no tie" in found.why
    assert found.layers[0].first == "encoder.model.0.conv.conv" and "the first there is" in found.layers[0].finding
    # The same codes would be a tie for somebody who calls that much rounding.
    assert compare_sides(Side("a", a, good), Side("b", b, bad), found.nearest.turn * 1.01).kind in ("a tie", "a different input")


def test_another_rope_is_found_in_the_attention(tmp_path, clearline, hello):
    """A quirk in the configuration, no tensor: the two projections agree, what attention makes of them does not."""
    folder = copy_checkpoint("moshi_d1", tmp_path / "halves")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"positional_embedding": "rope_concat"}))
    answer = clearline("compare", "run:onnx@greedy", "run:onnx@greedy", "-i", hello, "-m", MODEL, "--model-b", folder, "--json")
    report = json.loads(answer.out)
    assert answer.code == 1 and report["layers"][0]["first"] == "transformer.layers.0.self_attn.attention"
    assert report["layers"][0]["errors"]["transformer.layers.0.self_attn.in_projs.0"] == 0


def test_all_layers_on_request(clearline, hello):
    answer = clearline("compare", "run:onnx", "run:numpy64", "-i", hello, "-m", MODEL, "--layers")
    assert answer.code == 0 and answer.out.count("layers agree; the largest difference is") == 3
    assert "layers agree" not in clearline("compare", "run:onnx", "run:numpy64", "-i", hello, "-m", MODEL).out
    assert "takes two sides" in clearline("compare", hello, hello, "--layers").out


def test_how_far_a_code_is_from_its_neighbour():
    """Moving the residual by `turn` towards the other code's row makes the two equally near: the definition, by hand."""
    chosen = model("moshi_d1")
    codec, pcm = chosen.mimi, speech(3).reshape(-1, 1920)
    stream = codec.stream(8)
    codes = np.stack([stream.encode(frame) for frame in pcm])[-1]
    other = codes.copy()
    other[0] = (codes[0] + 5) % codec.cfg.bins
    near = nearest_code(codec, pcm, codes, other)
    assert (near.codebook, near.frame, near.nearest, near.code_b) == (0, 2, codes[0], other[0])
    latents = codec.stream(1)
    x = [latents.encode_latent(frame) for frame in pcm][-1]
    x = codec.weights["quantizer.rvq_first.input_proj.weight"].dense(float)[..., 0] @ x
    book = codec.weights["quantizer.rvq_first.vq.layers.0._codebook.embedding"].dense(float)
    towards = book[other[0]] - book[codes[0]]
    moved = x + near.turn * np.linalg.norm(x) * towards / np.linalg.norm(towards)
    assert np.linalg.norm(moved - book[other[0]]) == pytest.approx(np.linalg.norm(moved - book[codes[0]]), rel=1e-6)
    deeper = codes.copy()
    deeper[5] = (codes[5] + 1) % codec.cfg.bins
    assert (nearest_code(codec, pcm, codes, deeper).nearest, nearest_code(codec, pcm, codes, deeper).codebook) == (codes[5], 5)


def test_nothing_in_common():
    with pytest.raises(ClearlineError, match="no layer in common"):
        compare_layers("encoder", 0, {"a": np.ones(2)}, {"b": np.ones(2)})
    found = compare_layers("encoder", 0, {"a": np.ones(2), "c": np.ones(1)}, {"a": np.array([1, 1.5]), "b": np.ones(2)})
    assert found.first == "a" and found.errors == {"a": 0.5} and set(found.missing) == {"c", "b"}
    assert compare_layers("encoder", 0, {"a": np.ones(1)}, {"a": np.full(1, np.nan)}).first == "a"
