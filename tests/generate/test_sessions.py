"""Sessions: the same bytes whatever runs beside, before, or on how many threads; other seeds, other words."""

import hashlib
import weakref

import numpy as np
import pytest
from helpers.checkpoints import model, speech

import clearline
from clearline.audio import wav_bytes
from clearline.errors import AudioError, ClearlineError, ConfigError, SessionError

CASE = "moshi_d1"
FRAMES = 12
PCM = speech(FRAMES)


def digest(result: clearline.Result) -> str:
    return hashlib.sha256(wav_bytes(result.pcm, result.sample_rate)).hexdigest()


def conversation(session: clearline.Session, pcm: np.ndarray = PCM) -> list[tuple]:
    """Everything a session says to `pcm`, comparable with ==."""
    return [said(session.step(frame)) for frame in pcm.reshape(-1, 1920)]


def said(frame: clearline.Frame) -> tuple:
    return (
        frame.text_token,
        frame.text,
        frame.codes_in.tolist(),
        None if frame.codes_out is None else frame.codes_out.tolist(),
        None if frame.pcm is None else frame.pcm.tobytes(),
    )


def alone(seed: int, pcm: np.ndarray = PCM) -> list[tuple]:
    with model(CASE).session(seed=seed) as session:
        return conversation(session, pcm)


def test_the_same_seed_says_the_same_bytes():
    first, second = (model(CASE).run(PCM, 24_000, seed=5, tail=0.5) for _ in range(2))
    assert digest(first) == digest(second)
    assert first.text == second.text and first.facts == second.facts


def test_a_model_loaded_again_says_the_same_bytes():
    again = clearline.load(model(CASE).checkpoint.folder)
    assert digest(again.run(PCM, 24_000, seed=5, tail=0)) == digest(model(CASE).run(PCM, 24_000, seed=5, tail=0))


def test_other_seeds_say_something_else():
    replies = {digest(model(CASE).run(PCM, 24_000, seed=seed, tail=0)) for seed in range(4)}
    assert len(replies) == 4


@pytest.mark.parametrize("case", ["moshi_d1", "odd"])
def test_thread_counts_do_not_change_a_byte(case):
    replies = {threads: digest(model(case, "onnx", threads).run(PCM, 24_000, seed=5, tail=0)) for threads in (1, 2, 3)}
    assert len(set(replies.values())) == 1


@pytest.mark.parametrize("workers", [1, 3])
def test_a_batch_is_its_members_alone(workers):
    inputs = [speech(FRAMES, seed).reshape(-1, 1920) for seed in (1, 2, 3)]
    together: list[list[tuple]] = [[], [], []]
    with model(CASE).batch(seeds=[7, 8, 7], workers=workers) as batch:
        for frames in zip(*inputs, strict=True):
            for answers, frame in zip(together, batch.step(np.stack(frames)), strict=True):
                answers.append(said(frame))
    expected = [alone(seed, pcm.reshape(-1)) for seed, pcm in zip((7, 8, 7), inputs, strict=True)]
    assert together == expected


def test_interleaved_sessions_are_what_they_are_alone():
    a, b = model(CASE).session(seed=1), model(CASE).session(seed=2)
    frames, other = PCM.reshape(-1, 1920), speech(FRAMES, 9).reshape(-1, 1920)
    from_a, from_b = [], []
    for frame in frames:
        from_a.append(said(a.step(frame)))
        if len(from_a) % 2:  # b falls behind a
            from_b.append(said(b.step(other[len(from_b)])))
    from_b += [said(b.step(frame)) for frame in other[len(from_b) :]]
    assert from_a == alone(1)
    assert from_b == alone(2, other.reshape(-1))


def test_a_session_says_what_it_says_whatever_came_before_it():
    before = alone(3)
    for seed in (4, 5):
        alone(seed, speech(3, seed))
    assert alone(3) == before


def test_frames_of_a_session_are_the_frames_of_a_run():
    result = model(CASE).run(PCM, 24_000, seed=5, tail=0)
    frames = alone(5)
    assert b"".join(frame[4] for frame in frames if frame[4]) == result.pcm.tobytes()
    assert result.codes_in.T.tolist() == [frame[2] for frame in frames]
    assert result.codes_out.T.tolist() == [frame[3] for frame in frames if frame[3]]
    assert result.text_tokens.tolist() == [frame[0] for frame in frames if frame[0] is not None]


@pytest.mark.parametrize("rate", [24_000, 48_000])
def test_rates_and_channels_reach_the_model_as_mono_24_khz(rate):
    stereo = np.stack([speech(6, rate=rate)] * 2, 1)
    result = model(CASE).run(stereo, rate, tail=0)
    assert result.codes_in.shape == (8, 6) and result.sample_rate == 24_000


def test_an_incomplete_last_frame_is_filled_up():
    assert model(CASE).run(PCM[: 3 * 1920 + 1], 24_000, tail=0).codes_in.shape[1] == 4


