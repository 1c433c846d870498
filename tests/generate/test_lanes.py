"""Lanes: a session in a batch says what it says alone, whoever joins, leaves, or does not take part."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from helpers.checkpoints import DATA, GREEDY, golden, model, speech

torch = pytest.importorskip("torch")

import clearline  # noqa: E402
from clearline import Sampling  # noqa: E402
from clearline.errors import AudioError, ConfigError, SessionError  # noqa: E402
from clearline.generate.lane import Ticket  # noqa: E402

CASE = "moshi_d1"
FRAMES = 10


def loaded(case: str = CASE) -> clearline.Model:
    return model(case, "torch")


def said(frame) -> tuple:
    """Everything but the samples, which may differ in their last bits."""
    codes = None if frame.codes_out is None else frame.codes_out.tolist()
    return (frame.text_token, frame.text, frame.codes_in.tolist(), codes, frame.pcm is None)


def alone(config, frames=FRAMES, case: str = CASE, seed: int = 1) -> list:
    with loaded(case).session(config) as session:
        return [session.step(frame) for frame in speech(frames, seed).reshape(-1, 1920)]


QUIRKS = [
    {"preset": None, "seed": 5},
    {"preset": "kyutai-mlx-local", "seed": 6},
    {"preset": "kyutai-rust-cli", "seed": 7},  # acoustic delay, early acoustic padding, early text, user offset
    {
        "preset": "kyutai-pytorch-server",  # restarts the encoder
        "seed": 2**64 - 1,
        "text": Sampling(temperature=0.9, repetition_penalty=1.3, repetition_context=4, padding_bonus=1.0, top_p=0.9, min_p=0.01),
        "audio": Sampling(top_k=5),
    },
    {"preset": "greedy"},
]


def test_one_batch_of_five_settings_is_five_sessions_alone():
    """Text, tokens, codes and sound; and the details: what was fed, logits, hidden states."""
    configs = [loaded().generation(**quirk) for quirk in QUIRKS]
    lanes = loaded().lanes(6)  # one more than are taken
    sessions = [lanes.session(config, details=True) for config in configs]
    expected = [alone(config, seed=i) for i, config in enumerate(configs)]
    inputs = [speech(FRAMES, i).reshape(-1, 1920) for i in range(len(configs))]
    for t in range(FRAMES):
        for i, frame in enumerate(together(sessions, [x[t] for x in inputs])):
            want = expected[i][t]
            assert said(frame) == said(want), (i, t)
            if want.pcm is not None:
                np.testing.assert_allclose(frame.pcm, want.pcm, atol=1e-5)
            assert (frame.lm.step, frame.lm.text_token) == (want.lm.step, want.lm.text_token)
            for name in ("row", "audio_tokens"):
                np.testing.assert_array_equal(getattr(frame.lm, name), getattr(want.lm, name))
            for name in ("hidden", "text_logits", "audio_logits"):
                np.testing.assert_allclose(getattr(frame.lm, name), getattr(want.lm, name), atol=1e-4)


def together(sessions, frames) -> list:
    """All step at once, each on a thread of its own, as the server has them."""
    found: list = [None] * len(sessions)

    def step(i: int) -> None:
        found[i] = sessions[i].step(frames[i])

    threads = [threading.Thread(target=step, args=(i,)) for i in range(len(sessions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(frame is not None for frame in found)
    return found


@pytest.mark.parametrize("case", ["odd", "delay2", "stt", "schedule"])
def test_other_models(case):
    """Layer-normed embeddings, replicated padding, other delays, text only with extra heads, scheduled depformer weights."""
    config = loaded(case).generation(seed=3)
    with loaded(case).lanes(2).session(config, details=True) as session:
        for t, (frame, want) in enumerate(zip(speech(6).reshape(-1, 1920), alone(config, 6, case), strict=True)):
            got = session.step(frame)
            assert said(got) == said(want), t
            if want.lm.extra_heads is not None:
                np.testing.assert_allclose(got.lm.extra_heads, want.lm.extra_heads, atol=1e-5)


def test_long_runs_in_a_lane_are_kyutais():
    """Golden tokens of Kyutai's package, far past the ring's wrap, from the graph's own alignment and sampling."""
    g, dep_q = golden("delay2"), loaded("delay2").config.dep_q
    assert len(g["user_codes"]) > 2 * loaded("delay2").config.transformer.context
    lanes = loaded("delay2").lanes(2)
    lanes.session(replace(GREEDY, first_frame="once"))
    device = lanes._frame
    for t, codes in enumerate(g["user_codes"]):
        with torch.inference_mode():  # in the place of what the codec hears
            device._codes_in.copy_(torch.from_numpy(codes[: loaded("delay2").config.user_streams]))
        device.language(np.array([True, False]), np.full((2, 1 + dep_q), -2), np.zeros(2, bool))
        said, _ = device.fetch()
        assert said[0, 2] == g["text_token"][t], t
        np.testing.assert_array_equal(said[0, 3 : 3 + dep_q], g["audio_tokens"][t])
        aligned = said[0, 3 + dep_q : 4 + 2 * dep_q]
        if (g["out_codes"][t] != -2).all():
            np.testing.assert_array_equal(aligned, g["out_codes"][t])
        assert bool(said[0, 1]) == bool((g["out_codes"][t] != -2).all())


