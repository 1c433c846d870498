"""Configurations that are not Kyutai's config.json: moshi-core's TOML, moshi-backend's JSON, names, transformers."""

import copy
import json
import shutil
import tomllib

import pytest
from helpers.checkpoints import DATA, copy_checkpoint
from helpers.config_texts import BACKEND_JSON, S2ST_1B

from clearline.checkpoint import open_checkpoint
from clearline.config.huggingface import parse_transformers_mimi, parse_transformers_moshi
from clearline.config.kyutai import MOSHI_7B, parse_checkpoint
from clearline.config.named import MODEL_NAMES, named_model
from clearline.config.rust import parse_rust, read_backend, read_toml
from clearline.errors import CheckpointError, ConfigError

JUNK = (None, True, -1, 3.7, float("nan"), 10**30, "", "x", [], [1, [2]], {}, {"x": 1})
HF = json.loads((DATA / "formats/transformers/config.json").read_text())


def test_the_s2st_toml(tmp_path):
    """What the file says, and what moshi-cli adds to it: delay 2 on every acoustic codebook."""
    path = tmp_path / "s2st-1b.toml"
    path.write_text(S2ST_1B)
    model = read_toml(path)
    lm = model.lm
    assert (lm.transformer.dim, lm.transformer.num_layers, lm.transformer.ffn_hidden) == (2048, 16, (5632,))
    assert (lm.text_card, lm.text_card_out, lm.card, lm.n_q, lm.dep_q) == (48000, 48000, 2048, 16, 8)
    assert lm.transformer.max_period == 100_000 and lm.transformer.norm == "rms_norm_f32"
    assert lm.delays == (0, 0, *[2] * 7, 0, *[2] * 7) and model.conditioners == ("description",)
    assert lm.depformer is not None and lm.depformer.transformer.ffn_hidden == (2816,) * 8
    # The same network as MLX's config1b_202412, which adds no conditioner.
    found = named_model("mlx:config1b_202412")
    assert found is not None
    assert (lm.transformer, lm.delays) == (found[1].transformer, found[1].delays)


def test_a_folder_with_a_toml_and_no_json(tmp_path):
    (tmp_path / "s2st-1b.toml").write_text(S2ST_1B)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.source == "s2st-1b.toml" and checkpoint.config.lm.text_card == 48000
    assert checkpoint.config.model_type == "hibiki" and checkpoint.config.conditioner is not None
    other = S2ST_1B.replace("conditioners.description", "conditioners.speaker")
    (tmp_path / "s2st-1b.toml").write_text(other)
    with pytest.raises(ConfigError, match="cannot run conditioners"):
        open_checkpoint(tmp_path).lm_weights()