def test_int16_is_the_same_recording():
    whole = np.round(PCM * 32767).astype(np.int16)
    as_floats = model(CASE).run(whole.astype(np.float32) / 32768, 24_000, seed=1, tail=0)
    assert digest(model(CASE).run(whole, 24_000, seed=1, tail=0)) == digest(as_floats)


def test_a_long_run_does_not_collect_logits():
    """An hour of a 7B model's logits would be 10 GB: what a step computed is gone a step later, unless someone keeps it."""
    kept: list[weakref.ref] = []

    def look(frame, number, total):
        assert sum(reference() is not None for reference in kept) <= 1
        kept.append(weakref.ref(frame.lm))

    model(CASE).run(PCM, 24_000, tail=0, on_frame=look)
    assert len(kept) == FRAMES


# -- facts -------------------------------------------------------------------------------------------------------------


def test_facts_are_hashes_of_what_the_result_depends_on():
    loaded = model(CASE)
    folder = loaded.checkpoint.folder
    facts = loaded.run(PCM, 24_000, "kyutai-mlx-local", seed=77, tail=0).facts
    assert facts["weights"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert facts["codec_weights"] == hashlib.sha256((folder / "mimi.safetensors").read_bytes()).hexdigest()
    assert facts["input"] == hashlib.sha256(PCM.tobytes()).hexdigest()
    assert (facts["seed"], facts["preset"], facts["backend"]) == (77, "kyutai-mlx-local", "onnx")
    assert len(facts["config"]) == 64 and facts["version"]


def test_the_config_hash_sees_every_setting(tmp_path):
    from helpers.checkpoints import copy_checkpoint

    folder = copy_checkpoint(CASE, tmp_path)
    same = clearline.load(folder).checkpoint.hashes()["config"]
    assert same == model(CASE).checkpoint.hashes()["config"]
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"context": 12', '"context": 13'))
    assert clearline.load(folder).checkpoint.hashes()["config"] != same


# -- wrong use ---------------------------------------------------------------------------------------------------------


def test_a_closed_session_says_so_and_may_be_closed_again():
    with model(CASE).session() as session:
        session.step(PCM[:1920])
        session.close()
        with pytest.raises(SessionError, match="closed"):
            session.step(PCM[:1920])
    session.close()


def test_a_closed_batch_says_so():
    with model(CASE).batch(seeds=[1, 2]) as batch:
        batch.step(PCM[: 2 * 1920].reshape(2, 1920))
    with pytest.raises(SessionError, match="closed"):
        batch.step(PCM[: 2 * 1920].reshape(2, 1920))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_batch_takes_a_frame_for_each_session(count):
    with model(CASE).batch(seeds=[1, 2]) as batch, pytest.raises(SessionError, match=f"2 sessions, got {count}"):
        batch.step(np.zeros((count, 1920), np.float32))


def test_a_batch_needs_sessions_and_workers():
    with pytest.raises(ClearlineError, match="seed"):
        model(CASE).batch(seeds=[])
    with pytest.raises(ClearlineError, match="workers"):
        model(CASE).batch(seeds=[1], workers=0)


@pytest.mark.parametrize("shape", [(1919,), (1921,), (1, 1920), (1920, 2), ()])
def test_a_frame_has_one_shape(shape):
    with model(CASE).session() as session, pytest.raises(SessionError, match="1920 samples"):
        session.step(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.full(1920, 20_000, np.int64), "got int64"),
        (np.full(1920, 20_000, np.float32), "reaches 20000"),
        (np.zeros(1920, complex), "got complex128"),
        (np.zeros(1920, object), "got object"),
    ],
)
def test_a_frame_that_nobody_scaled_is_refused(frame, message):
    """Heard as they are, 16-bit samples are noise, and the reply is garbled: nothing else would say why."""
    with model(CASE).session() as session, pytest.raises(AudioError, match=message):
        session.step(frame)
    with pytest.raises(AudioError, match=message):
        model(CASE).mimi.stream().encode(frame)


def test_a_frame_of_int16_is_the_same_frame():
    whole = np.round(PCM[:1920] * 32767).astype(np.int16)
    codes = [model(CASE).mimi.stream().encode(frame) for frame in (whole, whole.astype(np.float32) / 32768)]
    np.testing.assert_array_equal(*codes)


@pytest.mark.parametrize("seed", [np.int64(7), np.uint64(7), np.arange(8)[7]])
def test_a_seed_of_numpys_is_a_seed(seed):
    assert said_in_a_run(seed) == said_in_a_run(7)
    assert type(model(CASE).generation(seed=seed).seed) is int


def said_in_a_run(seed):
    return model(CASE).run(PCM[:9600], 24_000, seed=seed, tail=0).codes_out.tobytes()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"text": 0.7}, "text is 0.7; it must be a Sampling"),
        ({"audio": {"temperature": 1}}, "audio is .*; it must be a Sampling"),
        ({"preset": 3}, "a preset's name or a GenerationConfig, not 3"),
        ({"guidance": "3"}, "guidance is '3'"),
        ({"seed": "7"}, "seed is '7'"),
        ({"tail": "1"}, "the tail is 1 seconds"),
    ],
)
def test_settings_of_another_kind(keywords, message):
    with pytest.raises(ConfigError, match=message):
        model(CASE).run(PCM, 24_000, **{"tail": 0, **keywords})


