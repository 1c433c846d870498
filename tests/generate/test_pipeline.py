"""Whole conversations: Kyutai's own command line loop over a recording, and the quirks of each official program."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.checkpoints import BACKENDS, CASES, GREEDY, golden, model, speech

from clearline import Frame, Sampling, preset
from clearline.generate.result import collect

# Generation only: other tests cover the reference backend.
FAST = "onnx"


def run(case: str, pcm: np.ndarray, config=GREEDY, backend: str = FAST, **keywords) -> tuple[list[Frame], list[int | None]]:
    """The frames of a run, with the details of each step, and the totals it announced."""
    frames: list[Frame] = []
    totals: list[int | None] = []

    def collect(frame, number, total):
        assert number == len(frames)
        frames.append(frame)
        totals.append(total)

    model(case, backend).run(pcm, 24_000, config, on_frame=collect, **keywords)
    return frames, totals


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_run_is_kyutais_run_inference(case, backend):
    """`pipeline_*` are what the loop of `moshi.run_inference` gave to LMGen and got from it, its first frame stepped twice."""
    g = golden(case)
    inputs, tokens = g["pipeline_inputs"], g["pipeline_tokens"]
    stt = case == "stt"  # its run adds the silence of the config by itself, which a given tail would replace
    frames, _ = run(case, g["pcm"], backend=backend, tail=None if stt else 0)
    assert len(frames) >= len(inputs) - 1
    np.testing.assert_array_equal(inputs[0], inputs[1])
    for t, frame in enumerate(frames[: len(inputs) - 1], 1):
        np.testing.assert_array_equal(frame.codes_in, inputs[t][: frame.codes_in.size], f"codes of step {t}")
        expected = tokens[t]
        assert frame.lm is not None and frame.lm.step == t
        if (expected == -2).all():
            assert frame.lm.codes is None, f"step {t}"
        else:
            np.testing.assert_array_equal(frame.lm.codes, expected, f"tokens of step {t}")


def test_speech_to_text_gets_its_silence_before_and_after():
    """0.16 s before (2 frames); 0.5 s and one second more after: 18.75 frames, filled up to 19."""
    frames, totals = run("stt", golden("stt")["pcm"])
    assert len(frames) == 2 + 16 + 19 and set(totals) == {len(frames)}


# -- the first frame ---------------------------------------------------------------------------------------------------

CASE = "moshi_d1"
PCM = speech(6)


def codes_of(pcm: np.ndarray) -> list[list[int]]:
    return model(CASE).mimi.encode(pcm, 8).T.tolist()


def test_first_frame_once():
    frames, _ = run(CASE, PCM, replace(GREEDY, first_frame="once"), tail=0)
    assert [frame.lm.step for frame in frames] == list(range(6))
    assert [frame.codes_in.tolist() for frame in frames] == codes_of(PCM)
    assert [frame.pcm is None for frame in frames] == [True] + [False] * 5


def test_first_frame_twice():
    frames, _ = run(CASE, PCM, replace(GREEDY, first_frame="twice"), tail=0)
    assert [frame.lm.step for frame in frames] == list(range(1, 7))
    assert [frame.codes_in.tolist() for frame in frames] == codes_of(PCM)
    assert all(frame.pcm is not None for frame in frames)
    assert frames[0].lm.row[9] == codes_of(PCM)[0][0]  # so that the model hears it: a bare LMGen would feed 32 here


def test_first_frame_restart():
    """As server.py does: the first frame is encoded and stepped, then the codec starts anew for the second."""
    frames, _ = run(CASE, PCM, replace(GREEDY, first_frame="restart"), tail=0)
    assert [frame.lm.step for frame in frames] == list(range(6))
    assert [frame.codes_in.tolist() for frame in frames] == codes_of(PCM[:1920]) + codes_of(PCM[1920:])
    assert codes_of(PCM[1920:]) != codes_of(PCM)[1:]


# -- quirks of the other programs --------------------------------------------------------------------------------------


def test_mlx_reads_the_user_one_frame_late_and_prints_text_at_once():
    frames, _ = run(CASE, PCM, preset("kyutai-mlx-local"), tail=0)
    codes = codes_of(PCM)
    for s in range(2, 6):
        assert frames[s].lm.row[9:].tolist() == [codes[s - 1][0], *codes[s - 2][1:]]
    assert [frame.text_token for frame in frames] == [frame.lm.text_token for frame in frames]
    assert frames[0].text_token is not None and frames[0].pcm is None


def test_pytorch_prints_text_with_its_audio():
    frames, _ = run(CASE, PCM, replace(preset("kyutai-pytorch"), first_frame="once"), tail=0)
    assert frames[0].text_token is None
    assert [frame.text_token for frame in frames[1:]] == [frame.lm.text_token for frame in frames[:-1]]


def test_rust_forces_a_delay_of_two_and_pads_the_first_acoustic_tokens():
    frames, _ = run(CASE, PCM, preset("kyutai-rust-cli"), tail=0)
    card = model(CASE).config.card
    for s, frame in enumerate(frames):
        audio = frame.lm.audio_tokens
        assert audio[0] < card and ((audio[1:] == card).all() if s < 2 else (audio < card).all())
        assert (frame.codes_out is None) == (s < 2)
        if s >= 2:
            assert frame.codes_out.tolist() == [frames[s - 2].lm.audio_tokens[0], *frame.lm.audio_tokens[1:]]


# -- teacher forcing ---------------------------------------------------------------------------------------------------


def generated(case: str, force=lambda t: {}, steps: int = 12, config=GREEDY) -> list:
    generator = model(case, FAST).generator(config)
    return [generator.step(codes, **force(t)) for t, codes in enumerate(golden(case)["user_codes"][:steps])]


def tokens(frames) -> list:
    return [(frame.text_token, frame.audio_tokens.tolist()) for frame in frames]


@pytest.mark.parametrize("config", [GREEDY, preset("kyutai-pytorch")], ids=["greedy", "sampled"])
def test_minus_two_means_sample_this_one(config):
    free = generated("schedule", config=config)
    forced = generated("schedule", lambda t: {"force_text": -2, "force_audio": [-2] * 8}, config=config)
    assert tokens(forced) == tokens(free)


def test_forcing_a_models_own_choices_changes_nothing():
    free = generated("schedule")
    mixed = generated("schedule", lambda t: {"force_audio": [a if k % 2 else -2 for k, a in enumerate(tokens(free)[t][1])]})
    assert tokens(mixed) == tokens(free)


def test_a_forced_token_is_heard_by_the_later_codebooks_only():
    free = generated("moshi_d1", steps=1)[0]
    other = (int(free.audio_tokens[2]) + 1) % 32
    forced = generated("moshi_d1", lambda t: {"force_audio": [-2, -2, other] + [-2] * 5}, steps=1)[0]
    assert forced.audio_tokens[2] == other
    np.testing.assert_array_equal(forced.audio_logits[:3], free.audio_logits[:3])
    assert (np.abs(forced.audio_logits[3:] - free.audio_logits[3:]).max(1) > 1e-3).all()


def test_with_every_token_forced_there_are_no_audio_logits():
    frame = generated("moshi_d1", lambda t: {"force_text": 5, "force_audio": list(range(8))}, steps=1)[0]
    assert (frame.text_token, frame.audio_tokens.tolist()) == (5, list(range(8))) and np.isnan(frame.audio_logits).all()


# -- the tail ----------------------------------------------------------------------------------------------------------


def with_bonus(bonus: float):
    return replace(GREEDY, text=Sampling(temperature=0.8, padding_bonus=bonus))


def test_a_silent_model_gets_two_seconds_of_silence():
    frames, totals = run("delay0", speech(4), with_bonus(1000.0))
    assert len(frames) == 4 + 25 and set(totals) == {None}


def test_a_model_that_never_stops_talking_is_stopped_after_fifteen_seconds():
    frames, _ = run("delay0", speech(4), with_bonus(-1000.0))
    assert len(frames) == 4 + 187


@pytest.mark.parametrize(("tail", "extra"), [(0, 0), (0.01, 1), (0.08, 1), (0.5, 7)])
def test_a_given_tail_is_filled_up_to_whole_frames(tail, extra):
    frames, totals = run("delay0", speech(4), with_bonus(1000.0), tail=tail)
    assert len(frames) == 4 + extra and set(totals) == {4 + extra}


# -- text only ---------------------------------------------------------------------------------------------------------


def test_a_model_without_depformer_writes_text_and_nothing_else():
    result = model("stt").run(golden("stt")["pcm"], 24_000, GREEDY)
    assert result.pcm.size == 0 and result.codes_out.shape == (0, 0) and result.codes_in.shape == (32, 37)
    assert result.text_tokens.size == 37 and result.clipped == 0
    np.testing.assert_array_equal(result.text_tokens[:36], golden("stt")["pipeline_tokens"][1:, 0])


def test_words_lie_inside_the_reply():
    result = model("moshi_d1").run(speech(10), 24_000, seed=3, tail=1)
    assert result.words and result.text == " ".join(word.text for word in result.words)
    for word in result.words:
        assert 0 <= word.start < word.end <= result.pcm.size / 24_000 + 1e-9
    assert [word.start for word in result.words] == sorted(word.start for word in result.words)


def test_seconds_of_a_codec_at_another_rate():
    """Ten frames of 960 samples at 24 kHz are 0.4 s, whatever the released codec's frames are."""
    silent = Frame(None, "", None, np.zeros(1, np.int64), None, None)
    made = model("delay2")
    assert collect([silent] * 10, made.config, made.tokenizer, 960, 24_000, {}, 1.0).audio_seconds == pytest.approx(0.4)