def test_who_comes_and_goes_or_pauses_touches_nobody():
    """The second lane is left and taken again, the third pauses every other frame; the first hears nothing of it.

    The last two are penalised for what they said, so that what a lane remembers matters.
    """
    config = loaded().generation(seed=5)
    resting, coming = (loaded().generation(seed=seed, text=Sampling(temperature=0.1, repetition_penalty=5.0)) for seed in (8, 9))
    lanes = loaded().lanes(3)
    steady, pausing = lanes.session(config), lanes.session(resting)
    frames, other = speech(FRAMES).reshape(-1, 1920), speech(FRAMES, 4).reshape(-1, 1920)
    paused, guests = [], []
    guest = None
    for t in range(FRAMES):
        if t % 3 == 0:
            if guest is not None:
                guest.close()
            guest = lanes.session(coming)
            guests.append([])
        assert said(steady.step(frames[t])) == said(alone_once(5)[t])
        guests[-1].append(said(guest.step(other[len(guests[-1])])))
        if t % 2:
            paused.append(said(pausing.step(other[len(paused)])))
    assert paused == [said(frame) for frame in alone(resting, FRAMES // 2, seed=4)]
    # A lane taken again begins anew: every guest hears the same and says the same.
    expected = [said(frame) for frame in alone(coming, 3, seed=4)]
    assert all(guest == expected[: len(guest)] for guest in guests)


_ALONE: dict[int, list] = {}


def alone_once(seed: int) -> list:
    if seed not in _ALONE:
        _ALONE[seed] = alone(loaded().generation(seed=seed))
    return _ALONE[seed]


@pytest.mark.parametrize("preset", [None, "kyutai-rust-cli"])  # the second pads early acoustic tokens, unless they are forced
def test_forced_tokens(preset):
    config = loaded().generation(preset, seed=5)
    frames = speech(4).reshape(-1, 1920)
    forced = [(7, None), (None, [1, -2, 3, -2, 5, 6, 7, 8]), (9, [1] * 8), (None, None)]
    with loaded().session(config) as session, loaded().lanes(1).session(config, details=True) as lane:
        for frame, (text, audio) in zip(frames, forced, strict=True):
            a, b = session.step(frame, text, audio), lane.step(frame, text, audio)
            assert said(a) == said(b)
            np.testing.assert_array_equal(a.lm.audio_tokens, b.lm.audio_tokens)
            np.testing.assert_array_equal(np.isnan(a.lm.audio_logits), np.isnan(b.lm.audio_logits))


def test_the_end_of_the_input():
    config = loaded().generation(seed=5)
    frames = speech(3).reshape(-1, 1920)
    with loaded().session(config) as session, loaded().lanes(1).session(config) as lane:
        for frame in frames:
            assert said(session.step(frame)) == said(lane.step(frame))
        assert said(session.end_input()) == said(lane.end_input())
        assert said(session.step(frames[0])) == said(lane.step(frames[0]))


# -- wrong use ---------------------------------------------------------------------------------------------------------


def test_lanes_are_given_out_once_and_come_back():
    lanes = loaded().lanes(2)
    a, b = lanes.session(GREEDY), lanes.session(GREEDY)
    assert lanes.free == 0
    with pytest.raises(SessionError, match="all 2 lanes are taken"):
        lanes.session(GREEDY)
    a.close()
    a.close()
    assert lanes.free == 1
    with pytest.raises(SessionError, match="closed"):
        a.step(np.zeros(1920))
    with lanes.session(GREEDY) as again:
        assert again.lane == a.lane
    b.close()


def test_the_lane_of_a_session_that_nobody_holds_any_more_is_free():
    lanes = loaded().lanes(1)
    session = lanes.session(seed=5)
    for _ in range(3):
        session.step(np.zeros(1920))
    assert lanes.free == 0 and lanes._frame._steps[0] > 0
    del session
    assert lanes.free == 1 and lanes._frame._steps[0] == 0
    with lanes.session(seed=5) as again:
        assert said(again.step(speech(1))) == said(alone_once(5)[0])


def test_settings_are_taken_as_a_models_are():
    lanes = loaded().lanes(1)
    for given, changes in (((), {"seed": 3}), (("greedy",), {}), ((loaded().generation("greedy"),), {"guidance": 1.0})):
        with lanes.session(*given, **changes) as session:
            assert session.config == loaded().generation(*given, **changes)
    with pytest.raises(ConfigError, match="not 5"):
        lanes.session(5)
    with pytest.raises(ConfigError, match="nonsense"):
        lanes.session("nonsense")


def test_a_refused_frame_has_not_happened():
    config = loaded().generation(seed=5)
    frames = speech(4).reshape(-1, 1920)
    bad = np.full(1920, np.nan, np.float32)
    with loaded().lanes(1).session(config) as lane:
        answers = []
        for frame in frames:
            with pytest.raises(AudioError, match="NaN"):
                lane.step(bad)
            with pytest.raises(SessionError, match="1920 samples"):
                lane.step(frame[:-1])
            with pytest.raises(SessionError, match="forced text"):
                lane.step(frame, 100_000)
            answers.append(said(lane.step(frame)))
    assert answers == [said(frame) for frame in alone_once(5)[:4]]


def test_damaged_weights_end_one_frame_with_a_message():
    broken = clearline.load(DATA / CASE, backend="torch")
    with torch.inference_mode():
        broken.backend.weights.dense(broken.programs.weights["text_linear.weight"]).fill_(float("nan"))
    with broken.lanes(1).session(broken.generation()) as lane, pytest.raises(SessionError, match="damaged weights"):
        lane.step(np.zeros(1920))


def test_a_session_is_stepped_by_one_thread_at_a_time():
    lanes = loaded().lanes(2)
    session, _ = lanes.session(GREEDY), lanes.session(GREEDY)
    tickets = [Ticket(session, np.zeros(1920, np.float32), -2, None, 0.0) for _ in range(2)]
    lanes.step(tickets)
    assert tickets[0].frame is not None and "two threads" in str(tickets[1].error)


@pytest.mark.parametrize("raised", [RuntimeError("the device is gone"), KeyboardInterrupt()])
def test_a_device_that_fails_leaves_nobody_waiting(monkeypatch, raised):
    lanes = loaded().lanes(2)
    sessions = [lanes.session(GREEDY) for _ in range(2)]
    found: list = []

    def fails() -> None:
        raise raised

    def step(session) -> None:
        try:
            session.step(np.zeros(1920))
        except BaseException as error:
            found.append(error)

    monkeypatch.setattr(lanes._frame, "fetch", fails)
    threads = [threading.Thread(target=step, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 2 and all(isinstance(error, type(raised) | SessionError) for error in found)
    monkeypatch.undo()
    assert sessions[0].step(np.zeros(1920)) is not None  # the next frame is tried


def test_who_is_interrupted_while_a_batch_gathers_stops_nobody_else(monkeypatch):
    """Ctrl-C: the frame has not happened, and the lanes run on."""
    lanes = loaded().lanes(2)
    one, other = lanes.session(seed=5), lanes.session(seed=6)

    def interrupted(seconds):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lanes._turn, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            one.step(np.zeros(1920))
    assert other.step(np.zeros(1920)) is not None
    assert [said(one.step(frame)) for frame in speech(2).reshape(-1, 1920)] == [said(frame) for frame in alone_once(5)[:2]]


@pytest.mark.parametrize("count", [0, 1025, 1.5, "8", None, True])
def test_a_number_of_lanes_out_of_range(count):
    with pytest.raises(SessionError, match=rf"whole number of lanes in 1\.\.1024, got {count!r}"):
        loaded().lanes(count)


def test_settings_that_a_batch_cannot_have():
    lanes = loaded().lanes(1)
    with pytest.raises(ConfigError, match="guidance"):
        lanes.session(loaded().generation(guidance=2.0))
    with pytest.raises(ConfigError, match="at most 256, got 300"):
        lanes.session(loaded().generation(text=Sampling(repetition_penalty=1.1, repetition_context=300)))
    assert lanes.free == 1


def test_other_backends_have_no_lanes():
    with pytest.raises(ConfigError, match="onnx on cpu"):
        model(CASE, "onnx").lanes(2)
