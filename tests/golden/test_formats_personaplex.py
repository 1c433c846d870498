"""PersonaPlex against NVIDIA's own code: voice (a recording, or saved) and text prompt, 16 depformer steps of which 8 are run.

Made by oracle/make_personaplex.py. NVIDIA's attention loses the oldest key of a full ring; a context shorter by one is the
same, which is how it is imitated here, for the codec (full after 5 frames) and for the model (full in the last ones).
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers.checkpoints import BACKENDS, DATA
from safetensors.numpy import load_file, save_file

import clearline
from clearline import Sampling
from clearline.audio import read_audio, to_loudness
from clearline.checkpoint import open_checkpoint
from clearline.checkpoint.convert import convert
from clearline.errors import AudioError, CheckpointError, ConfigError, SessionError
from clearline.generate.persona import DEFAULT_TEXT, SILENCE, SINE, Persona, prompt, tagged

FOLDER = DATA / "formats/personaplex"
GOLDEN = load_file(FOLDER / "prompted.safetensors")
TEXT = "banba kerst lomin"
VOICES = {"wav": FOLDER / "voice.wav", "saved": FOLDER / "voice.safetensors", "none": None}


def persona(voice=None, text: str = TEXT) -> Persona:
    """The released codec's codes, folded into this one's 32, as the oracle does."""
    return Persona(text, voice, tuple(code % 32 for code in SILENCE), tuple(code % 32 for code in SINE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The checkpoint with both contexts shorter by one."""
    folder = shutil.copytree(FOLDER, tmp_path_factory.mktemp("personaplex") / "model")
    for name, part in (("config.json", None), ("mimi_config.json", "transformer")):
        raw = json.loads((folder / name).read_text())
        inner = raw if part is None else raw[part]
        inner["context"] -= 1
        (folder / name).write_text(json.dumps(raw))
    return folder


@pytest.fixture(scope="module", params=BACKENDS)
def model(request, folder):
    return clearline.load(folder, backend=request.param)


def greedy(model):
    return model.generation("nvidia-personaplex", text=Sampling.greedy(), audio=Sampling.greedy())


@pytest.mark.parametrize("voice", VOICES)
def test_logits_and_tokens(model, voice):
    """From the voice prompt to the last frame: the same rows out, the same logits before sampling."""
    worst = 0.0
    with model.session(greedy(model), persona=persona(VOICES[voice])) as session:
        for t, samples in enumerate(GOLDEN["pcm"].reshape(-1, 1920)):
            frame = session.step(samples)
            np.testing.assert_array_equal(frame.lm.codes, GOLDEN[f"tokens_{voice}"][t, :9], f"frame {t}")
            assert frame.pcm is not None
            for name in ("text_logits", "audio_logits"):
                expected = GOLDEN[f"{name}_{voice}"][t]
                worst = max(worst, np.abs(getattr(frame.lm, name) - expected).max() / np.abs(expected).max())
    assert worst <= 2e-5


def test_the_three_prompts_lead_to_different_replies():
    tokens = [GOLDEN[f"tokens_{voice}"] for voice in VOICES]
    assert not np.array_equal(tokens[0], tokens[2])
    np.testing.assert_array_equal(tokens[0], tokens[1])  # the recording, and what was saved of it


def test_a_whole_run_and_its_facts(model):
    progress = []
    result = model.run(
        GOLDEN["pcm"], 24_000, greedy(model), tail=0, persona=persona(VOICES["wav"]), on_prompt=lambda *step: progress.append(step)
    )
    np.testing.assert_array_equal(result.codes_out.T, GOLDEN["tokens_wav"][:, 1:9])
    np.testing.assert_array_equal(result.text_tokens, GOLDEN["tokens_wav"][:, 0])
    steps = 14 - 1 + 6 + 26 + 6
    assert progress == [(i + 1, steps) for i in range(steps)]
    assert result.facts["persona"]["text"] == f"<system> {TEXT} <system>" and len(result.facts["persona"]["voice"]) == 64


def test_the_voice_is_heard_at_the_loudness_of_training(folder):
    recording = read_audio(FOLDER / "voice.wav")
    found = to_loudness(recording.samples[:, 0], recording.rate, -24.0)
    assert np.abs(found - GOLDEN["voice_pcm"]).max() <= 1e-6
    codec = clearline.load_codec(folder, backend="numpy64")
    np.testing.assert_array_equal(codec.encode(found, 8), GOLDEN["voice_codes"])


