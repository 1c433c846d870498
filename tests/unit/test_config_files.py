"""Configuration files in Kyutai's layout: whatever a value is damaged to, the answer is a ConfigError that names the key."""

import copy
import json

import pytest
from helpers.checkpoints import CASES, DATA

from clearline.config.kyutai import MOSHI_7B, parse_checkpoint, parse_mimi
from clearline.errors import ConfigError

LM = {case: json.loads((DATA / case / "config.json").read_text()) for case in CASES}
MIMI = json.loads((DATA / "moshi_d1" / "mimi_config.json").read_text())
JUNK = (None, True, False, 0, -1, 3.7, float("nan"), 10**30, "", "x", [], ["x"], [1, [2]], {}, {"x": 1})


def paths(raw: dict, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of nested objects."""
    found = []
    for key, value in raw.items():
        found.append((*prefix, key))
        if isinstance(value, dict):
            found += paths(value, (*prefix, key))
    return found


def damaged(raw: dict, path: tuple[str, ...], value) -> dict:
    raw = copy.deepcopy(raw)
    inner = raw
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return raw


@pytest.mark.parametrize("case", ["moshi_d1", "schedule", "stt", "odd"])
def test_junk_in_any_key_of_config_json_is_a_config_error_or_harmless(case):
    for path in paths(LM[case]):
        for junk in JUNK:
            try:
                parse_checkpoint(damaged(LM[case], path, junk))
            except ConfigError as error:
                assert str(error)
            except Exception as error:
                pytest.fail(f"{'.'.join(path)} = {junk!r} gives {type(error).__name__}: {error}")


def test_junk_in_any_key_of_a_mimi_config_is_a_config_error_or_harmless():
    for path in paths(MIMI):
        for junk in JUNK:
            try:
                parse_mimi(damaged(MIMI, path, junk))
            except ConfigError as error:
                assert str(error)
            except Exception as error:
                pytest.fail(f"{'.'.join(path)} = {junk!r} gives {type(error).__name__}: {error}")


@pytest.mark.parametrize("junk", [None, 3, "text", [], [1]])
def test_a_file_that_is_no_object(junk):
    with pytest.raises(ConfigError, match="expected an object"):
        parse_checkpoint(junk)
    with pytest.raises(ConfigError, match="expected an object"):
        parse_mimi(junk)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("dim",), "32", ("dim", "'32'", "whole number")),
        (("delays",), [0, 1], ("delays", "2", "17")),
        (("positional_embedding",), "alibi", ("'alibi'", "rope")),
        (("gating",), "swish", ("'swish'", "silu")),
        (("colour",), "blue", ("unknown", "colour")),
        (("lm_gen_config", "temp"), "hot", ("temp", "'hot'", "number")),
        (("lm_gen_config", "temp"), -1, ("temperature", "-1")),
        (("depformer_num_heads",), 3, ("16", "3")),
        (("context",), None, ("context",)),
    ],
)
def test_messages_name_the_key_the_value_and_what_would_be_right(path, value, words):
    with pytest.raises(ConfigError) as caught:
        parse_checkpoint(damaged(LM["moshi_d1"], path, value))
    for word in words:
        assert word in str(caught.value)


def test_missing_keys_are_named():
    raw = copy.deepcopy(LM["moshi_d1"])
    del raw["num_layers"]
    with pytest.raises(ConfigError, match="num_layers"):
        parse_checkpoint(raw)
    with pytest.raises(ConfigError, match="seanet"):
        parse_mimi({"sample_rate": 24000})


@pytest.mark.parametrize("case", CASES)
def test_the_golden_configs_are_read_as_their_files_say(case):
    raw, config = LM[case], parse_checkpoint(LM[case]).lm
    assert (config.n_q, config.dep_q, config.card, config.text_card) == (raw["n_q"], raw["dep_q"], raw["card"], raw["text_card"])
    assert list(config.delays) == raw["delays"]
    assert (config.transformer.dim, config.transformer.context) == (raw["dim"], raw["context"])
    assert config.transformer.max_period == raw["max_period"]
    if raw["dep_q"]:
        assert config.depformer is not None and config.depformer.transformer.dim == raw["depformer_dim"]


def test_the_7b_without_a_config_file():
    """FACTS.md: 32 layers of 4096, context 3000, delays of 1, depformer 6 layers of 1024 with weights per step."""
    config = parse_checkpoint(MOSHI_7B).lm
    assert config.transformer.ffn_hidden == (11264,) and config.transformer.head_dim == 128
    assert config.depformer is not None
    dep = config.depformer.transformer
    assert (dep.dim, dep.num_layers, dep.num_heads, dep.steps, set(dep.ffn_hidden)) == (1024, 6, 16, 8, {2816})
