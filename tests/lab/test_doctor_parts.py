"""The doctor's measurements one by one, on data made for them."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.checkpoints import DATA, model

from clearline.audio import Recording, to_mono
from clearline.backends import get_backend
from clearline.config import Sampling
from clearline.errors import ClearlineError
from clearline.lab.doctor import Evidence
from clearline.lab.doctor.alignment import look_at_alignment
from clearline.lab.doctor.blind import guises, look_at_codes, look_at_signal
from clearline.lab.doctor.configuration import look_at_files, look_at_setup
from clearline.lab.doctor.drawing import measure
from clearline.lab.doctor.encoding import agree, converse
from clearline.lab.doctor.files import read_runs, read_times
from clearline.lab.doctor.finding import Chart, Finding
from clearline.lab.doctor.links import link
from clearline.lab.doctor.machine import look_at_machine
from clearline.lab.doctor.odd import OddBackend
from clearline.lab.doctor.records import look_at_records, look_at_transcript, similarity
from clearline.lab.doctor.sound import fit, linear
from clearline.lab.doctor.speaking import explain, underfilled, zero_runs
from clearline.lab.doctor.thinking import loss_at
from clearline.lab.doctor.timing import look_at_times, underruns
from clearline.lab.doctor.verdict import conclude
from clearline.ops import Weight
from clearline.trace import Trace

RNG = np.random.default_rng(3)


def names(look, *arguments):
    chart = Chart()
    look(*arguments, chart)
    return sorted(chart.names())


def voice(seconds: float = 1.0, rate: int = 24_000) -> np.ndarray:
    """A tone that glides, with noise: no two moments alike."""
    t = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(1).standard_normal(len(t))
    return (0.3 * np.sin(2 * np.pi * (200 * t + 300 * t**2)) * (1 + np.sin(9 * t)) / 2 + 0.02 * noise).astype(np.float32)


# Alignment


@pytest.mark.parametrize(("lag", "offset"), [(0, 0), (1, 0), (3, 0), (-2, 0), (2, 1), (1, -1)])
def test_a_lag_and_an_offset_are_measured(lag, offset):
    source = RNG.integers(1, 1000, 60)
    target = np.roll(source, lag) + offset
    found = link(target[5:-5], source[5:-5], 5000)
    assert (found.lag, found.offset) == (lag, offset) and found.share > 0.95 and found.believed


def test_a_stream_that_stands_still_has_the_expected_lag():
    assert link(np.full(40, 7), np.full(40, 7), 99, 1).lag == 1
    assert not link(RNG.integers(0, 999, 40), RNG.integers(0, 999, 40), 5000).believed


def alignment_trace(user=(0, 1), read=(1, 0), fed=1, steps=80):
    """A trace of moshi_d1's shape: user streams with lags user[0] and user[1], codes out with lags read; tokens fed back
    after `fed` steps."""
    cfg = model("moshi_d1").config
    codes = RNG.integers(0, cfg.card, (steps, cfg.user_streams))
    tokens, text = RNG.integers(0, cfg.card, (steps, cfg.dep_q)), RNG.integers(4, 30, steps)
    row = np.full((steps, cfg.streams), cfg.card)
    out = np.full((steps, cfg.dep_q), -2)
    row[fed:, 0], row[fed:, 1 : 1 + cfg.dep_q] = text[: steps - fed], tokens[: steps - fed]
    for k in range(cfg.user_streams):
        lag = user[min(k, 1)]
        row[lag:, 1 + cfg.dep_q + k] = codes[: steps - lag, k]
    for k in range(cfg.dep_q):
        lag = read[min(k, 1)]
        out[max(read) :, k] = tokens[max(read) - lag : steps - lag, k]
    return Trace({"codes_in": codes, "row": row, "text_token": text, "audio_tokens": tokens, "codes_out": out})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"user": (1, 2)}, []),  # as MLX and Rust: a note
        ({"user": (0, 2)}, ["acoustic-delay"]),
        ({"read": (2, 0)}, ["acoustic-delay"]),
        ({"read": (0, 0)}, ["acoustic-delay"]),
        ({"user": (3, 4)}, ["user-codes-shifted"]),
        ({"fed": 2}, ["own-tokens-shifted"]),
    ],
)
def test_alignment(changes, expected):
    evidence = Evidence(model("moshi_d1"), trace=alignment_trace(**changes))
    assert names(look_at_alignment, evidence) == expected


def test_alignment_of_other_codes():
    trace = alignment_trace()
    columns = dict(trace.columns)
    turned = Trace(columns | {"codes_out": columns["codes_out"][:, ::-1]})
    assert names(look_at_alignment, Evidence(model("moshi_d1"), trace=turned)) == ["codebooks-permuted"]
    moved = Trace(columns | {"codes_out": np.where(columns["codes_out"] < 0, -2, columns["codes_out"] + 1)})
    assert names(look_at_alignment, Evidence(model("moshi_d1"), trace=moved)) == ["audio-vocabulary-offset"]
    other = Trace(columns | {"codes_out": RNG.integers(0, 32, columns["codes_out"].shape)})
    assert names(look_at_alignment, Evidence(model("moshi_d1"), trace=other)) == ["unexplained-alignment"]
    narrow = Trace(columns | {"row": columns["row"][:, :9]})
    assert names(look_at_alignment, Evidence(model("moshi_d1"), trace=narrow)) == ["config-of-another-model"]


# Time, records


def test_underruns():
    assert underruns(np.full(100, 70.0)) == 0
    assert underruns(np.full(100, 100.0)) > 50
    # One hiccup of a second is one late frame more than the buffer holds, not a program that is too slow.
    hiccup = np.full(100, 20.0)
    hiccup[50] = 1000.0
    assert 1 <= underruns(hiccup) <= 2 and underruns(hiccup, buffered=20) == 0


def test_times():
    assert names(look_at_times, np.full(50, 120.0)) == ["too-slow"]
    assert names(look_at_times, np.full(50, 20.0)) == [] == names(look_at_times, None)
    # A machine that is busy with something else is not a program that is too slow.
    chart = Chart()
    look_at_times(np.full(50, 120.0), chart, np.full(50, 10.0))
    assert not chart.faults and "10 ms of that are the program's own" in chart.findings[0].what
    chart = Chart()
    look_at_times(np.full(50, 120.0), chart, np.full(50, 110.0))
    assert chart.names() == {"too-slow"}
    # The first frame may take as long as it likes.
    assert names(look_at_times, np.array([5000.0, *[20.0] * 50])) == []
    chart = Chart()
    look_at_times(np.full(50, 120.0), chart)
    assert conclude(chart, Evidence()).kind == "too slow" and "not to blame" in conclude(chart, Evidence()).paragraph


def runs(*records):
    return Evidence(runs=[dict(zip(("run_id", "seed", "output", "seconds", "started"), record, strict=True)) for record in records])


def test_records():
    a, b = ("1", 7, "x", 1.0, "09:00"), ("2", 7, "x", 1.0, "09:01")
    assert names(look_at_records, runs(a, b)) == []
    assert names(look_at_records, runs(a, a)) == ["cached-result"]
    assert names(look_at_records, runs(a, ("2", 7, "x", 0.0, "09:01"))) == ["cached-result"]
    assert names(look_at_records, runs(a, ("2", 7, "y", 1.0, "09:01"))) == ["not-deterministic"]
    assert names(look_at_records, runs(a, ("2", 8, "y", 1.0, "09:01"))) == []


def test_stale_files():
    trace = Trace({"codes_out": np.zeros((3, 8), int)}, {"input": "aaa", "output": "bbb"})
    assert names(look_at_records, Evidence(trace=trace, input_hash="aaa", output_hash="bbb")) == []
    assert names(look_at_records, Evidence(trace=trace, input_hash="aaa", output_hash="ccc")) == ["stale-result"]


def test_transcripts():
    heard = Evidence(transcript="Thanks for watching!")
    assert names(look_at_transcript, heard, "The capital of France is Paris.") == ["hallucinated-transcript"]
    assert names(look_at_transcript, heard, "thanks for watching") == [] == names(look_at_transcript, Evidence(), "anything")
    chart = Chart()
    look_at_transcript(heard, None, chart)
    assert not chart.faults and "proves nothing" in chart.findings[0].what
    assert similarity("a b c d", "a b c d") == 1 and similarity("a b", "c d") == 0 and similarity("a b c d", "a b x y") == 0.5


# Sound


def test_fits():
    a = voice()
    assert fit(a, a).plain
    assert fit(a, 0.5 * a).gain == pytest.approx(0.5, abs=1e-4) and fit(a, a[::-1].copy()).transform == "reversed in time"
    late = np.concatenate([np.zeros(300, np.float32), a])
    assert fit(a, late).lag == 300 and abs(fit(a, late).correlation) > 0.999
    assert abs(fit(a, RNG.standard_normal(len(a)).astype(np.float32)).correlation) < 0.1


def wav(pcm, rate=24_000):
    return Recording((np.rint(np.asarray(pcm) * 32768) / 32768).astype(np.float32)[:, None], rate)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda a: wav(a), ""),
        (lambda a: wav(to_mono(a, 24_000, 48_000), 48_000), ""),
        (lambda a: wav(a, 16_000), "output-wrong-rate"),
        (lambda a: wav(to_mono(a, 24_000, 44_100)), "output-wrong-rate"),
        (lambda a: wav(linear(a, 24_000, 44_100), 44_100), "output-linear-resampling"),
        (lambda a: wav(a[::-1]), "buffer-reversed"),
        (lambda a: wav(a.reshape(-1, 1920)[:, ::-1].reshape(-1)), "samples-reversed"),
        (lambda a: wav(a.reshape(-1, 1920)[::-1].reshape(-1)), "frames-reversed"),
    ],
)
def test_the_way_to_the_file(make, expected):
    a = voice(0.96)
    assert explain(a, 24_000, make(a)).name == expected


def test_holes():
    a = voice(2.0)
    blocks = a[: len(a) // 900 * 900].reshape(-1, 900)
    inserted = np.pad(blocks, ((0, 0), (0, 60))).reshape(-1)
    replaced = a.copy()
    replaced[np.arange(len(a)) % 960 >= 900] = 0
    for broken, words in ((inserted, "between"), (replaced, "in place of")):
        found = underfilled(a, broken)
        assert found is not None and found.name == "callback-underfilled" and words in found.what
    assert underfilled(a, a) is None and underfilled(a, np.where(np.arange(len(a)) < 24_000, 0, voice(2.0)[::-1])) is None
    assert zero_runs(np.array([1.0, *[0.0] * 16, 1, 0, 0, 1])).sum() == 16


def test_a_recording_by_itself():
    a = voice(2.0)
    assert names(look_at_signal, wav(a)) == []
    assert names(look_at_signal, wav(np.clip(8 * a, -0.9, 0.9))) == ["output-level"]
    holed = a.copy()
    holed[np.arange(len(a)) % 960 >= 860] = 0
    assert names(look_at_signal, wav(holed)) == ["callback-underfilled"]
    chart = Chart()
    look_at_signal(wav(0 * a), chart)
    assert not chart.faults and chart.findings[0].name == "silent"


# Codes


class Echo:
    """A codec of two codebooks whose sound tells exactly whether the second is 7 times the first, modulo its bins."""

    frame_size, sample_rate = 64, 24_000
    # Codes that are near each other sound nothing alike.
    weights = {  # noqa: RUF012
        f"quantizer.{half}.vq.layers.0._codebook.embedding": Weight(half, RNG.standard_normal((997, 4)))
        for half in ("rvq_first", "rvq_rest")
    }

    class cfg:  # noqa: N801
        bins, n_q, n_q_semantic = 997, 2, 1

    def decode(self, codes):
        pcm = np.zeros((codes.shape[1], 64))
        pcm[:, 0], pcm[:, 1], pcm[:, 2:] = codes[0] / 997, codes[1] / 997, 0.5
        return pcm.reshape(-1)

    def encode(self, pcm, codebooks):
        frames = pcm.reshape(-1, 64)
        first, second = (np.rint(frames[:, k] * 997).astype(int) for k in (0, 1))
        good = second == first * 7 % 997
        # Sound that belongs to no codes still has codes, and those belong together.
        first = np.where(good, first, (first + 13) % 997)
        return np.stack([first, first * 7 % 997])


def echoed(frames=80):
    first = np.random.default_rng(1).permutation(np.arange(1, 990))[:frames]
    return np.stack([first, first * 7 % 997])


def test_codes_alone():
    codes = echoed()
    assert names(look_at_codes, Echo(), codes) == []
    late = np.stack([codes[0, 1:], codes[1, :-1]])
    assert names(look_at_codes, Echo(), late) == ["acoustic-delay"]
    far = np.stack([codes[0, 4:], codes[1, :-4]])  # farther than the sweep moves
    assert names(look_at_codes, Echo(), far) == ["acoustic-delay"]
    assert names(look_at_codes, Echo(), codes[::-1].copy()) == ["codebooks-permuted"]
    assert names(look_at_codes, Echo(), np.minimum(codes + 1, 996)) == ["audio-vocabulary-offset"]
    shuffled = np.stack([codes[0], np.random.default_rng(0).permutation(codes[1])])
    assert names(look_at_codes, Echo(), shuffled) == ["unexplained-tokens"]
    beyond = codes.copy()
    beyond[:, :4] = 2048
    assert names(look_at_codes, Echo(), beyond) == ["codes-out-of-range"]
    assert names(look_at_codes, Echo(), codes[:, :10]) == []
    assert names(look_at_codes, Echo(), np.repeat(codes[:, 5:8], 27, 1)) == ["codes-stuck"]


def test_frames_out_of_order(monkeypatch):
    """Codes that come back, in an order that a permutation test cannot tell from a random one."""
    monkeypatch.setattr("clearline.lab.doctor.blind.order_p", lambda codec, codes: 0.4)
    monkeypatch.setattr("clearline.lab.doctor.blind.SURE", 1.1)
    assert names(look_at_codes, Echo(), echoed()) == ["frames-out-of-order"]
    monkeypatch.setattr("clearline.lab.doctor.blind.order_p", lambda codec, codes: 0.002)
    assert names(look_at_codes, Echo(), echoed()) == []


def test_guises_keep_the_shape():
    assert all(
        guise.codes.shape == (2, 80) and guise.codes.min() >= 0 and guise.codes.max() < 997 for guise in guises(echoed(), 997)
    )


def test_one_stream_of_the_codec():
    chosen = model("moshi_d1").mimi
    pcm = voice(0.8).reshape(-1, 1920)
    codes, sound = converse(chosen, pcm, None, 8)
    assert (codes == chosen.encode(pcm.reshape(-1), 8)).all() and sound.shape == (0, 1920)
    _, sound = converse(chosen, None, np.concatenate([np.full((1, 8), -2), codes.T]), 1)
    assert not sound[0].any() and np.allclose(sound[1:].reshape(-1), chosen.decode(codes), atol=1e-6)
    assert agree(codes, codes).tolist() == [1] * 8
    assert agree(codes, np.where(np.arange(10) < 5, codes, -2)).tolist() == [1] * 8


# Sampling


def test_how_tokens_were_drawn():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((400, 50)) * 2

    def drawn(temperature, keep=50):
        out = []
        for row in logits:
            z = row / temperature
            z[np.argsort(z)[:-keep]] = -np.inf
            p = np.exp(z - z.max())
            out.append(rng.choice(50, p=p / p.sum()))
        return np.array(out)

    how = Sampling(0.8, top_k=10)
    right = measure(logits, drawn(0.8, 10), how)
    assert right.outside == 0 and abs(right.greedy - right.expected_greedy) < 4 * right.spread
    assert measure(logits, drawn(0.8), how).outside > 0
    hot, greedy = measure(logits, drawn(2.0), how), measure(logits, logits.argmax(1), how)
    assert 1.5 < hot.temperature < 2.7 and hot.gain > 6
    assert greedy.greedy == 1 and greedy.greedy - greedy.expected_greedy > 4 * greedy.spread
    assert loss_at(logits[:1], np.array([99]), 1.0) == 30.0  # a token outside the vocabulary


# Machine, configuration


@pytest.mark.parametrize("backend", ["onnx", "numpy64"])
def test_the_machine(backend):
    assert names(look_at_machine, get_backend(backend)) == []


@pytest.mark.parametrize(
    ("operation", "wrong", "named"),
    [
        ("rope", lambda ops, x, at, period, layout: ops.rope(x, at, period, "halves"), "rope, interleaved"),
        ("rms_norm", lambda ops, x, gain, eps: ops.rms_norm(x, gain, 0.1), "rms_norm"),
        ("activation", lambda ops, x, name, alpha=1.0: ops.activation(x, "relu" if name == "elu" else name), "elu"),
        (
            "ring_attend",
            lambda ops, q, k, v, ring, at, context, rows: ops.ring_attend(q, k, v, ring, at, context - 1, rows),
            "ring_attend",
        ),
    ],
)
def test_a_broken_operation_is_named(operation, wrong, named):
    chart = Chart()
    look_at_machine(OddBackend(get_backend("numpy64"), {operation: wrong}), chart)
    assert [f.name for f in chart.faults] == ["broken-operation"] and named in chart.faults[0].what


def test_configuration():
    folder = str(DATA / "moshi_d1")
    assert names(look_at_files, Evidence(folder=folder)) == []
    assert names(look_at_setup, Evidence(folder=folder, setup="@pytorch:server")) == []
    assert names(look_at_setup, Evidence(folder=folder, setup="@rust:moshi-cli")) == ["acoustic-delay"]
    assert names(look_at_setup, Evidence(folder=folder, setup="mlx:config_v0_1")) == ["config-of-another-model"]
    with pytest.raises(ClearlineError, match="neither a file"):
        look_at_setup(Evidence(folder=folder, setup="nothing"), Chart())


# Verdict, files


def finding(name, kind, confidence=0.9):
    return Finding(name, kind, "x", f"{name} is wrong", "seen", "mend it", confidence)


def test_the_paragraph():
    chart = Chart()
    for name, kind in (("unexplained-output", "wrong audio path"), ("too-slow", "too slow"), ("acoustic-delay", "wrong tokens"),
                       ("garbled", "wrong audio path"), ("remark", "note")):  # fmt: skip
        chart.found(finding(name, kind))
    chart.passed("machine", "it computes")
    found = conclude(chart, Evidence())
    assert found.names == ("acoustic-delay", "too-slow", "unexplained-output") and found.kind == "wrong tokens" and not found.well
    assert "\n" not in found.paragraph and found.paragraph.startswith("WRONG TOKENS: ") and "In order: machine" in found.paragraph
    assert "Note: remark is wrong" in found.paragraph and "Confidence 90%" in found.paragraph
    nothing = conclude(Chart(), Evidence())
    assert nothing.well and "too little to look at" in nothing.paragraph
    alone = Chart()
    alone.found(finding("garbled", "wrong audio path"))
    assert conclude(alone, Evidence()).names == ("garbled",)


def test_the_same_name_is_told_once():
    chart = Chart()
    chart.found(finding("acoustic-delay", "wrong tokens"))
    chart.found(replace(finding("acoustic-delay", "wrong tokens"), boundary="y"))
    assert len(chart.findings) == 1 and len(chart.checks) == 2


def test_reading_times_and_runs(tmp_path):
    (tmp_path / "a").write_text("[1, 2.5]")
    (tmp_path / "b").write_text("1\n2.5\n")
    assert read_times(tmp_path / "a").tolist() == read_times(tmp_path / "b").tolist() == [1, 2.5]
    (tmp_path / "c").write_text('{"first": {"runs": [{"run_id": "1"}], "repeated": {"run_id": "2"}}}')
    (tmp_path / "d").write_text('[{"run_id": "1"}]')
    assert [len(read_runs(tmp_path / name)) for name in "cd"] == [2, 1]
    for name, text in (("e", "soon"), ("f", "[-1]"), ("g", '[["x"]]')):
        (tmp_path / name).write_text(text)
        with pytest.raises(ClearlineError):
            read_times(tmp_path / name)
    (tmp_path / "h").write_text("[]")
    for name in "eh":
        with pytest.raises(ClearlineError):
            read_runs(tmp_path / name)