def test_a_voice_in_a_gguf_file(model, tmp_path):
    """As moshi.cpp keeps NVIDIA's voices."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "voice.gguf", "moshi")
    for name, array in load_file(VOICES["saved"]).items():
        writer.add_tensor(f"voice.{name}", array[0] if name == "cache" else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    result = model.run(GOLDEN["pcm"], 24_000, greedy(model), tail=0, persona=persona(tmp_path / "voice.gguf"))
    np.testing.assert_array_equal(result.codes_out.T, GOLDEN["tokens_saved"][:, 1:9])


def test_text_is_tagged_once(folder):
    assert tagged(" a b ") == "<system> a b <system>" == tagged("<system> a b <system>") and tagged("  ") == ""
    checkpoint, codec = open_checkpoint(folder), clearline.load_codec(folder)
    made = prompt(persona(), checkpoint.config.lm, checkpoint.tokenizer(), codec)
    np.testing.assert_array_equal(made.text, GOLDEN["text_prompt"])
    assert prompt(persona(text=""), checkpoint.config.lm, checkpoint.tokenizer(), codec).steps == 11


def test_depformer_steps_of_the_users_codebooks_are_stored_but_not_run():
    checkpoint = open_checkpoint(FOLDER)
    assert (checkpoint.config.lm.dep_q, checkpoint.config.stored_lm.dep_q) == (8, 16)
    stored, run = checkpoint.stored_weights(), checkpoint.lm_weights()
    assert "linears.15.weight" in stored and "linears.7.weight" in run and "linears.8.weight" not in run


def test_conversion_keeps_them(tmp_path):
    convert(open_checkpoint(FOLDER), tmp_path, "f32")
    before, after = open_checkpoint(FOLDER), open_checkpoint(tmp_path)
    assert before.config.lm == after.config.lm and after.config.model_type == "personaplex"
    first, second = before.stored_weights(), after.stored_weights()
    assert list(first) == list(second)
    for name, weight in first.items():
        np.testing.assert_array_equal(weight.data, second[name].data)


def test_the_released_config_says_only_its_type(tmp_path):
    """nvidia/personaplex-7b-v1: 8 371 408 896 parameters, two bytes each, and a header make its 16 742 874 000 bytes."""
    from clearline.config.kyutai import parse_checkpoint
    from clearline.model import lm_weights

    config = parse_checkpoint({"model_type": "personaplex", "version": "7b-v1"})
    assert sum(np.prod(shape) for shape in lm_weights(config.stored_lm).values()) == 8_371_408_896
    assert config.lm.dep_q == 8 and config.lm.user_streams == 8 and not config.cannot_run
    assert (config.generation.user_offset, config.generation.first_frame) == (1, "once")


# -- what is refused ----------------------------------------------------------------------------------------------------


def test_personas_are_for_personaplex():
    moshi = clearline.load(DATA / "moshi_d1")
    with pytest.raises(ConfigError, match="this one is a moshi"):
        moshi.session(persona=persona())


def test_a_session_is_prompted_before_its_first_frame_and_once(model):
    made = prompt(persona(), model.config, model.tokenizer, model.mimi)
    with model.session(persona=persona()) as session, pytest.raises(SessionError, match="once"):
        session.prompt(made)


@pytest.mark.parametrize(("name", "message"), [("voice.pt", "pickle"), ("nowhere.wav", "does not exist")])
def test_a_voice_that_cannot_be_used(name, message):
    with pytest.raises((CheckpointError, AudioError), match=message):
        Persona(voice=name)


def test_a_silent_or_short_voice(model, tmp_path):
    import soundfile

    for samples, message in ((np.zeros(24_000), "silent"), (np.ones(100), "too short")):
        soundfile.write(tmp_path / "voice.wav", samples, 24_000)
        with pytest.raises(AudioError, match=message):
            model.session(persona=persona(tmp_path / "voice.wav"))


@pytest.mark.parametrize(
    "change",
    [
        {"embeddings": np.zeros((3, 1, 1, 16), np.float32)},
        {"cache": np.zeros((1, 17, 3), np.int64)},
        {"cache": np.full((1, 17, 4), 99)},
        {"cache": np.zeros((1, 17, 4), np.float32)},
        {"embeddings": np.full((3, 1, 1, 32), np.nan, np.float32)},
        {"more": np.zeros(1)},
    ],
)
def test_a_saved_voice_of_another_model(model, change, tmp_path):
    save_file(load_file(VOICES["saved"]) | change, tmp_path / "voice.safetensors")
    with pytest.raises(CheckpointError, match=r"voice\.safetensors"):
        model.session(persona=persona(tmp_path / "voice.safetensors"))


def test_codes_of_another_codec_are_not_guessed(model):
    with pytest.raises(ConfigError, match="released"):
        model.session(persona=Persona(TEXT))


def test_a_prompt_longer_than_the_context(model):
    with pytest.raises(ConfigError, match="shorten"):
        model.session(persona=persona(text=DEFAULT_TEXT))


def test_presets_of_others_run_it_too(model):
    with model.session(replace(model.generation("kyutai-pytorch"), seed=5), persona=persona(VOICES["wav"])) as session:
        assert session.step(GOLDEN["pcm"][:1920]).codes_out is not None