def test_the_backend_json(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(BACKEND_JSON)
    files = read_backend(path)
    assert (files.mimi_num_codebooks, files.hf_repo, files.acoustic_delay) == (8, "kyutai/moshiko-candle-bf16", None)
    path.write_text(json.dumps(json.loads(BACKEND_JSON) | {"lm_config": {"acoustic_delay": 1}}))
    assert read_backend(path).acoustic_delay == 1
    path.write_text(json.dumps(json.loads(BACKEND_JSON) | {"colour": "blue"}))
    with pytest.raises(ConfigError, match="colour"):
        read_backend(path)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_name_is_known_with_and_without_its_implementation(name):
    found = named_model(name)
    assert found is not None and found[0] == name
    assert named_model(name.partition(":")[2]) is not None


def test_names_with_arguments():
    found = named_model("v0_1_streaming(8)")
    assert found is not None and found[0] == "rust:v0_1_streaming(8)"
    assert (found[1].n_q, found[1].dep_q, found[1].delays[2]) == (16, 8, 2)
    both = named_model("rust:v0_1_streaming(16)")
    assert both is not None and (both[1].dep_q, both[1].user_streams) == (16, 0)
    assert named_model("v0_1_streaming(8") is None and named_model("nonsense") is None
    with pytest.raises(ConfigError, match=r"1..16"):
        named_model("v0_1_streaming(99)")
    with pytest.raises(ConfigError, match="cross-attention"):
        named_model("rust:tts_202501")


def test_the_released_7b_is_the_same_network_in_three_implementations():
    """They differ in the delays alone: MLX's and PyTorch's say 1, moshi-core's generator 2."""
    ours = parse_checkpoint(MOSHI_7B).lm
    for name in ("pytorch:moshi_7b_202409", "mlx:config_v0_1", "rust:v0_1_streaming(8)"):
        found = named_model(name)
        assert found is not None
        assert found[1].transformer == ours.transformer and found[1].depformer == ours.depformer, name
        assert (found[1].delays == ours.delays) == (not name.startswith("rust")), name


def test_a_folder_without_any_configuration_is_the_7b(tmp_path):
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config.lm.transformer.dim == 4096 and "assumed" in checkpoint.source


def test_transformers_configs():
    config, mimi = parse_transformers_moshi(HF)
    assert (config.lm.dep_q, config.lm.n_q, config.lm.delays, mimi.bins) == (2, 4, (0, 0, 1, 0, 1), 16)
    with pytest.raises(ConfigError, match="bert"):
        parse_transformers_moshi(HF | {"model_type": "bert"})
    with pytest.raises(ConfigError, match="rope_type"):
        parse_transformers_moshi(HF | {"rope_parameters": {"rope_type": "yarn"}})


@pytest.mark.parametrize("section", ["top", "transformer", "depformer", "depformer.transformer"])
def test_junk_in_a_toml_is_a_config_error_or_harmless(section):
    raw = tomllib.loads(S2ST_1B)
    inner = raw if section == "top" else raw[section.partition(".")[0]]
    inner = inner["transformer"] if section == "depformer.transformer" else inner
    for key in list(inner):
        for junk in JUNK:
            changed = copy.deepcopy(raw)
            target = changed if section == "top" else changed[section.partition(".")[0]]
            (target["transformer"] if section == "depformer.transformer" else target)[key] = junk
            try:
                parse_rust(changed, "test.toml")
            except ConfigError as error:
                assert "test.toml" in str(error) or str(error)


@pytest.mark.parametrize("section", ["top", "depth_decoder_config", "audio_encoder_config"])
def test_junk_in_a_transformers_config_is_a_config_error_or_harmless(section):
    for key in list(HF if section == "top" else HF[section]):
        for junk in JUNK:
            changed = copy.deepcopy(HF)
            (changed if section == "top" else changed[section])[key] = junk
            try:
                parse_transformers_moshi(changed)
            except ConfigError as error:
                assert str(error)
    with pytest.raises(ConfigError, match="use_conv_shortcut"):
        parse_transformers_mimi({"use_conv_shortcut": True})


@pytest.mark.parametrize("kind", ["vision", "tts"])
def test_types_that_cannot_run_say_so_and_can_be_inspected(kind, tmp_path):
    folder = copy_checkpoint("moshi_d1", tmp_path)
    raw = json.loads((folder / "config.json").read_text()) | {"model_type": kind}
    (folder / "config.json").write_text(json.dumps(raw))
    checkpoint = open_checkpoint(folder)
    with pytest.raises(ConfigError, match=f"model_type '{kind}'"):
        checkpoint.lm_weights()
    assert checkpoint.lm_tensors()


def test_a_type_whose_network_is_described_otherwise():
    with pytest.raises(ConfigError, match=r"cannot run model_type 'tts'.*context is missing"):
        parse_checkpoint({"model_type": "tts"})


def test_files_named_elsewhere(tmp_path):
    """hf:// names are looked for in the folder by their last part; two candidates are not guessed between."""
    folder = copy_checkpoint("moshi_d1", tmp_path)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"mimi_name": "hf://kyutai/moshiko/mimi.safetensors"}))
    assert open_checkpoint(folder).mimi_path.name == "mimi.safetensors"
    (folder / "config.json").write_text(json.dumps(raw | {"mimi_name": "hf://kyutai/moshiko/elsewhere.safetensors"}))
    with pytest.raises(CheckpointError, match=r"huggingface.co/kyutai/moshiko"):
        open_checkpoint(folder)
    (folder / "config.json").write_text(json.dumps(raw | {"moshi_name": "gone.safetensors"}))
    assert open_checkpoint(folder).lm_path.name == "model.safetensors"
    shutil.copy(folder / "model.safetensors", folder / "model.q8.safetensors")
    with pytest.raises(CheckpointError, match=r"name one in config.json"):
        open_checkpoint(folder)
