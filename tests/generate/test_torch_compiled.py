"""Frames through torch.compile: the same tokens, whether only followed and run as they are or turned into C++."""

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.checkpoints import DATA, GREEDY, golden, model, speech

torch = pytest.importorskip("torch")

import clearline  # noqa: E402
from clearline import Sampling  # noqa: E402
from clearline.backends.torch_compile import compiled  # noqa: E402
from clearline.backends.torch_ops import attend_exactly, attend_one_by_one  # noqa: E402
from clearline.errors import BackendError, ConfigError  # noqa: E402
from clearline.generate.lane import LaneSession  # noqa: E402
from clearline.generate.persona import SILENCE, SINE, Persona  # noqa: E402
from clearline.ops import StateSpec  # noqa: E402


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The operations that would be compiled are run as they are: a tenth of the time. The traced parts are listed."""
    parts: list[Any] = []

    def trace(part: Any, fullgraph: bool, dynamic: bool, options: Any) -> Any:
        assert fullgraph and not dynamic
        parts.append(part)
        return part

    monkeypatch.setattr(torch, "compile", trace)
    return parts


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_to_machine_code_long_runs_are_kyutais() -> None:
    """Golden tokens of Kyutai's package, far past the ring's wrap, while another lane pauses; then sound, as uncompiled."""
    g, loaded = golden("delay2"), clearline.load(DATA / "delay2", backend="torch", compile=True)
    cfg = loaded.config
    lanes = loaded.lanes(2)
    sessions = [lanes.session(replace(GREEDY, first_frame="once")) for _ in range(2)]
    device = lanes._frame
    for t, codes in enumerate(g["user_codes"]):
        with torch.inference_mode():  # in the place of what the codec hears
            device._codes_in.copy_(torch.from_numpy(codes[: cfg.user_streams]))
        device.language(np.array([True, t % 3 == 0]), np.full((2, 1 + cfg.dep_q), -2), np.zeros(2, bool))
        said, _ = device.fetch()
        assert said[0, 2] == g["text_token"][t], t
        np.testing.assert_array_equal(said[0, 3 : 3 + cfg.dep_q], g["audio_tokens"][t])
    for session in sessions:
        session.close()
    pcm = speech(10).reshape(-1, 1920)
    with lanes.session(loaded.generation(seed=3)) as a, model("delay2", "torch").session(seed=3) as b:
        for frame in pcm:
            found, expected = a.step(frame), b.step(frame)
            assert found.text_token == expected.text_token and (found.pcm is None) == (expected.pcm is None)
            if expected.pcm is not None:
                np.testing.assert_array_equal(found.codes_out, expected.codes_out)
                np.testing.assert_allclose(found.pcm, expected.pcm, atol=1e-5)


def assert_runs_alike(found: clearline.Model, expected: clearline.Model, frames: int = 10, **settings: Any) -> None:
    pcm = speech(frames)
    with found.session(**settings) as session:
        assert isinstance(session, LaneSession)
    a, b = (loaded.run(pcm, 24_000, tail=0.4, **settings) for loaded in (found, expected))
    np.testing.assert_array_equal(a.text_tokens, b.text_tokens)
    np.testing.assert_array_equal(a.codes_out, b.codes_out)
    np.testing.assert_allclose(a.pcm, b.pcm, atol=1e-5)
    assert a.facts["compiled"] and not b.facts["compiled"]


@pytest.mark.parametrize("case", ["moshi_d1", "odd", "stt", "schedule"])
def test_every_model_is_one_graph_a_part(case: str, traced: list[Any]) -> None:
    """Other positions, norms, delays, no depformer, weights of its own for each step."""
    loaded = clearline.load(DATA / case, backend="torch", compile=True)
    parts: list[tuple[int, int]] = []
    loaded.prepare(seed=3, on_part=lambda done, total: parts.append((done, total)))
    count = 2 if case == "stt" else 3  # encoder, language model, and a decoder where something is said
    assert parts == [(done, count) for done in range(count)] and len(traced) == count
    if case == "stt":
        a, b = (list(each.run(speech(10), 24_000, seed=3, tail=0).text_tokens) for each in (loaded, model(case, "torch")))
        assert a == b
    else:
        assert_runs_alike(loaded, model(case, "torch"), seed=3)
    assert len(traced) == count  # what has been prepared is used


def test_guidance_and_a_persona_too(traced: list[Any]) -> None:
    formats = DATA / "formats"
    hibikis = [clearline.load(formats / "hibiki", backend="torch", compile=compile) for compile in (True, False)]
    assert_runs_alike(*hibikis, seed=3, guidance=3.0)
    personas = [clearline.load(formats / "personaplex", backend="torch", compile=compile) for compile in (True, False)]
    persona = Persona("be kind", silence=tuple(code % 32 for code in SILENCE), sine=tuple(code % 32 for code in SINE))
    assert_runs_alike(*personas, frames=4, persona=persona)


@pytest.mark.parametrize("settings", [{"quantize": "q8"}, {"quantize": "q4"}, {"dtype": "float64"}])
def test_quantised_and_in_other_types(settings: dict[str, Any], traced: list[Any]) -> None:
    folder = DATA / "moshi_d1"
    assert_runs_alike(*(clearline.load(folder, backend="torch", compile=compile, **settings) for compile in (True, False)))


def test_half_precision_is_near(traced: list[Any]) -> None:
    loaded = [clearline.load(DATA / "moshi_d1", backend="torch", compile=c, dtype="bfloat16") for c in (True, False)]
    a, b = (next(iter_frames(each)).lm.text_logits for each in loaded)
    assert np.abs(b).max() > 0 and np.abs(a - b).max() <= 0.05 * np.abs(b).max()


def iter_frames(loaded: clearline.Model) -> Any:
    with loaded.session(seed=1) as session:
        for frame in speech(3).reshape(-1, 1920):
            yield session.step(frame)


def test_every_length_of_the_past_is_compiled(traced: list[Any]) -> None:
    """Two of them: up to 1024 positions, and all."""
    loaded = clearline.load(DATA / "moshi_d1", backend="torch", compile=True)
    frame = loaded.lanes(1)._frame
    spec = StateSpec("ring", "ring", (1, 2, 2999, 4), 1)
    assert loaded.backend.lanes([spec], full=True)["ring"].lengths == [1024, 3000]
    assert model("moshi_d1", "torch").backend.lanes([spec], full=True)["ring"].lengths == [64, 128, 256, 512, 1024, 2048, 3000]
    traced.clear()
    frame._rings[0].lengths = [8, frame._rings[0].size]
    for ring in frame._rings[1:]:
        ring.lengths = frame._rings[0].lengths
    parts: list[int] = []
    frame.prepare(lambda done, total: parts.append(total))
    assert parts == [4] * 4 and len(traced) == 1  # the others are there


def test_the_name_of_a_backend_may_ask_for_it(traced: list[Any]) -> None:
    assert clearline.load(DATA / "moshi_d1", backend="torch/cpu/compiled").compiled
    assert not clearline.load(DATA / "moshi_d1", backend="torch/cpu").compiled


@pytest.mark.parametrize("backend", ["onnx", "numpy64", "auto"])
def test_other_backends_refuse_it(backend: str) -> None:
    with pytest.raises(BackendError, match="--compile is for --backend torch"):
        clearline.load(DATA / "moshi_d1", backend=backend, compile=True)


def test_what_has_no_frames_is_not_silently_left_uncompiled() -> None:
    for ask, what in (
        (lambda: clearline.load_codec(DATA / "moshi_d1", backend="torch/compiled"), "a codec alone"),
        (lambda: clearline.load(DATA / "moshi_d1", backend="torch", compile=True, lm_only=True), "a language model alone"),
    ):
        with pytest.raises(ConfigError, match=f"frames of sessions, which {what} has not: leave out --compile, or /compiled"):
            ask()


def test_the_codec_of_a_model_in_half_precision_is_compiled_with_it() -> None:
    loaded = clearline.load(DATA / "moshi_d1", backend="torch/bfloat16/compiled")
    assert loaded.backend.dtype == "bfloat16" and loaded.mimi.backend.dtype == "float32"
    assert loaded.backend.compiles and loaded.mimi.backend.compiles


def test_settings_that_lanes_cannot_have_are_refused(traced: list[Any]) -> None:
    loaded = clearline.load(DATA / "moshi_d1", backend="torch", compile=True)
    with pytest.raises(ConfigError, match="compiled frames remember 256 tokens"):
        loaded.session(text=Sampling(repetition_penalty=1.2, repetition_context=300))
    for ask in (loaded.session, loaded.prepare):
        with pytest.raises(ConfigError, match="guidance needs a model with conditions"):
            ask(guidance=2.0)
    assert not traced


def test_what_cannot_be_compiled_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("\nno compiler here\nand much more")

    monkeypatch.setattr(torch, "compile", lambda function, **options: refuse)
    with pytest.raises(BackendError, match=r"torch.compile fails here \(RuntimeError: no compiler here\): leave out --compile"):
        clearline.load(DATA / "moshi_d1", backend="torch", compile=True).prepare()


def test_code_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"hidden": torch.ones(2, 3), "text_logits": torch.arange(6.0), "audio_logits": torch.ones(1)}
    for name, refused in (("hidden", True), ("text_logits", True), ("audio_logits", False)):  # which depend on tokens drawn
        monkeypatch.setattr(torch, "compile", lambda function, name=name, **options: lambda _: good | {name: good[name] * 1.5})
        if refused:
            with pytest.raises(BackendError, match=f"computes other {name} \\(error 2.5e-01, at most 5e-02\\) on this machine"):
                compiled(lambda: good)
        else:
            compiled(lambda: good)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_attention_key_by_key_is_attention(dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(2, 3, rows, 16, dtype=dtype) for rows in (2, 9, 9))
    mask = torch.zeros(2, 1, 2, 9, dtype=dtype)
    mask[0, 0, 0, 1:] = mask[1, 0, 1, :8] = -torch.inf  # but for one, all hidden
    y = attend_one_by_one(q, k, v, mask)
    assert y.dtype == dtype
    torch.testing.assert_close(y, attend_exactly(q, k, v, mask))
