"""Lanes of a Hibiki with guidance, two rows each, and of a PersonaPlex with its system prompt: as the sessions alone."""

import threading
from functools import cache

import numpy as np
import pytest
from helpers.checkpoints import DATA, model, speech
from safetensors.numpy import load_file

torch = pytest.importorskip("torch")

import clearline  # noqa: E402
from clearline import Sampling  # noqa: E402
from clearline.errors import ConfigError, SessionError  # noqa: E402
from clearline.generate.lane import LaneSession  # noqa: E402
from clearline.generate.persona import SILENCE, SINE, Persona, prompt  # noqa: E402

PERSONAPLEX = DATA / "formats/personaplex"
GOLDEN = load_file(DATA / "formats/hibiki/pipeline.safetensors")
FRAMES = 8


@cache
def loaded(name: str) -> clearline.Model:
    return clearline.load(DATA / "formats" / name, backend="torch")


def assert_same(found, expected) -> None:
    assert (found.text_token, found.text) == (expected.text_token, expected.text)
    np.testing.assert_array_equal(found.codes_in, expected.codes_in)
    np.testing.assert_array_equal(found.codes_out, expected.codes_out)
    assert (found.pcm is None) == (expected.pcm is None)
    if expected.pcm is not None:
        np.testing.assert_allclose(found.pcm, expected.pcm, atol=1e-5)
    if found.lm is not None:
        assert found.lm.step == expected.lm.step
        np.testing.assert_array_equal(found.lm.row, expected.lm.row)
        for name in ("hidden", "text_logits", "audio_logits"):
            np.testing.assert_allclose(getattr(found.lm, name), getattr(expected.lm, name), atol=2e-4)


# -- guidance ----------------------------------------------------------------------------------------------------------


def test_lanes_of_different_guidance_are_sessions_alone():
    """Strong, weak, none: in one batch, with the end of the input; and a lane that is taken again begins anew."""
    hibiki = loaded("hibiki")
    configs = [hibiki.generation(seed=i, guidance=strength) for i, strength in enumerate((3.0, 1.0, 0.5))]
    lanes = hibiki.lanes(4, guided=True)
    for _ in range(2):
        sessions = [lanes.session(config, details=True) for config in configs]
        alone = [hibiki.session(config) for config in configs]
        for t in range(FRAMES):
            for i, (lane, session) in enumerate(zip(sessions, alone, strict=True)):
                frame = speech(FRAMES, i).reshape(-1, 1920)[t]
                assert_same(lane.step(frame), session.step(frame))
        for lane, session in zip(sessions, alone, strict=True):
            assert_same(lane.end_input(), session.end_input())
            lane.close()


def test_guidance_in_a_lane_is_kyutais(monkeypatch):
    """The golden run of Kyutai's package, from samples to the end of text, as on CUDA, where a session is a lane."""
    hibiki = clearline.load(DATA / "formats/hibiki", backend="torch")
    monkeypatch.setattr(clearline.Model, "in_lanes", lambda self, config: True)
    assert isinstance(hibiki.session(guidance=3.0), LaneSession)
    result = hibiki.run(GOLDEN["pcm"], 24_000, "greedy", guidance=3.0)
    tokens = GOLDEN["tokens_3"]
    spoken = tokens[(tokens != -2).all(1)]
    np.testing.assert_array_equal(result.text_tokens, spoken[:, 0])
    np.testing.assert_array_equal(result.codes_out.T, spoken[:, 1:])


def test_guidance_without_lanes_for_it_is_refused():
    with pytest.raises(ConfigError, match=r"guidance 3 needs two rows .*guided=True"):
        loaded("hibiki").lanes(1, guided=False).session(loaded("hibiki").generation(guidance=3.0))
    with pytest.raises(ConfigError, match="guidance needs a model with conditions"):
        model("moshi_d1", "torch").lanes(1, guided=True)


# -- system prompts ----------------------------------------------------------------------------------------------------

VOICES = {"wav": PERSONAPLEX / "voice.wav", "saved": PERSONAPLEX / "voice.safetensors", "none": None}
SPOKEN = Sampling(temperature=0.5, repetition_penalty=3.0)  # so that what is remembered matters


def persona(voice: str, text: str = "banba kerst lomin") -> Persona:
    """The released codec's codes, folded into this one's 32, as the oracle does."""
    return Persona(text, VOICES[voice], tuple(code % 32 for code in SILENCE), tuple(code % 32 for code in SINE))


@cache
def alone(voice: str, seed: int) -> list:
    plex = loaded("personaplex")
    with plex.session(persona=persona(voice), seed=seed, text=SPOKEN) as session:
        return [session.step(frame) for frame in speech(FRAMES, seed).reshape(-1, 1920)]


@pytest.mark.parametrize("voice", VOICES)
def test_a_prompted_lane_is_the_prompted_session(voice):
    plex = loaded("personaplex")
    made = prompt(persona(voice), plex.config, plex.tokenizer, plex.mimi)
    lanes, told = plex.lanes(2, persona=persona("none")), []
    with lanes.session(
        seed=1, text=SPOKEN, details=True, prompt=made, on_prompt=lambda done, total: told.append((done, total))
    ) as lane:
        for frame, expected in zip(speech(FRAMES, 1).reshape(-1, 1920), alone(voice, 1), strict=True):
            assert_same(lane.step(frame), expected)
    assert told == [(i + 1, made.steps) for i in range(made.steps)]


def test_conversations_go_on_while_another_is_prompted():
    """Prompts of the batch's persona, one said while the first conversation talks; neither hears of the other."""
    plex = loaded("personaplex")
    lanes = plex.lanes(2, persona=persona("wav"))
    configs = [plex.generation(seed=seed, text=SPOKEN) for seed in (1, 2)]
    first, found, opened = lanes.session(configs[0]), [], []
    thread = threading.Thread(target=lambda: opened.append(lanes.session(configs[1])))
    thread.start()
    for frame in speech(FRAMES, 1).reshape(-1, 1920):
        found.append(first.step(frame))
    thread.join(60)
    for frame, expected in zip(found, alone("wav", 1), strict=True):
        assert_same(frame, expected)
    first.close()
    for frame, expected in zip(speech(FRAMES, 2).reshape(-1, 1920), alone("wav", 2), strict=True):
        assert_same(opened[0].step(frame), expected)


def test_a_session_is_prompted_once_and_a_prompt_that_fails_gives_its_lane_back(monkeypatch):
    plex = loaded("personaplex")
    made = prompt(persona("none"), plex.config, plex.tokenizer, plex.mimi)
    lanes = plex.lanes(1, persona=persona("none"))
    with lanes.session(plex.generation()) as lane, pytest.raises(SessionError, match="prompted once"):
        lane.prompt(made)

    def fails(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lanes.session(plex.generation(), on_prompt=fails)
    assert lanes.free == 1


def test_where_frames_are_captured_a_personaplex_runs_in_a_lane(monkeypatch):
    plex = clearline.load(PERSONAPLEX, backend="torch")
    monkeypatch.setattr(clearline.Model, "in_lanes", lambda self, config: True)
    with plex.session(persona=persona("saved"), seed=1, text=SPOKEN) as session:
        assert isinstance(session, LaneSession)
        for frame, expected in zip(speech(FRAMES, 1).reshape(-1, 1920), alone("saved", 1), strict=True):
            assert_same(session.step(frame), expected)
