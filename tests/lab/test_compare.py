"""The first divergence and its kind: on traces made by hand, and on runs of the small official-format models."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.checkpoints import DATA, GREEDY, golden, model, speech
from safetensors.numpy import save_file

from clearline import Sampling
from clearline.errors import ClearlineError
from clearline.lab.compare import compare, compare_sides
from clearline.lab.compare.forced import force, judge_tokens
from clearline.lab.live import Side
from clearline.trace import LOGITS, PCM, TOKENS, MemoryRecorder, Trace, write_trace

MODEL = DATA / "moshi_d1"


def trace(**columns) -> Trace:
    return Trace({name: np.asarray(column) for name, column in columns.items()})


def run(frames: int = 40, backend: str = "onnx", **settings) -> Trace:
    recorder = MemoryRecorder(TOKENS | LOGITS | PCM)
    chosen = model("moshi_d1", backend)
    chosen.run(speech(frames), 24_000, settings.pop("preset", None), tail=0, recorder=recorder, input_hash="x", **settings)
    return recorder.trace()


# Two steps of logits whose best tokens are 2 and then, barely, 1.
LOGITS_A = np.array([[0.0, 1.0, 5.0], [0.0, 4.0, 3.99999]])


def test_equal_and_cut():
    a = trace(text_token=[1, 2, 3], hidden=np.ones((3, 4), np.float32))
    assert compare(a, a, 1e-4).kind == "equal"
    nearly = trace(text_token=[1, 2, 3], hidden=np.ones((3, 4), np.float32) * np.float32(1.00001))
    found = compare(a, nearly, 1e-4)
    assert found.equal and found.kind == "rounding" and 0.9e-5 < found.differences[0].largest < 1.1e-5
    assert compare(a, trace(text_token=[1, 2], hidden=np.ones((2, 4))), 1e-4).kind == "cut"
    with pytest.raises(ClearlineError, match="nothing to compare"):
        compare(a, trace(codes_in=[[1]]), 1e-4)


def test_a_tie():
    """Rounding of 1e-5 turns a choice whose margin is 1e-5."""
    other = LOGITS_A + np.array([[0, 0, 0], [0, -1e-5, 1e-5]])
    found = compare(trace(text_logits=LOGITS_A, text_token=[2, 1]), trace(text_logits=other, text_token=[2, 2]), 1e-4)
    assert found.kind == "a tie" and found.first.frame == 1 and found.choice.how == "greedy"
    assert found.choice.margin_a == pytest.approx(1e-5) and found.choice.margin_b == pytest.approx(1e-5)
    assert (found.choice.token_a, found.choice.token_b) == (1, 2)


def test_another_draw_from_the_same_logits():
    found = compare(trace(text_logits=LOGITS_A, text_token=[2, 0]), trace(text_logits=LOGITS_A, text_token=[1, 0]), 1e-4)
    assert found.kind == "sampling" and found.first.frame == 0
    assert found.choice.margin_a == pytest.approx(4) and found.choice.margin_b == pytest.approx(-4)


def test_other_logits_are_another_computation():
    other = LOGITS_A + 0.1
    a = trace(row=[[1], [2]], text_logits=LOGITS_A, text_token=[2, 1])
    found = compare(a, trace(row=[[1], [2]], text_logits=other, text_token=[2, 2]), 1e-4)
    assert found.kind == "a different computation" and "text head" in found.why and found.first.frame == 0
    assert any("bfloat16" in note for note in found.notes)
    far = compare(a, trace(row=[[1], [2]], text_logits=LOGITS_A * 2, text_token=[2, 2]), 1e-4)
    assert far.kind == "a different computation" and not any("bfloat16" in note for note in far.notes)


def test_where_in_the_frame_it_begins():
    """The earliest frame wins, then the boundary that is crossed first."""
    same = np.zeros((4, 2))
    late, early = same.copy(), same.copy()
    late[3], early[1] = 1, 1
    a = trace(pcm_in=same, row=np.zeros((4, 2), int), hidden=same + 1, pcm_out=same + 1)
    b = trace(pcm_in=same, row=np.zeros((4, 2), int), hidden=same + 1 + late, pcm_out=same + 1 + early)
    found = compare(a, b, 1e-4)
    assert (found.first.boundary, found.first.frame) == ("pcm_out", 1) and "decoder" in found.why
    both = compare(a, trace(pcm_in=same, row=np.zeros((4, 2), int), hidden=same + 1 + early, pcm_out=same + 1 + early), 1e-4)
    assert both.first.boundary == "hidden" and "row" in both.why


def test_a_different_input():
    codes = np.random.default_rng(0).integers(0, 32, (20, 4))
    a = trace(pcm_in=np.ones((20, 3)), codes_in=codes)
    b = trace(pcm_in=np.ones((20, 3)) * np.linspace(1, 2, 20)[:, None], codes_in=codes)
    assert compare(a, b, 1e-4).kind == "a different input"
    shifted = compare(trace(codes_in=codes), trace(codes_in=np.roll(codes, 1, 0)), 1e-4)
    assert shifted.kind == "a different input" and "1 frame later" in shifted.why
    encoder = compare(a, Trace(dict(a.columns) | {"codes_in": np.random.default_rng(1).integers(0, 32, (20, 4))}), 1e-4)
    assert encoder.kind == "a different computation" and "encoder" in encoder.why


def test_misaligned_output_is_named():
    """Nothing but the codes of two programs: the acoustic codebooks of one come a frame late."""
    codes = np.random.default_rng(0).integers(0, 2048, (60, 8))
    late = np.concatenate([codes[:-1, :1], np.roll(codes, 1, 0)[:-1, 1:]], 1)
    found = compare(trace(codes_out=codes), trace(codes_out=late), 1e-4)
    assert found.kind == "a different computation" and "1 frame later against the semantic one" in found.why


def test_without_logits_facts_may_tell():
    a, b = trace(text_token=[1, 2]), trace(text_token=[1, 3])
    assert compare(a, b, 1e-4).kind == "undecided"
    same = {"input": "i", "weights": "w"}
    seeds = compare(replace(a, facts=same | {"seed": 1}), replace(b, facts=same | {"seed": 2}), 1e-4)
    assert seeds.kind == "sampling" and "seed" in seeds.why
    assert compare(replace(a, facts={"input": "i"}), replace(b, facts={"input": "j"}), 1e-4).kind == "a different input"
    weights = compare(replace(a, facts={"weights": "w"}), replace(b, facts={"weights": "v"}), 1e-4)
    assert weights.kind == "a different computation" and "weights" in weights.why


def test_the_same_model_on_two_backends():
    a, b = run(), run(backend="numpy64")
    found = compare_sides(Side("a", a, model("moshi_d1")), Side("b", b, model("moshi_d1", "numpy64")), 1e-4)
    assert found.equal, found.why
    # A's tokens through B's model, and B's through A's.
    assert max(found.forced_error["A"].values()) < 1e-5 and max(found.forced_error["B"].values()) < 1e-5


def test_the_acoustic_delay_is_found_at_the_row():
    """What the seeds hunted for a month: everything equal but the delay."""
    a, b = run(preset=GREEDY), run(preset=replace(GREEDY, acoustic_delay=2))
    found = compare(a, b, 1e-4)
    assert found.kind == "a different computation" and found.first.boundary == "row"
    assert "alignment" in found.why and "alignment" in found.other_facts


def test_another_seed_is_another_draw_and_the_same_model():
    a, b = run(seed=1), run(seed=2)
    found = compare_sides(Side("a", a), Side("b", b), 1e-4, model("moshi_d1"))
    assert found.kind == "sampling" and found.other_facts == ["seed"]
    assert all(judgement.plausible for judged in found.judgements.values() for judgement in judged)
    # Tokens alone, settings unknown: only forcing them through the model can tell.
    bare = [Trace({name: t.columns[name] for name in ("row", "text_token", "audio_tokens")}) for t in (a, b)]
    assert compare(*bare, 1e-4).kind == "undecided"
    assert compare_sides(Side("a", bare[0]), Side("b", bare[1]), 1e-4, model("moshi_d1")).kind == "sampling"


def test_tokens_of_another_model_are_not_plausible():
    a, b = run(60, seed=1), run(60, seed=2)
    strange = dict(b.columns) | {"audio_tokens": (b.columns["audio_tokens"] + 1) % 32}
    bare = Trace({name: strange[name] for name in ("row", "text_token", "audio_tokens")})
    known = Trace({name: a.columns[name] for name in bare.columns})
    found = compare_sides(Side("a", known), Side("b", bare), 1e-4, model("moshi_d1"))
    assert found.kind == "a different computation" and "B's audio" in found.why and "A's" not in found.why


def test_forced_logits_are_kyutais():
    """Kyutai's own greedy run forced through ours gives Kyutai's logits, and every token is the best one."""
    found = golden("moshi_d1")
    chosen = model("moshi_d1")
    generator = chosen.generator(GREEDY)
    steps = range(40)
    rows = np.stack([generator.step(found["user_codes"][t]).row for t in steps])
    columns = {"row": rows, "text_token": found["text_token"][:40], "audio_tokens": found["audio_tokens"][:40]}
    forced = force(chosen, Trace(columns))
    for i, t in enumerate(found["logit_frames"]):
        if t < 40:
            for name in ("hidden", "text_logits", "audio_logits"):
                np.testing.assert_allclose(getattr(forced, name)[t], found[name][i], atol=1e-4 * np.abs(found[name][i]).max())
    judged = judge_tokens(forced, Trace(columns), chosen, GREEDY)
    assert [j.stream for j in judged] == ["text", *(f"audio {k}" for k in range(8))]
    assert all(j.best == 1.0 and j.impossible == 0 and j.plausible for j in judged)


def test_surprise_is_standard_normal_under_the_right_settings_and_not_under_others():
    chosen = model("moshi_d1")
    right = chosen.generation(audio=Sampling(temperature=0.8), text=Sampling(temperature=0.8))
    surprises = []
    for seed in range(6):
        recorded = run(60, preset=right, seed=seed)
        forced = force(chosen, recorded)
        judged = judge_tokens(forced, recorded, chosen, right)
        surprises += [j.surprise for j in judged]
        wrong = judge_tokens(
            forced, recorded, chosen, replace(right, audio=Sampling(temperature=0.4), text=Sampling(temperature=2.0))
        )
        assert not all(j.plausible for j in wrong)
        assert wrong[0].surprise < -4 and max(j.surprise for j in wrong[1:]) > 4  # too sure of itself, too wild
    # 54 draws of a standard normal: mean within 4/sqrt(54), standard deviation near 1.
    assert abs(np.mean(surprises)) < 0.55 and 0.7 < np.std(surprises) < 1.35


def test_forcing_refuses_what_does_not_fit():
    chosen, recorded = model("moshi_d1"), run(4)
    with pytest.raises(ClearlineError, match="needs the boundary row"):
        force(chosen, Trace({"text_token": np.zeros(3, int)}))
    with pytest.raises(ClearlineError, match="another model"):
        force(model("delay2"), recorded)
    gap = {name: column.copy() for name, column in recorded.columns.items() if name in TOKENS}
    gap["row"][2] = -2
    with pytest.raises(ClearlineError, match="without gaps"):
        force(chosen, Trace(gap))


# The command.


def test_command_equal_is_0_and_different_is_1(clearline, hello, tmp_path):
    answer = clearline("compare", "run:onnx", "run:numpy64", "-i", hello, "-m", MODEL)
    assert answer.code == 0 and "ROUNDING" in answer.out and "10 steps" in answer.out
    assert clearline("compare", hello, hello).out.splitlines()[2].startswith("EQUAL")
    write_trace(tmp_path / "a.trace", run(10, seed=1))
    write_trace(tmp_path / "b.trace", run(10, seed=2))
    answer = clearline("compare", tmp_path / "a.trace", tmp_path / "b.trace", "--json")
    report = json.loads(answer.out)
    assert answer.code == 1 and report["kind"] == "sampling" and report["equal"] is False
    assert report["first"]["boundary"] == "row" and len(report["agreement"]["codes_in"]) == 8
    assert report["facts"]["A"]["seed"] == 1 and report["facts"]["B"]["weights"] == report["facts"]["A"]["weights"]
    assert report["hashes"].keys() == {"a", "b"} and report["version"]
    columns = run(10).columns
    save_file({"text_token": columns["text_token"]}, tmp_path / "a.safetensors")
    save_file({"text_token": columns["text_token"] + 1}, tmp_path / "b.safetensors")
    assert clearline("compare", tmp_path / "a.safetensors", tmp_path / "b.safetensors").code == 3  # undecided
    answer = clearline("compare", tmp_path / "a.trace", "run:onnx@greedy", "-i", hello, "-m", MODEL)
    assert answer.code == 1 and answer.out.startswith(f"A: {tmp_path}")


def test_command_refuses(clearline, hello, tmp_path):
    (tmp_path / "log").write_text("nothing here")
    for arguments, words in (
        (["a.npy"], "two sides"),
        (["a.npy", "b.npy"], "a.npy does not exist"),
        (["run:onnx", "run:onnx"], "--input"),
        (["run:metal", "run:onnx", "-i", hello], "no backend 'metal'"),
        (["peer:whisper", "run:onnx", "-i", hello], "no peer 'whisper'"),
        ([tmp_path / "log", tmp_path / "log"], "MOSHI_DEBUG"),
        ([hello, "b", "--peers"], "--peers takes one recording"),
        ([hello, "--peers", "--backends", "onnx,numpy64"], "--peers takes one recording and nothing else"),
        ([hello, "--peers", "--model-b", "nano"], "--peers takes one recording and nothing else"),
        ([hello, "--backends", "onnx,numpy64", "--layers"], "--layers looks into two sides"),
        ([hello, hello, "--frames", 3], "are for a side that is run now"),
        ([hello, hello, "-i", hello], "are for a side that is run now"),
        ([hello, hello, "--preset", "greedy"], "are for a side that is run now"),
    ):
        answer = clearline("compare", *arguments)
        assert answer.code == 2 and words in answer.err and not answer.out, (arguments, answer)


@pytest.mark.parametrize("b", ["run:metal", "run:onnx@lucky", "peer:whisper", "none.trace"])
def test_a_side_that_cannot_be_had_is_known_before_the_other_one_runs(clearline, hello, monkeypatch, b):
    monkeypatch.setattr("clearline.lab.live.load", lambda *args, **kwargs: pytest.fail("a model was loaded"))
    answer = clearline("compare", "run:onnx", b, "-i", hello, "-m", MODEL)
    assert answer.code == 2 and any(words in answer.err for words in ("there is no", "does not exist"))


def test_a_side_may_have_a_device_and_a_dtype(clearline, hello):
    answer = clearline("compare", "run:onnx/cpu", "run:onnx/float32", "-i", hello, "-m", MODEL, "--frames", 2)
    assert answer.code == 0 and "EQUAL" in answer.out