def test_a_window_that_the_codec_does_not_have():
    with pytest.raises(ConfigError, match="window is 'whole'; known: frame, sliding"):
        model(CASE).mimi.encode(PCM, window="whole")
    with pytest.raises(SessionError, match=r"2\.5 codebooks"):
        model(CASE).mimi.stream(2.5)


def test_a_frame_with_nan_is_refused_and_the_session_goes_on_as_if_it_had_not_come():
    bad = PCM[:1920].copy()
    bad[5] = np.nan
    frames = PCM.reshape(-1, 1920)
    with model(CASE).session(seed=6) as session:
        answers = [said(session.step(frame)) for frame in frames[:4]]
        with pytest.raises(AudioError, match="NaN"):
            session.step(bad)
        answers += [said(session.step(frame)) for frame in frames[4:]]
    assert answers == alone(6)


@pytest.mark.parametrize(
    ("force", "message"),
    [
        ({"force_text": 321}, "forced text"),
        ({"force_text": -3}, "forced text"),
        ({"force_audio": [1, 2, 3]}, "forced audio"),
        ({"force_audio": [1] * 7 + [33]}, "forced audio"),
        ({"force_audio": [1.5] * 8}, "forced audio"),
    ],
)
def test_a_bad_forced_token_is_refused_and_the_session_goes_on_as_if_it_had_not_come(force, message):
    frames = PCM.reshape(-1, 1920)
    with model(CASE).session(seed=6) as session:
        answers = [said(session.step(frame)) for frame in frames[:4]]
        with pytest.raises(SessionError, match=message):
            session.step(frames[4], **force)
        answers += [said(session.step(frame)) for frame in frames[4:]]
    assert answers == alone(6)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([0] * 7, "expected 8 whole numbers"),
        ([0.0] * 8, "expected 8 whole numbers"),
        ([[0] * 8], "expected 8 whole numbers"),
        ([0] * 7 + [33], r"-1\.\.32, got 0\.\.33"),
        ([-2] + [0] * 7, r"-1\.\.32, got -2\.\.0"),
    ],
)
def test_user_codes_that_cannot_be_heard(codes, message):
    with pytest.raises(SessionError, match=message):
        model(CASE).generator().step(np.array(codes))


@pytest.mark.parametrize("changes", [{"seed": -1}, {"seed": 2**64}, {"seed": 0.5}])
def test_settings_out_of_range(changes):
    with pytest.raises(ConfigError, match="seed"):
        model(CASE).session(**changes)


@pytest.mark.parametrize("tail", [-1.0, 3601.0, float("nan")])
def test_a_tail_out_of_range(tail):
    with pytest.raises(ConfigError, match="tail"):
        model(CASE).run(PCM, 24_000, tail=tail)


@pytest.mark.parametrize("pcm", [np.zeros(0, np.float32), np.zeros((100, 0), np.float32), np.array([np.nan])])
def test_recordings_that_cannot_be_run(pcm):
    with pytest.raises(AudioError):
        model(CASE).run(pcm, 24_000)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"backend": "gpu"}, "no backend 'gpu'; known: auto, onnx"),
        ({"dtype": "bfloat16"}, "does not compute in 'bfloat16'.* so onnx was chosen: a model of"),
        ({"threads": True}, "threads is True; it must be a whole number"),
        ({"compile": "yes"}, "compile is 'yes'; it is True or False"),
        ({"lm_only": 1}, "lm_only is 1; it is True or False"),
        ({"quantize": "q5"}, "'q5'; known: q8, q4"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": 5000}, "threads is 5000"),
        ({"threads": "2"}, "threads is '2'"),
        ({"backend": None}, "backend is None"),
        ({"device": 0}, "device is 0"),
    ],
)
def test_options_of_load(keywords, message):
    with pytest.raises(ClearlineError, match=message):
        clearline.load(model(CASE).checkpoint.folder, **keywords)


# -- the embedded model ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nano_inputs():
    return speech(20)


def test_nano_says_the_same_bytes_for_any_number_of_threads(nano_inputs):
    """Large enough that ONNX Runtime does share its work out."""
    replies = {digest(clearline.load("nano", threads=n).run(nano_inputs, 24_000, seed=5, tail=0)) for n in (1, 2, 3)}
    assert len(replies) == 1


def test_nano_says_the_same_bytes_in_a_batch(nano_inputs):
    nano = clearline.load("nano")
    frames = nano_inputs.reshape(-1, 1920)[:8]
    with nano.batch(seeds=[4, 5, 6], workers=3) as batch:
        together = [said(batch.step(np.stack([frame] * 3))[1]) for frame in frames]
    with nano.session(seed=5) as session:
        assert [said(session.step(frame)) for frame in frames] == together
