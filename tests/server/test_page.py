"""The page in a real browser: headless Chromium with a WAV for a microphone. Skipped where there is no Chromium or playwright."""

import shutil

import numpy as np
import pytest
import soundfile
from helpers.serving import FRAME, running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")


@pytest.fixture(scope="module")
def tone(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "tone.wav"
    t = np.arange(48_000 * 30) / 48_000
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 440 * t), 48_000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def browser(tone):
    with playwright.sync_playwright() as tools:
        chromium = tools.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={tone}", "--autoplay-policy=no-user-gesture-required",
            ],
        )  # fmt: skip
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    context = browser.new_context(accept_downloads=True)
    opened = context.new_page()
    opened.faults = []
    opened.on("pageerror", lambda error: opened.faults.append(str(error)))
    opened.on("console", lambda message: opened.faults.append(message.text) if message.type == "error" else None)
    yield opened
    context.close()


def test_a_conversation_with_a_recording(page, tmp_path):
    with running() as (address, made):
        page.goto(f"http://{address}/")
        page.get_by_text("Settings", exact=True).click()
        page.get_by_label("Seed").fill("7")
        page.get_by_label("Preset").select_option("greedy")
        page.get_by_label("Record the next conversation").check()
        page.get_by_role("button", name="Start talking").press("Enter")
        page.get_by_role("status").get_by_text("seed 7").wait_for(timeout=20_000)
        page.wait_for_function("document.getElementById('text').textContent.length >= 30", timeout=30_000)
        assert page.get_by_role("log").inner_text().startswith("abcdefghijklmnop")
        page.wait_for_function("document.getElementById('missed').textContent !== '–'", timeout=10_000)
        assert page.evaluate("document.getElementById('it').value") > -60
        assert page.locator("#delay").inner_text().endswith(" ms")
        page.get_by_role("button", name="Mute microphone").click()
        assert page.get_by_role("button", name="Mute microphone").get_attribute("aria-pressed") == "true"
        page.wait_for_function("document.getElementById('you').value <= -60", timeout=10_000)
        page.get_by_role("button", name="Stop").click()
        with page.expect_download() as download:
            page.get_by_role("link", name="Sound").click()
        download.value.save_as(tmp_path / "both.wav")
        with page.expect_download() as text:
            page.get_by_role("link", name="Text").click()
        text.value.save_as(tmp_path / "text.txt")
    assert made.sessions == 0 and page.faults == []
    assert (tmp_path / "text.txt").read_text().startswith("abcdefghijklmnop")
    both, rate = soundfile.read(tmp_path / "both.wav")
    assert rate == 24_000 and both.shape[1] == 2 and len(both) >= 25 * FRAME
    middle = both[8 * FRAME : 24 * FRAME]
    for channel in middle.T:  # what went up and what came back
        spectrum = np.abs(np.fft.rfft(channel))
        assert np.fft.rfftfreq(len(middle), 1 / rate)[spectrum.argmax()] == pytest.approx(440, abs=5)


def test_no_room_is_said_in_words(page):
    with running(sessions=1) as (address, made):
        made._opening = 1  # somebody else is just coming in
        page.goto(f"http://{address}/")
        page.get_by_role("button", name="Start talking").click()
        page.get_by_role("alert").get_by_text("try again in 10 seconds").wait_for(timeout=20_000)
        assert page.get_by_role("button", name="Start talking").is_enabled()
        made._opening = 0


def test_everything_comes_from_the_server_itself(page):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    with running() as (address, _):
        page.goto(f"http://{address}/")
        page.get_by_text("Model halver").wait_for()
        assert {url.split("/")[2] for url in asked if not url.startswith("data:")} == {address}


def test_every_control_has_a_name(page):
    with running() as (address, _):
        page.goto(f"http://{address}/")
        page.get_by_text("Settings", exact=True).click()
        nameless = page.evaluate(
            "[...document.querySelectorAll('button,input,select,meter,a[href]')]"
            ".filter(e => !(e.labels?.length || e.textContent.trim() || e.ariaLabel)).map(e => e.id)"
        )
    assert nameless == []
