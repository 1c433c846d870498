"""The HTML report: what is in it, that it needs nothing from outside, and how it looks in a browser."""

import base64
import io
import re
import shutil
import struct
import zlib
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from helpers.checkpoints import DATA, GREEDY, model, speech
from markupsafe import Markup

from clearline.audio import Recording
from clearline.errors import ClearlineError
from clearline.generate.text import Word
from clearline.lab.backends import BackendRun
from clearline.lab.compare import compare, compare_sides
from clearline.lab.compare.choice import Choice
from clearline.lab.doctor import Check, Diagnosis, Evidence, Finding
from clearline.lab.judge import Judgement, Rates
from clearline.lab.judge import Testimony as Said
from clearline.lab.live import Side
from clearline.lab.report import (
    Figure,
    Report,
    Section,
    Table,
    backends_report,
    compare_report,
    doctor_report,
    judge_report,
    peers_report,
    render,
    trace_report,
    write_report,
)
from clearline.lab.report.figures import difference_map, heat_map, player, spectrogram, step_times, timeline, waveform
from clearline.lab.report.png import png, ramp, wheel
from clearline.trace import CLOCK, LOGITS, PCM, TOKENS, MemoryRecorder, Trace, write_trace

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
RED = (200, 30, 58)


def run(frames: int = 40, preset=GREEDY, seed: int = 1) -> Trace:
    recorder = MemoryRecorder(TOKENS | LOGITS | PCM | CLOCK)
    model("moshi_d1").run(speech(frames), 24_000, preset, tail=0, recorder=recorder, input_hash="x", seed=seed)
    return recorder.trace()


