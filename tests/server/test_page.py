"""The page in a real browser, over an engine whose every answer is known: half of what it hears, and a letter a frame."""

import json
import re

import numpy as np
import pytest
import soundfile
from helpers.browser import both_sides, chromium, needs_chromium, opened, shown_text, sound, start, stop, until
from helpers.serving import FRAME, hub, running

from clearline.server.access import Access
from clearline.server.app import WEB

pytestmark = needs_chromium
TOKEN = "a token of the tests"
OTHER_MACHINE = "clearline.test"
SECONDS = np.arange(48_000 * 2) / 48_000
SWEEP = 0.5 * np.sin(2 * np.pi * (200 + 400 * SECONDS) * SECONDS)  # 200 to 1800 Hz


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Hears SWEEP again and again. Believes that another machine's name is this one."""
    microphone = tmp_path_factory.mktemp("sound") / "sweep.wav"
    soundfile.write(microphone, SWEEP, 48_000, subtype="PCM_16")
    with chromium(microphone, f"--host-resolver-rules=MAP {OTHER_MACHINE} 127.0.0.1") as chrome:
        yield chrome


@pytest.fixture
def page(browser):
    with opened(browser) as fresh:
        yield fresh


def echo(said, heard):
    """(lag in samples, gain, correlation) of the best match of `said` in `heard`."""
    said, heard = said.astype(float), heard.astype(float)
    size = 1 << (len(said) + len(heard)).bit_length()
    lag = np.fft.irfft(np.fft.rfft(heard, size) * np.fft.rfft(said, size).conj(), size)[: len(heard)].argmax()
    said, heard = said[: len(heard) - lag], heard[lag : lag + len(said)]
    product = said @ heard
    return lag, product / (said @ said), product / np.sqrt((said @ said) * (heard @ heard))


def letters(text):
    return len(text) >= 20 and text == "".join(chr(ord("a") + i % 26) for i in range(len(text)))


def test_a_conversation_by_keyboard_and_its_recording(page, tmp_path):
    with running() as (address, made):
        start(page, address, "pcm", "greedy")
        page.get_by_role("status").get_by_text("seed 7").wait_for()
        until(page, lambda: page.locator("#you-speaking").inner_text() == "speaking")
        until(page, lambda: len(shown_text(page)) >= 25)
        until(page, lambda: page.locator("#missed").inner_text() != "–")
        figures = {name: page.locator(f"#{name}").inner_text() for name in ("delay", "held", "dry", "underruns", "step", "codec")}
        loudest = page.evaluate("[document.getElementById('you').value, document.getElementById('it').value]")
        mute = page.get_by_role("button", name="Mute microphone")
        mute.press("Space")
        until(page, lambda: mute.get_attribute("aria-pressed") == "true")
        until(page, lambda: page.evaluate("document.getElementById('you').value") == -60)
        files = stop(page, tmp_path)
        assert made.sessions == 0
        shown = shown_text(page)

    assert re.search(r"/api/pcm\?preset=greedy&seed=7$", page.line.urls[0])
    assert figures["codec"] == "PCM" and figures["delay"].endswith(" ms") and figures["held"].endswith(" ms")
    assert figures["dry"].isdigit() and figures["underruns"].isdigit() and "worst" in figures["step"]
    assert loudest == pytest.approx([20 * np.log10(0.5 / 2**0.5), 20 * np.log10(0.25 / 2**0.5)], abs=0.5)
    trace = json.loads(files["Trace"].read_text())
    said = trace["samples_said"]
    # On a machine too busy to answer everything after "stop", the last text may come without its sound.
    assert letters(shown) and page.line.text.startswith(shown) and 0 <= len(shown) * FRAME - said <= FRAME

    left, right = both_sides(files["Sound"])
    assert left.tobytes().startswith(sound(page.line.sent))
    assert right[:FRAME].tobytes() == bytes(2 * FRAME)  # the reply to a frame comes after it
    reply = right[FRAME : FRAME + said]
    assert reply.tobytes() == sound(page.line.received)[: 2 * said]
    assert np.abs(reply - left[:said] / 2).max() <= 0.5
    assert echo(left[: 20 * FRAME], np.tile(SWEEP, 3)[::2])[2] > 0.5  # Chromium's fake microphone skips on a busy machine
    assert not left[-2 * FRAME :].any()  # muted
    assert f"Model: {shown}" in files["Text"].read_text() and "You (spoke for" in files["Text"].read_text()
    assert trace["settings"] == {"preset": "greedy", "seed": "7"} and trace["model"] == "halver"
    assert "".join(event["text"] for event in trace["events"] if event["type"] == "text") == shown


