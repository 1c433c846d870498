"""Hibiki against Kyutai's own command-line loop: condition, guidance, end of input, end of text (oracle/make_hibiki.py)."""

import json
import shutil

import numpy as np
import pytest
from helpers.checkpoints import BACKENDS, DATA
from safetensors.numpy import load_file

import clearline
from clearline.checkpoint import open_checkpoint
from clearline.checkpoint.convert import convert
from clearline.errors import CheckpointError, ConfigError, SessionError

HIBIKI = DATA / "formats/hibiki"
GOLDEN = load_file(HIBIKI / "pipeline.safetensors")


@pytest.fixture(scope="module", params=BACKENDS)
def model(request):
    return clearline.load(HIBIKI, backend=request.param)


@pytest.mark.parametrize("guidance", [1, 3])
def test_logits_and_tokens_for_the_inputs_kyutai_fed(model, guidance):
    generator = model.generator("greedy", guidance=float(guidance))
    expected = GOLDEN[f"text_logits_{guidance}"]
    for t, codes in enumerate(GOLDEN[f"inputs_{guidance}"]):
        frame = generator.step(codes)
        assert np.abs(frame.text_logits - expected[t]).max() <= 1e-4 * np.abs(expected).max(), f"step {t}"
        tokens = GOLDEN[f"tokens_{guidance}"][t]
        if frame.codes is None:
            assert (tokens == -2).all()
        else:
            np.testing.assert_array_equal(frame.codes, tokens, f"step {t}")


@pytest.mark.parametrize("guidance", [1, 3])
def test_the_whole_run(model, guidance):
    """From samples to the end of text: the same frames in, the same tokens out, the same length."""
    result = model.run(GOLDEN["pcm"], 24_000, "greedy", guidance=float(guidance))
    inputs, tokens = GOLDEN[f"inputs_{guidance}"], GOLDEN[f"tokens_{guidance}"]
    np.testing.assert_array_equal(result.codes_in.T, inputs[1:])  # Kyutai's loop steps the first frame twice
    spoken = tokens[(tokens != -2).all(1)]
    np.testing.assert_array_equal(result.text_tokens, spoken[:, 0])
    np.testing.assert_array_equal(result.codes_out.T, spoken[:, 1:])
    assert result.text_tokens[-1] == 2 and result.pcm.size == GOLDEN[f"samples_{guidance}"]


def test_the_end_of_text_is_read_back_as_padding():
    weights = open_checkpoint(HIBIKI).lm_weights()
    table = weights["text_emb.weight"].data
    np.testing.assert_array_equal(table[2], table[3])


def test_conditions_differ_and_unknown_ones_are_refused():
    checkpoint = open_checkpoint(HIBIKI)
    best, worst = (checkpoint.lm_weights(value)["text_emb.weight"].data for value in ("very_good", "very_bad"))
    assert np.abs(best - worst).max() > 0.01
    with pytest.raises(ConfigError, match="very_good"):
        checkpoint.lm_weights("splendid")


def test_guidance_of_an_unconditioned_model_is_refused():
    with pytest.raises(SessionError, match="conditions"):
        clearline.load(DATA / "moshi_d1").generator("greedy", guidance=3.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "moshi"}, "conditioners"),
        ({"fuser": {"cross": ["description"]}}, "conditioners"),
        ({"conditioners": {"speaker": {"type": "tensor", "tensor": {"dim": 8}}}, "fuser": {"sum": ["speaker"]}}, "conditioners"),
    ],
)
def test_other_arrangements_are_refused(change, message, tmp_path):
    folder = shutil.copytree(HIBIKI, tmp_path / "model")
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | change))
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(folder).lm_weights()


def test_a_conditioner_of_another_shape_is_named(tmp_path):
    folder = shutil.copytree(HIBIKI, tmp_path / "model")
    raw = json.loads((folder / "config.json").read_text())
    raw["conditioners"]["description"]["lut"]["n_bins"] = 31
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=r"description has shapes \(8, 8\)"):
        open_checkpoint(folder).lm_weights()


def test_a_converted_hibiki_is_still_conditioned(tmp_path):
    """Nothing is folded into the file: converted, it has the conditioner, and computes the same."""
    convert(open_checkpoint(HIBIKI), tmp_path, "f32")
    found, expected = open_checkpoint(tmp_path), open_checkpoint(HIBIKI)
    assert found.config.conditioner == expected.config.conditioner
    for value in ("very_good", "very_bad"):
        a, b = found.lm_weights(value), expected.lm_weights(value)
        for name in b:
            np.testing.assert_array_equal(a[name].data, b[name].data)
