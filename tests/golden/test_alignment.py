"""The alignment quirks of Kyutai's other implementations, against what those implementations say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import clearline
from clearline import Sampling

DATA = Path(__file__).parent / "data"
CASES = sorted(path.parent.name for path in DATA.glob("*/golden_mlx.safetensors"))


def test_there_are_cases_of_both_delays():
    assert {"moshi_d1", "delay2"} <= set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_mlx_preset_is_moshi_mlx(case):
    """Greedy, step for step: text as sampled, audio un-delayed, as moshi_mlx's LmGen returned them."""
    g = load_file(DATA / case / "golden_mlx.safetensors")
    greedy = replace(clearline.preset("kyutai-mlx-local"), text=Sampling.greedy(), audio=Sampling.greedy())
    generator = clearline.load(DATA / case).generator(greedy)
    for t, codes in enumerate(g["user_codes"]):
        out = generator.step(codes)
        assert out.text_token == g["text_token"][t], t
        if (g["codes_out"][t] == -2).all():
            assert out.codes is None, t
        else:
            np.testing.assert_array_equal(out.codes[1:], g["codes_out"][t], str(t))


@pytest.mark.parametrize("case", CASES)
def test_the_canonical_alignment_is_another_one(case):
    """The quirk changes what is said: otherwise the test above would prove nothing."""
    g = load_file(DATA / case / "golden_mlx.safetensors")
    generator = clearline.load(DATA / case).generator("greedy")
    tokens = [generator.step(codes).text_token for codes in g["user_codes"]]
    assert tokens != g["text_token"].tolist()