def test_opus_by_webcodecs_is_what_a_browser_that_has_it_sends(page, tmp_path):
    with running() as (address, _):
        start(page, address, "auto")
        until(page, lambda: len(shown_text(page)) >= 25)
        files = stop(page, tmp_path)
    assert "/api/opus?" in page.line.urls[0]
    sent, received = sound(page.line.sent), sound(page.line.received)
    assert sent.startswith(b"OggS") and received.startswith(b"OggS")
    left, right = both_sides(files["Sound"])
    assert len(sent) < left.nbytes / 5
    answered = len(np.trim_zeros(right, "b")) - 2 * FRAME
    assert answered > 4 * FRAME
    lag, gain, correlation = echo(left[:answered], right)
    # A frame, twice Opus, and the filter from 48 kHz; what came back is what was said, at half the volume.
    assert FRAME < lag < FRAME + 1000 and gain == pytest.approx(0.5, rel=0.15) and correlation > 0.9


def test_a_choice_of_models(page, tmp_path):
    with running(hub(models={"small": 0.0, "large": 0.02})) as (address, made):
        page.goto(f"http://{address}/")
        page.get_by_text("Model small: ").wait_for()
        choice = page.get_by_role("combobox", name="Model")
        choice.focus()
        page.keyboard.press("ArrowDown")
        page.get_by_text(re.compile(r"Model large: 2\d.* ms of work")).wait_for()
        page.get_by_label("Record in this browser").check()
        page.get_by_role("button", name="Start talking").click()
        until(page, lambda: len(shown_text(page)) >= 3)
        assert (made.sessions_with("small"), made.sessions_with("large")) == (0, 1)
        files = stop(page, tmp_path)
    assert page.line.urls[0].endswith("?model=large") and json.loads(files["Trace"].read_text())["model"] == "large"


def test_a_recording_that_is_full_says_so_and_keeps_what_it_has(page, tmp_path):
    shorter = (WEB / "recording.js").read_text().replace("MOST_MINUTES = 60", "MOST_MINUTES = 0.02")  # 15 frames
    page.route("**/recording.js", lambda route: route.fulfill(body=shorter, content_type="text/javascript"))
    with running() as (address, _):
        start(page, address, "pcm")
        page.get_by_role("alert").get_by_text("The recording is full after 0.02 minutes").wait_for()
        until(page, lambda: len(shown_text(page)) >= 25)
        left, right = both_sides(stop(page, tmp_path)["Sound"])
    assert left[: 15 * FRAME].tobytes() == sound(page.line.sent)[: 15 * FRAME * 2] and not left[15 * FRAME :].any()
    assert right[FRAME:].tobytes() == sound(page.line.received)[: 2 * (len(right) - FRAME)]


@pytest.mark.parametrize("wrong", ["seed", "room", "server"])
def test_what_goes_wrong_is_said_in_words(page, wrong):
    with running(sessions=1) as (address, made):
        page.goto(f"http://{address}/")
        page.get_by_text("of work for every").wait_for()
        if wrong == "seed":
            page.get_by_label("Seed").fill("99999999999999999999")
            expected = "seed is 99999999999999999999"
        if wrong == "room":
            made._opening["halver"] = 1  # somebody else is just coming in
            expected = "try again in 10 seconds"
        page.get_by_role("button", name="Start talking").click()
        if wrong == "server":
            until(page, lambda: len(shown_text(page)) >= 3)
            expected = "The server is going down"
        if wrong != "server":
            page.get_by_role("alert").get_by_text(expected).wait_for()
        made._opening.clear()
    if wrong == "server":
        page.get_by_role("alert").get_by_text(expected).wait_for()
    assert page.get_by_role("button", name="Start talking").is_enabled()


def test_a_seed_that_is_none_is_not_sent(page):
    with running() as (address, _):
        page.goto(f"http://{address}/")
        page.get_by_text("of work for every").wait_for()
        page.get_by_label("Seed").fill("seven")
        page.get_by_role("button", name="Start talking").click()
        until(page, lambda: page.evaluate("document.activeElement.id") == "seed")
    assert page.line.urls == []


