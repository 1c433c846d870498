"""What a frame that is captured as graphs on CUDA may and may not do, on stand-ins for a card."""

import threading
import time
from functools import cache

import numpy as np
import pytest
from helpers.checkpoints import DATA, model, speech

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import clearline  # noqa: E402
from clearline.generate.lane import LaneSession  # noqa: E402
from clearline.generate.torch_frame import upload  # noqa: E402

CASE, FRAMES = "moshi_d1", 6


def loaded(case: str = CASE) -> clearline.Model:
    return model(case, "torch")


def said(frame) -> tuple:
    """Everything but the samples, which may differ in their last bits."""
    codes = None if frame.codes_out is None else frame.codes_out.tolist()
    return (frame.text_token, frame.text, frame.codes_in.tolist(), codes, frame.pcm is None)


@cache
def alone() -> list:
    with loaded().session(seed=5) as session:
        return [session.step(frame) for frame in speech(FRAMES).reshape(-1, 1920)]


def assert_same_frame(found, expected) -> None:
    assert said(found) == said(expected)
    for name in ("row", "hidden", "text_logits", "audio_logits"):
        np.testing.assert_allclose(getattr(found.lm, name), getattr(expected.lm, name), rtol=1e-4, atol=1e-5, err_msg=name)


def test_what_is_prepared_for_a_capture_changes_no_lane():
    """Warm-ups and captures run with nobody active: in the middle of a conversation, too, they leave no trace."""
    lanes = loaded().lanes(1)
    with lanes.session(loaded().generation(seed=5)) as lane:
        for t, frame in enumerate(speech(FRAMES).reshape(-1, 1920)):
            if t in (0, 1, 4):
                lanes._frame.prepare()
            assert said(lane.step(frame)) == said(alone()[t])


class OnePool:
    """In the place of graphs: each computes in the memory that the outputs of the others lie in."""

    prepares = True

    def __init__(self, device, active, compiles):
        self._left: dict = {}

    def run(self, key, function):
        for outputs in self._left.values():
            for tensor in (outputs or {}).values():
                tensor.fill_(float("nan") if tensor.is_floating_point() else -77)
        self._left[key] = function()
        return self._left[key]

    def beside(self, function):
        function()
        return lambda: None


def test_details_are_those_of_their_own_frame_though_all_graphs_share_their_memory(monkeypatch):
    monkeypatch.setattr("clearline.generate.torch_frame.Graphs", OnePool)
    with loaded().lanes(1).session(loaded().generation(seed=5), details=True) as lane:
        frames = [lane.step(frame) for frame in speech(FRAMES).reshape(-1, 1920)]
    for found, expected in zip(frames, alone(), strict=True):
        assert_same_frame(found, expected)


def test_where_frames_are_captured_a_model_runs_in_lanes_and_says_the_same(monkeypatch):
    """As on CUDA: sessions are batches of one, a batch is one batch; the results are those of ordinary sessions."""
    expected = loaded().run(speech(5), 24_000, seed=5, tail=0)
    with loaded().batch(seeds=[5, 6]) as batch:
        apart = [[said(frame) for frame in batch.step(np.stack([x, x]))] for x in speech(3).reshape(-1, 1920)]
    monkeypatch.setattr(clearline.Model, "in_lanes", lambda self, config: True)
    result = loaded().run(speech(5), 24_000, seed=5, tail=0)
    assert result.text == expected.text and result.facts == expected.facts
    np.testing.assert_array_equal(result.codes_out, expected.codes_out)
    np.testing.assert_allclose(result.pcm, expected.pcm, atol=1e-5)
    with loaded().session() as session:
        assert isinstance(session, LaneSession)
    with loaded().batch(seeds=[5, 6]) as batch:
        assert [[said(frame) for frame in batch.step(np.stack([x, x]))] for x in speech(3).reshape(-1, 1920)] == apart


def test_sessions_at_once_have_batches_of_their_own_that_are_used_again(monkeypatch):
    """To capture takes seconds: as many as there ever were sessions at once are made, however many threads ask."""
    fresh = clearline.load(DATA / CASE, backend="torch")
    monkeypatch.setattr(clearline.Model, "in_lanes", lambda self, config: True)
    made, honest = [], fresh._lane_of_one

    def chosen(*given):
        made.append(found := honest(*given))
        time.sleep(0.02)  # in which another thread must not choose the same
        return found

    monkeypatch.setattr(fresh, "_lane_of_one", chosen)
    together, failed = threading.Barrier(3), []

    def converse() -> None:
        try:
            for _ in range(2):
                together.wait(60)
                with fresh.session(seed=5) as session:
                    together.wait(60)
                    assert said(session.step(speech(1))) == said(alone()[0])
        except BaseException as error:
            failed.append(error)
            together.abort()

    threads = [threading.Thread(target=converse) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len(made) == 6 and len(set(map(id, made))) == 3


@pytest.mark.parametrize("case", ["moshi_d1", "stt"])
def test_nothing_in_a_frame_waits_for_the_device_or_depends_on_what_it_computed(case, monkeypatch):
    """What a capture needs: on tensors without values every part runs through; only the results are fetched."""
    lanes = loaded(case).lanes(3)
    for seed in range(3):
        lanes.session(loaded(case).generation(seed=seed))
    device, off, on = lanes._frame, np.zeros(3, bool), np.ones(3, bool)
    device.prepare()  # what is made at first use is there

    def waits(*given, **named):
        raise AssertionError("the host waits for the device")

    users, forced = max(1, lanes.cfg.user_streams), np.full((3, 1 + lanes.cfg.dep_q), -2)
    pcm = np.zeros((3, 1920), np.float32)
    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"):
            patch.setattr(torch.Tensor, name, waits)
        device.encode(on, pcm, np.full((3, users), -3))
        device.language(on, forced, off)
        device.decode(on)
    fetched = []
    honest = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: fetched.append(tensor.shape) or honest(tensor))
    device.fetch()
    assert fetched == [(3, device.width), (3, 1920)]
    with torch.inference_mode(), FakeTensorMode(allow_non_fake_inputs=True):
        for part in (device._encode, device._language, *([device._decode] if lanes.cfg.dep_q else [])):
            part()


def test_uploads_to_a_card_are_waited_for_by_nobody(monkeypatch):
    """From pinned memory, which PyTorch keeps until the card has read it; from any other, a copy is a wait."""
    copies = []

    class OnCard:
        device = torch.device("cuda")

        def copy_(self, source, non_blocking=False):
            copies.append((source, non_blocking))

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: ("pinned", tensor.tolist()))
    upload(OnCard(), np.arange(3))
    assert copies == [(("pinned", [0, 1, 2]), True)]
    here = torch.zeros(3, dtype=torch.int64)
    upload(here, np.arange(3))
    assert here.tolist() == [0, 1, 2]
