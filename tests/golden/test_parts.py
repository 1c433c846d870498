"""Half a model: a codec without a language model, and a language model without a codec and a tokenizer."""

import numpy as np
import pytest
from helpers.checkpoints import DATA, GREEDY, copy_checkpoint, golden

import clearline
from clearline.errors import CheckpointError, ConfigError

LONE = {
    "as kyutai/mimi is published": {"model.safetensors": "mimi_hf.safetensors", "config.json": "mimi_hf_config.json"},
    "Kyutai's configuration as config.json": {"tokenizer-1.safetensors": "mimi.safetensors", "config.json": "mimi_config.json"},
    "Kyutai's configuration beside it": {"mimi.safetensors": "mimi.safetensors", "mimi_config.json": "mimi_config.json"},
}


@pytest.mark.parametrize("files", LONE.values(), ids=LONE.keys())
def test_a_codec_without_a_language_model(files, tmp_path):
    """By its folder and by its file; the first of the files is that of the weights."""
    for name, source in files.items():
        (tmp_path / name).write_bytes((DATA / "delay2" / source).read_bytes())
    g = golden("delay2")
    for path in (tmp_path, tmp_path / next(iter(files))):
        np.testing.assert_array_equal(clearline.load_codec(path).encode(g["pcm"]), g["codes_stream"])


def test_the_codec_file_of_a_model(tmp_path):
    """The configuration of the model that it belongs to names the codec's."""
    g, folder = golden("delay2"), copy_checkpoint("delay2", tmp_path)
    np.testing.assert_array_equal(clearline.load_codec(folder / "mimi.safetensors").encode(g["pcm"]), g["codes_stream"])


def test_a_folder_that_lacks_its_codec_says_which_file(tmp_path):
    (tmp_path / "config.json").write_bytes((DATA / "delay2" / "mimi_config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"mimi.safetensors does not exist"):
        clearline.load_codec(tmp_path)


@pytest.fixture
def language_model(tmp_path):
    """The delay2 checkpoint with nothing of its codec and no tokenizer."""
    folder = copy_checkpoint("delay2", tmp_path)
    for name in ("mimi.safetensors", "mimi_config.json", "tokenizer.model"):
        (folder / name).unlink()
    return folder


def test_a_language_model_without_a_codec(language_model):
    g = golden("delay2")
    generator = clearline.load(language_model, lm_only=True).generator(GREEDY)
    steps = [generator.step(codes) for codes in g["user_codes"][:30]]
    np.testing.assert_array_equal([step.text_token for step in steps], g["text_token"][:30])
    np.testing.assert_array_equal([step.audio_tokens for step in steps], g["audio_tokens"][:30])


def test_what_a_language_model_alone_cannot_do(language_model):
    with pytest.raises(CheckpointError, match=r"mimi_config.json does not exist"):
        clearline.load(language_model)
    model = clearline.load(language_model, lm_only=True)
    for call in (model.session, lambda: model.run(np.zeros(1920, np.float32), 24_000), lambda: model.tokenizer):
        with pytest.raises(ConfigError, match=r"lm_only.*no (codec|tokenizer).*generator"):
            call()
