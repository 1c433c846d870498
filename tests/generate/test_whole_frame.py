"""A frame from sound to sound in one evaluation: what comes out is what encoder, language model and decoder say one by one."""

import shutil

import numpy as np
import pytest
from helpers.checkpoints import DATA, model, speech

mx = pytest.importorskip("mlx.core")

import clearline  # noqa: E402
from clearline import GenerationConfig, Sampling  # noqa: E402
from clearline.app import Model  # noqa: E402
from clearline.backends.mlx_devices import gpu  # noqa: E402
from clearline.backends.mlx_run import Mlx  # noqa: E402
from clearline.checkpoint import open_checkpoint  # noqa: E402
from clearline.errors import AudioError, SessionError  # noqa: E402
from clearline.generate import Session  # noqa: E402

FRAMES = 12
WARM = GenerationConfig(text=Sampling(0.9), audio=Sampling(0.9), seed=3)


def sessions(case: str, config) -> tuple[Session, Session]:
    """One whose frames are computed in one go, one that goes part by part."""
    loaded = model(case, "mlx/cpu")
    whole, parts = loaded.session(config), loaded.session(config)
    assert whole._whole is not None
    parts._whole = None
    return whole, parts


def assert_same(found, expected) -> None:
    assert (found.text_token, found.text) == (expected.text_token, expected.text)
    np.testing.assert_array_equal(found.codes_in, expected.codes_in)
    for a, b in ((found.codes_out, expected.codes_out), (found.pcm, expected.pcm)):
        assert (a is None) == (b is None)
        np.testing.assert_array_equal(a, b)
    for name in ("step", "row", "hidden", "text_logits", "audio_tokens", "audio_logits", "codes", "extra_heads"):
        np.testing.assert_array_equal(getattr(found.lm, name), getattr(expected.lm, name), err_msg=name)


@pytest.fixture
def evaluations(monkeypatch):
    """Every time the host waits for MLX, whichever way it does; weights are made before."""
    found: list[str] = []
    honest = mx.eval

    def counted(*arrays):
        found.append("eval")
        honest(*arrays)

    monkeypatch.setattr(mx, "eval", counted)
    return found


@pytest.mark.parametrize("case", ["moshi_d1", "delay2", "odd", "stt", "schedule"])
@pytest.mark.parametrize("preset", [None, "kyutai-mlx-local", "kyutai-rust-cli", "greedy"])
def test_the_same_bytes_as_part_by_part(case, preset):
    """Delays, offsets, early padding and the quirks of the first frame; and a recording's end."""
    whole, parts = sessions(case, model(case, "mlx/cpu").generation(preset, seed=5))
    for frame in speech(FRAMES).reshape(-1, 1920):
        assert_same(whole.step(frame), parts.step(frame))
    assert_same(whole.end_input(), parts.end_input())
    assert_same(whole.step(frame), parts.step(frame))


@pytest.mark.parametrize("case", ["moshi_d1", "stt"])
def test_one_evaluation_a_frame(case, evaluations, tmp_path):
    """Encoder, transformers, sampling, decoder, and what they leave for the next frame."""
    frames = speech(FRAMES).reshape(-1, 1920)
    with model(case, "mlx/cpu").session(WARM) as session:
        for t, frame in enumerate(frames):
            evaluations.clear()
            found = session.step(frame)
            if t > 3:  # programs are made and rings grow in the first ones
                assert evaluations == ["eval"], t
                assert (found.pcm is not None) == (case != "stt")
                states = [session._generator._state, session._generator._depth_state, *session._stream.states]
                assert_computed([leaf for state in states for leaf in state.values()], tmp_path)


def assert_computed(leaves: list, folder) -> None:
    """No graph of operations hangs on any of them."""
    for leaf in leaves:
        for array in (leaf.k, leaf.v) if hasattr(leaf, "k") else (leaf,):
            mx.export_to_dot(str(folder / "graph"), array)
            assert "->" not in (folder / "graph").read_text()


