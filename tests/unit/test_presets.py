"""The presets against the table of official defaults (FACTS.md, read in kyutai-labs/moshi)."""

import pytest

from clearline import PRESETS, GenerationConfig, Sampling, preset
from clearline.app import preset_name
from clearline.errors import ConfigError

# name: text (T, top-k, top-p), audio (T, top-k, top-p), seed, user offset, first frame, forced acoustic delay
TABLE = {
    "kyutai-pytorch": ((0.7, 25, 0), (0.8, 250, 0), 299792458, 0, "twice", None),
    "kyutai-pytorch-run": ((0.7, 25, 0), (0.8, 250, 0), 4242, 0, "twice", None),
    "kyutai-pytorch-server": ((0.7, 25, 0), (0.8, 250, 0), 42424242, 0, "restart", None),
    "kyutai-mlx-local": ((0.8, 0, 0.95), (0.8, 0, 0.95), 299792458, 1, "once", None),
    "kyutai-mlx-run": ((0.8, 25, 0), (0.8, 250, 0), 299792458, 1, "once", None),
    "kyutai-rust-cli": ((0.8, 250, 0), (0.8, 250, 0), 299792458, 1, "once", 2),
    "kyutai-rust-backend": ((0.8, 250, 0), (0.8, 250, 0), 299792458, 1, "once", 2),
    "nvidia-personaplex": ((0.7, 25, 0), (0.8, 250, 0), 299792458, 1, "once", None),
    "greedy": ((0.0, 0, 0), (0.0, 0, 0), 299792458, 0, "twice", None),
}


def test_the_table_is_complete():
    assert set(PRESETS) == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_a_preset_is_what_its_program_does(name):
    config = preset(name)
    text, audio = ((how.temperature, how.top_k, how.top_p) for how in (config.text, config.audio))
    assert (text, audio, config.seed, config.user_offset, config.first_frame, config.acoustic_delay) == TABLE[name]
    for how in (config.text, config.audio):
        assert (how.min_p, how.repetition_penalty, how.padding_bonus) == (0, 1, 0)


def test_only_rust_pads_early_acoustic_tokens_and_only_pytorch_delays_text():
    for name, config in PRESETS.items():
        assert config.pad_early_acoustic == ("rust" in name)
        assert config.early_text == ("rust" in name or "mlx" in name)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match="kyutai-rust-cli"):
        preset("kyutai")


def test_settings_are_named_after_their_preset():
    assert preset_name(preset("kyutai-mlx-local")) == "kyutai-mlx-local"
    assert preset_name(preset("kyutai-pytorch-run")) == "kyutai-pytorch-run"
    assert preset_name(GenerationConfig(seed=1)) == "kyutai-pytorch"
    assert preset_name(GenerationConfig(text=Sampling(temperature=0.71))) == "custom"