def test_a_token_is_asked_for_kept_for_the_tab_and_hidden(page):
    with running(access=Access(TOKEN)) as (address, _):
        page.goto(f"http://{address}/")
        page.get_by_role("alert").get_by_text("asks for a token").wait_for()
        assert page.evaluate("document.activeElement.id") == "token"
        assert any("401" in fault for fault in page.faults)  # Chromium reports it by itself
        page.faults.clear()
        page.goto(f"http://{address}/#token={TOKEN.replace(' ', '%20')}")
        page.reload()  # a new address after the # alone loads nothing
        page.get_by_text("of work for every").wait_for()
        assert "token" not in page.url
        page.get_by_role("button", name="Start talking").click()
        until(page, lambda: len(shown_text(page)) >= 3)


def test_without_https_it_helps(browser):
    with running(access=Access(TOKEN, loopback=False)) as (address, _), opened(browser) as page:
        port = address.split(":")[1]
        page.goto(f"http://{OTHER_MACHINE}:{port}/#token={TOKEN.replace(' ', '%20')}")
        help_ = page.get_by_role("region", name="The microphone needs a secure address")
        help_.wait_for()
        said = help_.inner_text()
        assert f"http://{OTHER_MACHINE}:{port}" in said and f"ssh -L {port}:localhost:{port} {OTHER_MACHINE}" in said
        assert help_.get_by_role("link", name="https://").get_attribute("href") == f"https://{OTHER_MACHINE}:{port}/"
        assert page.get_by_role("button", name="Start talking").is_disabled()


def test_a_microphone_that_is_refused_or_missing_is_explained(page):
    with running() as (address, made):
        page.goto(f"http://{address}/")
        for name, words in (("NotAllowedError", "Allow it"), ("NotFoundError", "No microphone was found")):
            page.evaluate(
                f"() => {{ navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('', '{name}'); }}; }}"
            )
            page.get_by_role("button", name="Start talking").click()
            page.get_by_role("alert").get_by_text(words).wait_for()
        assert made.sessions == 0


def test_everything_comes_from_the_server_itself(page):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    with running() as (address, _):
        page.goto(f"http://{address}/")
        page.get_by_text("of work for every").wait_for()
        page.get_by_role("button", name="Start talking").click()
        until(page, lambda: len(shown_text(page)) >= 3)
    assert len(asked) > 8 and {url.split("/")[2] for url in asked if not url.startswith("data:")} == {address}


TAB_ORDER = [
    "start", "transcript", "SUMMARY", "model", "preset", "seed", "temperature", "text-temperature", "sound", "token", "headphones",
    "record",
]  # fmt: skip


def test_the_keyboard_reaches_everything_in_the_order_it_is_read(page):
    with running() as (address, _):
        page.goto(f"http://{address}/")
        page.get_by_text("of work for every").wait_for()
        reached = []
        for _ in TAB_ORDER:
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert reached == TAB_ORDER


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_object_to(browser, scheme):
    axe = pytest.importorskip("axe_playwright_python.base", reason="the package axe-playwright-python is not installed")
    with running() as (address, _), opened(browser, color_scheme=scheme) as page:
        page.goto(f"http://{address}/")
        page.get_by_text("of work for every").wait_for()
        page.get_by_label("Record in this browser").check()
        page.evaluate(axe.AXE_SCRIPT)
        page.get_by_role("button", name="Start talking").click()
        until(page, lambda: len(shown_text(page)) >= 3)
        objections = list(violations(page))
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("button", name="Start talking").wait_for()
        page.evaluate("document.querySelectorAll('[hidden]').forEach((e) => { e.hidden = false; })")
        objections += violations(page)
    assert objections == []


def violations(page):
    found = page.evaluate("axe.run().then(({ violations }) => violations)")
    return [(fault["id"], node["html"], node["failureSummary"]) for fault in found for node in fault["nodes"]]


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_window_or_too_small_to_touch(browser, width):
    with running() as (address, _), opened(browser, viewport={"width": width, "height": 800}) as page:
        page.goto(f"http://{address}/")
        page.get_by_text("of work for every").wait_for()
        page.evaluate("document.querySelectorAll('[hidden]').forEach((e) => { e.hidden = false; })")
        page.evaluate("document.getElementById('settings').open = true")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        small = page.evaluate(
            "[...document.querySelectorAll('button, select, input:not([type=checkbox]), label.check, summary')]"
            ".filter((e) => e.getBoundingClientRect().height < 24).map((e) => e.outerHTML)"
        )
    assert small == []