@pytest.mark.parametrize("wrong", [0, 1, 8], ids=["text", "first codebook", "last codebook"])
def test_after_a_wrong_guess_the_sound_is_that_of_the_right_tokens(wrong, monkeypatch):
    """The decoder has heard the wrong codes already; it goes back, and what follows is not touched either."""
    whole, parts = sessions("moshi_d1", WARM)
    honest = whole._whole._backend.now
    mistakes = []

    def mistaken(outputs, states):
        found = honest(outputs, states)
        if "pcm" in found and len(mistakes) % 2 == 0:
            found["guess"] = found["guess"].copy()
            found["guess"][wrong] = (found["guess"][wrong] + 1) % 200
            found["codes"] = (found["codes"] + 1) % 200
            found["pcm"] = np.full_like(found["pcm"], np.nan)
        mistakes.append("pcm" in found)
        return found

    class Mistaken:
        alone = staticmethod(whole._whole._backend.alone)
        now = staticmethod(mistaken)

    whole._whole._backend = Mistaken()
    for frame in speech(FRAMES).reshape(-1, 1920):
        found, expected = whole.step(frame), parts.step(frame)
        assert found.text_token == expected.text_token
        np.testing.assert_array_equal(found.lm.audio_tokens, expected.lm.audio_tokens)
        np.testing.assert_array_equal(found.codes_out, expected.codes_out)
        if expected.pcm is not None:
            np.testing.assert_allclose(found.pcm, expected.pcm, atol=1e-6)
    assert sum(mistakes) > FRAMES / 2


def test_forced_tokens():
    whole, parts = sessions("moshi_d1", model("moshi_d1", "mlx/cpu").generation("kyutai-rust-cli", seed=5))
    forced = [(None, None), (7, None), (None, [1, -2, 3, -2, 5, 6, 7, 8]), (9, [1] * 8), (None, None), (3, [-2] * 8), (None, None)]
    for frame, (text, audio) in zip(speech(len(forced)).reshape(-1, 1920), forced, strict=True):
        found, expected = whole.step(frame, text, audio), parts.step(frame, text, audio)
        assert (found.text_token, found.text) == (expected.text_token, expected.text)
        np.testing.assert_array_equal(found.lm.audio_tokens, expected.lm.audio_tokens)
        np.testing.assert_array_equal(found.codes_out, expected.codes_out)
        np.testing.assert_array_equal(found.pcm, expected.pcm)
        np.testing.assert_array_equal(np.isnan(found.lm.audio_logits), np.isnan(expected.lm.audio_logits))


def test_a_refused_frame_has_not_happened():
    whole, parts = sessions("moshi_d1", WARM)
    bad = np.full(1920, np.nan, np.float32)
    for frame in speech(4).reshape(-1, 1920):
        with pytest.raises(AudioError, match="NaN"):
            whole.step(bad)
        with pytest.raises(SessionError, match="1920 samples"):
            whole.step(frame[:-1])
        with pytest.raises(SessionError, match="forced text"):
            whole.step(frame, 100_000)
        assert_same(whole.step(frame), parts.step(frame))


def test_a_codec_in_float32_beside_a_model_in_half_precision():
    """Two backends, one evaluation."""
    half = clearline.load(DATA / "moshi_d1", backend="mlx/cpu/bfloat16")
    assert half.mimi.backend is not half.backend
    whole, parts = half.session(WARM), half.session(WARM)
    parts._whole = None
    for frame in speech(6).reshape(-1, 1920):
        assert_same(whole.step(frame), parts.step(frame))


@pytest.mark.skipif(gpu()[1] != "" and shutil.which("g++") is None, reason="on a CPU mx.compile needs g++")
def test_compiled_frames_are_the_same(evaluations):
    """`mx.compile`, as on a GPU: every part of a frame is compiled, and they still wait for each other uncomputed."""
    plain, compiled = (
        Model(open_checkpoint(DATA / "moshi_d1"), Mlx("cpu", compiled=compiled)).session(WARM) for compiled in (False, True)
    )
    for t, frame in enumerate(speech(6).reshape(-1, 1920)):
        expected = plain.step(frame)
        evaluations.clear()
        found = compiled.step(frame)
        assert t < 4 or evaluations == ["eval"]
        assert (found.text_token, found.pcm is None) == (expected.text_token, expected.pcm is None)
        np.testing.assert_array_equal(found.codes_in, expected.codes_in)
        np.testing.assert_array_equal(found.codes_out, expected.codes_out)
        for name in ("text_logits", "audio_logits"):
            np.testing.assert_allclose(getattr(found.lm, name), getattr(expected.lm, name), rtol=1e-4, atol=1e-5)
        if expected.pcm is not None:
            np.testing.assert_allclose(found.pcm, expected.pcm, atol=1e-5)
