"""Every rule a configuration must keep: breaking it names the value and what would be right."""

from dataclasses import replace

import pytest

from clearline import GenerationConfig, Sampling
from clearline.config import DepformerConfig, LMConfig, MimiConfig, TransformerConfig
from clearline.config.kyutai import official_mimi
from clearline.config.transformer import gated_hidden
from clearline.errors import ConfigError

SMALL = TransformerConfig(dim=8, num_heads=2, num_layers=1, ffn_hidden=(16,), context=4)
DEP = DepformerConfig(SMALL)
LM = LMConfig(SMALL, DEP, n_q=4, dep_q=2, card=16, text_card=32, text_card_out=32, delays=(0, 0, 1, 0, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, "dim is 0"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"context": 0}, "context is 0"),
        ({"frame_rows": 0}, "frame_rows is 0"),
        ({"frame_rows": 5, "context": 4}, "context is 4, less than the 5 rows"),
        ({"num_heads": 3}, "not a multiple of num_heads 3"),
        ({"num_heads": 4, "num_kv_heads": 3}, "key/value heads 3"),
        ({"norm": "batch"}, "norm 'batch'.*known: layer_norm"),
        ({"position": "alibi"}, "'alibi'.*known: rope"),
        ({"gating": "swish"}, "'swish'.*known: silu"),
        ({"num_heads": 8, "num_kv_heads": 8}, "even head dimension, got 1"),
        ({"steps": 3, "gating": "silu", "ffn_hidden": (16,) * 3, "schedule": (0, 1)}, "2 entries for 3 steps"),
        ({"ffn_hidden": (16, 16)}, "2 feed-forward sizes were given for 1"),
        ({"steps": 3, "gating": "silu"}, "1 feed-forward sizes were given for 3"),
        ({"steps": 2, "ffn_hidden": (16, 16)}, "need a gated feed-forward"),
    ],
)
def test_transformer_rules(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **changes)


def test_transformer_derived_values():
    assert SMALL.num_kv_heads == 2 and SMALL.head_dim == 4 and SMALL.num_weights == 1
    per_step = replace(SMALL, steps=3, gating="silu", ffn_hidden=(16,) * 3)
    assert [per_step.weight_index(k) for k in range(3)] == [0, 1, 2]
    shared = replace(SMALL, steps=4, gating="silu", ffn_hidden=(16,) * 2, schedule=(0, 1, 1, 0))
    assert shared.num_weights == 2 and [shared.weight_index(k) for k in range(4)] == [0, 1, 1, 0]


def test_gated_hidden_of_the_released_models():
    """FACTS.md: 2/3 of hidden_scale * dim, so 11264 in the 7B; a feed-forward of exactly 4 dim means 21/8 dim (LLaMA's)."""
    assert gated_hidden(4096, int(4.125 * 4096)) == 11264
    assert gated_hidden(1024, 4224) == 2816
    assert gated_hidden(1024, 4096) == 2688


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_q": 0, "delays": (0,), "dep_q": 0, "depformer": None}, "n_q is 0"),
        ({"dep_q": 5}, r"dep_q is 5.*0..n_q = 4"),
        ({"dep_q": -1}, "dep_q is -1"),
        ({"dep_q": 0}, "must not have a depformer"),
        ({"depformer": None}, "must have a depformer"),
        ({"delays": (0, 0, 1)}, "3 entries.*need 5"),
        ({"delays": (0, 0, 1, 0, -1)}, "must not be negative"),
        ({"card": 0}, "card is 0"),
        ({"text_card": 0}, "text_card is 0"),
        ({"text_card_out": 0}, "text_card_out is 0"),
        ({"text_card_out": 34}, "text_card_out is 34.*cannot read.*text_card = 32"),
    ],
)
def test_lm_rules(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(LM, **changes)


def test_lm_derived_values():
    assert (LM.streams, LM.user_streams, LM.max_delay) == (5, 2, 1)
    assert LM.initial_row == (32, 16, 16, 16, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_mode": "reflect"}, "'reflect'.*constant, replicate"),
        ({"ratios": (7, 6, 5, 4)}, "hop 840.*24000 Hz"),
        ({"frame_rate": 13.0}, "at 13.0 Hz"),
        ({"n_q": 1}, "more codebooks"),
        ({"n_q_semantic": 0}, "more codebooks"),
        ({"n_q_semantic": 32}, "more codebooks"),
    ],
)
def test_mimi_rules(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(MimiConfig(), **changes)


def test_a_rate_that_the_hop_does_not_divide():
    """Samples a frame must be whole steps of the encoder, not samples a second: 22 050 Hz / 1920 = 11.484375 Hz, exactly."""
    cfg = replace(MimiConfig(), sample_rate=22_050, frame_rate=11.484375)
    assert (cfg.frame_size, cfg.resample_stride) == (1920, 2)


def test_the_released_codec():
    """24 kHz, 1920 samples a frame, 25 Hz before the last stride of 2; 8 layers of 512, context 250."""
    cfg = official_mimi()
    assert (cfg.frame_size, cfg.hop, cfg.resample_stride, cfg.n_q, cfg.bins, cfg.codebook_dim) == (1920, 960, 2, 32, 2048, 256)
    transformer = cfg.transformer
    assert transformer is not None
    assert (transformer.dim, transformer.num_layers, transformer.num_heads, transformer.context) == (512, 8, 8, 250)
    assert transformer.layer_scale and transformer.ffn_hidden == (2048,) and transformer.frame_rows == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -0.1}, r"temperature is -0.1; it must lie in 0..100"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_p": 1.1}, r"top-p is 1.1; it must lie in 0..1"),
        ({"min_p": -1.0}, "min-p is -1"),
        ({"repetition_penalty": 0.0}, "repetition penalty is 0"),
        ({"padding_bonus": 1e4}, "padding bonus"),
        ({"top_k": -1}, "top-k is -1; it must be a whole number"),
        ({"top_k": 2**31}, "top-k is 2147483648"),
        ({"top_k": 2.5}, "top-k is 2.5"),
        ({"top_k": True}, "top-k is True"),
        ({"repetition_context": -1}, "repetition context is -1"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
    ],
)
def test_sampling_rules(changes, message):
    with pytest.raises(ConfigError, match=message):
        Sampling(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, r"seed is -1; it must be a whole number in 0..2\^64-1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": True}, "seed is True"),
        ({"acoustic_delay": -1}, "acoustic delay is -1"),
        ({"acoustic_delay": 65}, "acoustic delay is 65"),
        ({"first_frame": "thrice"}, "first_frame is 'thrice'.*once, twice, restart"),
        ({"user_offset": 2}, "user_offset is 2.*0, 1"),
        ({"guidance": -1}, "guidance is -1; it must lie in 0..100"),
    ],
)
def test_generation_rules(changes, message):
    with pytest.raises(ConfigError, match=message):
        GenerationConfig(**changes)


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
def test_any_64_bit_seed(seed):
    assert GenerationConfig(seed=seed).seed == seed
