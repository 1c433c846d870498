"""Every backend against golden output of Kyutai's published packages (made by oracle/make_golden.py)."""

import json

import numpy as np
import pytest
from helpers.checkpoints import BACKENDS, CASES, DATA, GREEDY, assert_close, golden, model


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    return request.param


def test_there_are_cases():
    assert {"moshi_d1", "delay0", "delay2", "wide32", "schedule", "stt", "odd"} <= set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_greedy_generation(case, backend):
    """Tokens equal over hundreds of steps, far past the ring's wrap; logits and hidden at recorded frames."""
    g = golden(case)
    recorded = {int(frame): i for i, frame in enumerate(g["logit_frames"])}
    generator = model(case, backend).generator(GREEDY)
    for t, codes in enumerate(g["user_codes"]):
        out = generator.step(codes)
        if t in recorded:
            i = recorded[t]
            assert_close(out.hidden, g["hidden"][i], f"hidden at {t}")
            assert_close(out.text_logits, g["text_logits"][i], f"text logits at {t}")
            if "audio_logits" in g:
                assert_close(out.audio_logits, g["audio_logits"][i], f"audio logits at {t}")
            if "extra_heads" in g:
                assert_close(out.extra_heads, g["extra_heads"][i], f"extra heads at {t}")
        assert out.text_token == g["text_token"][t], f"text token at {t}"
        if "audio_tokens" in g:
            np.testing.assert_array_equal(out.audio_tokens, g["audio_tokens"][t], f"audio tokens at {t}")
        expected = g["out_codes"][t]
        if (expected == -2).all():
            assert out.codes is None, f"codes at {t}"
        else:
            np.testing.assert_array_equal(out.codes, expected, f"codes at {t}")


@pytest.mark.parametrize("prefix", ["forced", "text_forced"])
@pytest.mark.parametrize("case", CASES)
def test_teacher_forcing(case, prefix, backend):
    """`forced` forces text and audio; `text_forced` forces the text and lets the depformer answer greedily."""
    g = golden(case)
    recorded = {int(frame): i for i, frame in enumerate(g[f"{prefix}_logit_frames"])}
    generator = model(case, backend).generator(GREEDY)
    audio = g.get(f"{prefix}_audio")
    for t, codes in enumerate(g[f"{prefix}_user_codes"]):
        force_audio = audio[t] if prefix == "forced" and audio is not None else None
        out = generator.step(codes, int(g[f"{prefix}_text"][t]), force_audio)
        if t in recorded:
            i = recorded[t]
            assert_close(out.hidden, g[f"{prefix}_hidden"][i], f"hidden at {t}")
            assert_close(out.text_logits, g[f"{prefix}_text_logits"][i], f"text logits at {t}")
            if prefix == "text_forced" and f"{prefix}_audio_logits" in g:
                assert_close(out.audio_logits, g[f"{prefix}_audio_logits"][i], f"audio logits at {t}")
        if prefix == "text_forced" and audio is not None:
            np.testing.assert_array_equal(out.audio_tokens, audio[t], f"audio tokens at {t}")
        expected = g[f"{prefix}_out_codes"][t]
        if out.codes is not None:
            np.testing.assert_array_equal(out.codes, expected, f"codes at {t}")


@pytest.mark.parametrize("case", CASES)
def test_codec_stream(case, backend):
    """Frame by frame: codes and latents of Kyutai's streaming encoder, samples of its streaming decoder."""
    g = golden(case)
    codec = model(case, backend).mimi
    stream = codec.stream()
    latents = [stream.encode_latent(frame) for frame in g["pcm"].reshape(-1, codec.frame_size)]
    assert_close(np.stack(latents, 1), g["latent"], "latent")
    codes = codec.encode(g["pcm"])
    np.testing.assert_array_equal(codes, g["codes_stream"][: len(codes)])
    assert_close(codec.decode(g["codes_stream"]), g["pcm_stream"], "pcm")


@pytest.mark.parametrize("case", CASES)
def test_codec_prefixes(case, backend):
    """Fewer codebooks: the same codes, cut; and what Kyutai's decoder makes of the cut."""
    g = golden(case)
    codec = model(case, backend).mimi
    for name in [name for name in g if name.startswith("codes_stream_")]:
        k = int(name.rsplit("_", 1)[1])
        frames = g[f"pcm_stream_{k}"].size // codec.frame_size
        np.testing.assert_array_equal(codec.encode(g["pcm"], k), g[name])
        assert_close(codec.decode(g[name][:, :frames]), g[f"pcm_stream_{k}"], f"pcm of {k} codebooks")


@pytest.mark.parametrize("case", CASES)
def test_codec_sliding_window(case, backend):
    """With window="sliding": Kyutai's non-streaming encode and decode, which differ from its streaming past the context."""
    g = golden(case)
    codec = model(case, backend).mimi
    np.testing.assert_array_equal(codec.encode(g["pcm"], window="sliding"), g["codes_whole"])
    assert_close(codec.decode(g["codes_stream"], window="sliding"), g["pcm_whole"], "pcm")


@pytest.mark.parametrize("case", CASES)
def test_case_says_where_it_comes_from(case):
    facts = json.loads((DATA / case / "golden.json").read_text())
    assert facts["versions"]["moshi"] and facts["dtype"] == "float32"