def pixels(data: bytes) -> np.ndarray:
    """A PNG as uint8 [height, width, channels]: an independent reading, filters and all."""
    at, parts = 8, {}
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        parts[kind] = parts.get(kind, b"") + data[at + 8 : at + 8 + size]
        assert zlib.crc32(data[at + 4 : at + 8 + size]) == int.from_bytes(data[at + 8 + size : at + 12 + size], "big")
        at += 12 + size
    width, height, depth, kind = struct.unpack(">IIBB", parts[b"IHDR"][:10])
    assert depth == 8
    channels = {2: 3, 3: 1, 6: 4}[kind]
    raw = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    rows = np.zeros((height + 1, (width + 1) * channels), np.int64)  # a row and a pixel of zeros before the first
    for y in range(height):
        code, row, above = raw[y, 0], raw[y, 1:].astype(np.int64), rows[y]
        out = rows[y + 1]
        if code in (0, 2):
            out[channels:] = (row + (above[channels:] if code == 2 else 0)) & 255
            continue
        for i, value in enumerate(row.tolist(), channels):
            left, up, corner = int(out[i - channels]), int(above[i]), int(above[i - channels])
            near = min((left, up, corner), key=lambda x: (abs(left + up - corner - x), (left, up, corner).index(x)))
            out[i] = (value + {1: left, 3: (left + up) // 2, 4: near}[int(code)]) & 255
    image = rows[1:, channels:].reshape(height, width, channels).astype(np.uint8)
    return np.frombuffer(parts[b"PLTE"], np.uint8).reshape(-1, 3)[image[..., 0]] if kind == 3 else image


def embedded(html: str, kind: str) -> list[bytes]:
    return [base64.b64decode(found) for found in re.findall(rf'src="data:{kind};base64,([^"]+)"', html)]


class Outside(HTMLParser):
    """Everything a page would fetch, and its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag in ("script", "link", "iframe", "object"):
            self.found.append(tag)
        self.found += [str(v) for k, v in attributes if k in ("src", "href", "srcset", "data") and not str(v).startswith("data:")]


def test_png_is_read_back():
    image = np.random.default_rng(0).integers(0, 256, (7, 13)).astype(np.uint8)
    palette = ramp((0, 0, 0), (255, 128, 0))
    np.testing.assert_array_equal(pixels(png(image, palette)), palette[image])
    assert len({tuple(colour) for colour in wheel(255).tolist()}) > 250  # two codes are hardly ever one colour


def test_a_run(tmp_path):
    trace = run()
    html = render(trace_report({"hello <b>": trace}, str(DATA / "moshi_d1")))
    assert Outside(html).found == [] and "url(" not in html and "hello <b>" not in html and "hello &lt;b&gt;" in html
    for heading in ("Sound", "Codes", "Text", "Step times", "Tokens", "Facts"):
        assert f"<h2>{heading}</h2>" in html
    sounds = [soundfile.read(io.BytesIO(data), dtype="float32") for data in embedded(html, "audio/flac")]
    heard, said = (np.nan_to_num(trace.columns[name].reshape(-1)) for name in ("pcm_in", "pcm_out"))
    for (pcm, rate), expected in zip(sounds, (heard, said), strict=True):
        assert rate == 24_000
        np.testing.assert_allclose(pcm, np.clip(expected, -1, 1), atol=1 / 32_000)
    assert "over 80 ms" in html and "80 ms</span>" in html
    tokens_only = Trace({name: trace.columns[name] for name in TOKENS})
    bare = render(trace_report({"bare": tokens_only}))
    assert "<h2>Codes</h2>" in bare and "<h2>Sound</h2>" not in bare and "<h2>Text</h2>" not in bare
    assert "<h2>Sound</h2>" in render(trace_report({"bare": tokens_only}, str(DATA / "moshi_d1")))  # decoded
    stuck = dict(tokens_only.columns) | {"codes_out": np.full((60, 8), 3)}
    report = trace_report({"stuck": Trace(stuck, complete=False)})
    assert report.tone == "bad" and "stuck" in report.evidence and "did not run to its end" in report.evidence


def test_a_comparison():
    a, b = run(), run(preset=GREEDY.__class__(text=GREEDY.text, audio=GREEDY.audio, acoustic_delay=2))
    chosen = model("moshi_d1")
    found = compare_sides(Side("a", a, chosen), Side("b", b, chosen), 1e-4, layers=True)
    html = render(compare_report(found, ("mine", a), ("theirs", b), str(DATA / "moshi_d1")))
    assert "A different computation." in html and 'class="verdict bad"' in html and Outside(html).found == []
    assert f"frame {found.first.frame}, {found.first.frame * 0.08:.2f} s, at row" in html
    assert len(embedded(html, "audio/flac")) == 4 and html.count('class="mark"') >= 10
    assert "Where the tokens agree" in html and "Step times" in html and "acoustic_delay 2" in html
    same = render(compare_report(compare_sides(Side("a", a, chosen), Side("b", a, chosen), 1e-4, layers=True), ("x", a), ("y", a)))
    assert 'class="verdict good"' in same and 'class="mark"' not in same and "Layer by layer" in same
    unsure = compare(Trace({"text_token": np.arange(3)}), Trace({"text_token": np.arange(3) + 1}), 1e-4)
    assert compare_report(unsure, ("a", Trace({})), ("b", Trace({}))).tone == "unsure"


def test_codes_have_a_colour_each_and_differences_are_red():
    codes = np.array([[1, 5], [1, 6], [-2, 5]])
    image = pixels(embedded(heat_map(codes, 1.0, "codes"), "image/png")[0])
    assert image.shape == (2, 3, 3)
    assert (image[0, 0] == image[0, 1]).all() and (image[0, 2] == (240, 240, 240)).all()
    assert (image[1, 0] == image[1, 2]).all() and (image[1, 0] != image[1, 1]).any()
    other = np.array([[1, 5], [2, 6], [1, 5]])
    differing = pixels(embedded(difference_map(codes, other, 1.0, "codes"), "image/png")[0])
    assert tuple(differing[0, 1]) == RED and tuple(differing[1, 1]) != RED and (differing[0, 2] == 240).all()


def test_a_tone_is_at_its_frequency():
    t = np.arange(24_000) / 24_000
    image = pixels(embedded(spectrogram(np.sin(2 * np.pi * 3000 * t), 24_000, 1.0, "tone"), "image/png")[0]).astype(int)
    brightest = image.sum(2).sum(1).argmax()
    assert brightest == pytest.approx(0.75 * len(image), abs=2)  # 3 of 12 kHz, from the bottom
    silent = spectrogram(np.zeros(2400), 24_000, 0.1, "nothing")
    assert len(embedded(silent, "image/png")) == 1


def test_waveform_shows_the_peak_where_it_is():
    pcm = np.zeros(9000)
    pcm[4500] = 0.5
    points = re.search(r'points="([^"]+)"', waveform(pcm, 1.0, "click"))[1].split()
    top = min((point.split(",") for point in points), key=lambda xy: float(xy[1]))
    assert float(top[1]) == pytest.approx(2) and float(top[0]) == pytest.approx(450, abs=1)
    assert "polygon" in waveform(np.zeros(0), 0.0, "nothing") and "audio" in player(np.zeros(0, np.float32), 24_000, "nothing")


def test_words_are_where_they_are_said_and_none_covers_another():
    words = [Word("far", 0.0, 0.1), Word("too", 0.08, 0.2), Word("near", 0.16, 0.3), Word("<i>", 5.0, 5.1)]
    html = timeline({"A": words, "B": []}, 6.0, mark=5.5)
    assert html.count("<svg") == 2 and "&lt;i&gt;" in html and html.count("var(--mark)") == 1
    spoken = re.findall(r'<text x="([\d.]+)" y="(\d+)" fill="var\(--a\)">([^<]+)<title>', html)
    assert [(word, float(x)) for x, _, word in spoken] == [("far", 0), ("too", 8), ("near", 16), ("&lt;i&gt;", 100)]
    assert len({y for _, y, word in spoken[:3]}) == 3


def test_late_steps_are_red():
    html = step_times(np.array([0.01, 0.2, 0.05, np.nan]))
    assert re.findall(r'<rect[^>]+fill="([^"]+)"', html) == ["var(--a)", "var(--mark)", "var(--a)", "var(--a)"]


def test_other_reports_are_made_of_the_same_parts(tmp_path):
    """What a judge or a doctor has to say: text, tables and figures."""
    table = Table([("intelligible", "yes & no")], ("witness", "says"))
    section = Section("Witnesses", ["<script>alert(1)</script>"], [Figure(Markup("<p>drawn</p>"), "a figure")], [table])
    path = tmp_path / "r.html"
    write_report(path, Report("judge", "Clear.", "p < 0.001", "good", [section]))
    html = path.read_text()
    assert "yes &amp; no" in html and "<p>drawn</p>" in html and "p &lt; 0.001" in html and "<script" not in html
    with pytest.raises(ClearlineError):
        write_report(tmp_path / "none" / "r.html", Report("a", "b", "c"))


def test_what_a_judge_says():
    testimonies = (
        Said("codec", True, "76% come <back>", {"p": 0.1}, 0.04), Said("mos", False, "distillmos is not installed")
    )  # fmt: skip
    found = Judgement("garbled", 0.97, Rates(40, 1), "nobody could", testimonies, ("a click at 0.4 s",), ("heard: hello",))
    report = judge_report("reply.wav", found, speech(5), 24_000)
    html = render(report)
    assert report.tone == "bad" and "Garbled (confidence 97%)." in html and "a click at 0.4 s" in html and "heard: hello" in html
    assert "76% come &lt;back&gt;" in html and "not asked: distillmos" in html and "4%" in html and "1 of them were not" in html
    assert len(embedded(html, "audio/flac")) == 1 and Outside(html).found == []
    assert judge_report("r", Judgement("clear", 0.9, None, "", ()), np.zeros((0, 1), np.float32), 24_000).tone == "good"


def test_what_a_doctor_says():
    finding = Finding("acoustic-delay", "wrong configuration", "row", "the delay is 2", "p < 0.01", "set it to 1", 0.99)
    checks = (Check("row", False, "off by one"), Check("machine", True, "golden"), Check("sound", None, "too short"))
    trace = Trace({"codes_out": np.arange(24).reshape(3, 8)}, {"seed": 7})
    evidence = Evidence(input=Recording(speech(4)[:, None], 24_000), trace=trace, step_ms=np.array([10.0, 90.0]))
    html = render(
        doctor_report("nano", Diagnosis(False, "wrong configuration", (finding,), (), checks, "It is the delay."), evidence)
    )
    assert "Wrong configuration." in html and "It is the delay." in html and "acoustic-delay" in html and "set it to 1" in html
    assert html.count("in order") == 1 and "could not be told" in html and "p &lt; 0.01" in html
    for heading in ("Findings", "What was looked at", "Sound", "Step times", "Codes", "Facts"):
        assert f"<h2>{heading}</h2>" in html
    assert "1 of 2 over 80 ms" in html and len(embedded(html, "audio/flac")) == 1
    well = doctor_report("nano", Diagnosis(True, "all is well", (), (), (), "Fine."), Evidence())
    assert well.tone == "good" and "<h2>Findings</h2>" not in render(well)


def test_commands(clearline, tmp_path):
    write_trace(tmp_path / "a.trace", run())
    write_trace(tmp_path / "b.trace", run(preset="kyutai-pytorch", seed=5))
    answer = clearline("report", tmp_path / "a.trace", tmp_path / "b.trace", "-o", tmp_path / "r.html", "-m", DATA / "moshi_d1")
    assert answer.code == 0 and "Run: a.trace, b.trace" in (tmp_path / "r.html").read_text()
    answer = clearline("compare", tmp_path / "a.trace", tmp_path / "b.trace", "--html", tmp_path / "c.html")
    assert answer.code == 1 and "What was compared" in (tmp_path / "c.html").read_text()
    for arguments, words in (
        (["report", "none.trace"], "does not exist"),
        (["report", tmp_path / "a.trace", "-o", tmp_path / "r.pdf"], "written as HTML"),
        (["report", tmp_path / "a.trace", "-o", tmp_path / "no" / "r.html"], "no"),
        (["compare", tmp_path / "a.trace", tmp_path / "b.trace", "--html", tmp_path / "c.txt"], "written as HTML"),
    ):
        answer = clearline(*arguments)
        assert answer.code == 2 and words in answer.err, answer


def test_the_report_of_several_implementations():
    """Every one that ran with its verdict and boundaries, every one that did not with its reason."""
    same, other = run(), run(preset="kyutai-pytorch", seed=5)
    found = {"moshi": compare(same, same, 1e-4), "rustymimi": compare(same, other, 1e-4)}
    page = render(peers_report("hello.wav", found, {"moshi_mlx": "no <wheel>"}))
    assert "1 of 2 differ." in page and "no &lt;wheel&gt;" in page and "hello.wav: Clearline and other" in page
    assert "moshi: boundaries" in page and "rustymimi: boundaries" in page and found["rustymimi"].kind in page
    assert peers_report("hello.wav", {"moshi": found["moshi"]}).verdict == "All equal."


def test_the_report_of_several_backends(clearline, hello, tmp_path):
    page = tmp_path / "b.html"
    answer = clearline(
        "compare", "--backends", "onnx,numpy64", hello, "-m", DATA / "moshi_d1", "--preset", "greedy", "--frames", 6, "--html", page
    )  # fmt: skip
    assert answer.code == 0 and "All tokens are equal." in page.read_text() and "numpy64" in page.read_text()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the path")
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.mark.parametrize(("width", "media"), [(1280, "screen"), (390, "screen"), (794, "print")])
def test_in_a_browser(browser, tmp_path, width, media):
    """On a desk, a phone, and paper: nothing is fetched, nothing sticks out, sound plays, and the divergence is where it is."""
    a = run()
    columns = {name: column.copy() for name, column in a.columns.items()}
    columns["pcm_out"][20:] *= 0.3
    b = Trace(columns, a.facts)
    found = compare(a, b, 1e-4)
    assert found.first.frame == 20
    write_report(tmp_path / "r.html", compare_report(found, ("mine", a), ("theirs", b), str(DATA / "moshi_d1")))
    page = browser.new_page(viewport={"width": width, "height": 900})
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: troubles.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
    page.goto((tmp_path / "r.html").as_uri())
    page.emulate_media(media=media)
    page.wait_for_function("[...document.querySelectorAll('audio')].every(a => a.readyState > 0)")
    assert troubles == [] and page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.querySelectorAll('audio')].map(a => a.duration)") == pytest.approx([3.2] * 4, abs=0.01)
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0 && i.clientWidth > 100)")
    assert page.evaluate("getComputedStyle(document.querySelector('audio')).display") == ("none" if media == "print" else "block")
    columns_beside = page.evaluate(
        "new Set([...document.querySelectorAll('.figures figure')].map(f => Math.round(f.offsetLeft))).size"
    )
    assert columns_beside == (1 if width == 390 else 2)
    # The screenshot of A's waveform: the red line is at 20 of 40 frames, and the sound is drawn round the middle.
    plot = page.locator(".plot").first
    image = pixels(plot.screenshot())[..., :3].astype(int)
    red = (np.abs(image - RED).sum(2) < 30).sum(0)
    assert red.argmax() == pytest.approx(20 / 40 * image.shape[1], abs=3) and red.max() > image.shape[0] // 3
    blue = (image[..., 2] - image[..., 0] > 80).sum(1)
    assert blue.argmax() == pytest.approx(image.shape[0] / 2, abs=6)
    page.close()


def test_the_page_of_several_backends_has_the_margins_of_the_table():
    choice = Choice("audio 2", 7, 10, 28, 0.054, 0.16, 0.2, "same noise")
    first = BackendRun("onnx", "cpu", "float32", 9, 1.0, 9)
    other = replace(first, name="torch/bfloat16", equal_frames=7, boundary="audio_tokens", choice=choice)
    words = "audio_tokens differs: audio 2 10 or 28 (margins 5.4e-02 and 1.6e-01, logits 2.0e-01 apart: a tie)"
    page = render(backends_report("hello.wav", [first, other]))
    assert other.tokens == f"identical up to frame 7, then {words}" and other.tokens in page and "9 frames" in page
