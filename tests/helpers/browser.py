"""Headless Chromium whose microphone is a WAV file, and what crossed its WebSockets. Skips where there is none."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the path")
PATIENCE = 90  # seconds: only a broken page takes so long, even on a machine that is busy elsewhere


def until(page: Any, condition: Callable[[], Any]) -> Any:
    """What `condition` gives once it is true. The browser lives on meanwhile; playwright's own waiting needs `eval` in the page."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        page.wait_for_timeout(50)
    return value


@dataclass
class Line:
    """What crossed the WebSockets of a page, in order."""

    urls: list[str] = field(default_factory=list)
    sent: list[bytes | str] = field(default_factory=list)
    received: list[bytes | str] = field(default_factory=list)

    def watch(self, socket: Any) -> None:
        self.urls.append(socket.url)
        socket.on("framesent", lambda message: self.sent.append(message))
        socket.on("framereceived", lambda message: self.received.append(message))

    def messages(self, kind: str) -> list[dict[str, Any]]:
        told = [json.loads(message) for message in self.received if isinstance(message, str)]
        return [message for message in told if message["type"] == kind]

    @property
    def text(self) -> str:
        return "".join(message["text"] for message in self.messages("text"))


def sound(messages: list[bytes | str]) -> bytes:
    return b"".join(message for message in messages if isinstance(message, bytes))


@contextmanager
def chromium(microphone: Path, *more: str) -> Iterator[Any]:
    """A browser that hears the file again and again ("FILE%noloop": once, then silence); asks nobody outside, and no user."""
    with sync_api.sync_playwright() as tools:
        browser = tools.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={microphone}", *more,
            ],
        )  # fmt: skip
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, **options: Any) -> Iterator[Any]:
    """A fresh page, with `line` (a Line); afterwards nothing may have gone wrong in its scripts."""
    context = browser.new_context(accept_downloads=True, **options)
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    page.line, faults = Line(), []
    page.on("websocket", page.line.watch)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.faults = faults
    yield page
    context.close()
    assert faults == []


def start(page: Any, address: str, sound_as: str, preset: str = "") -> None:
    """Open the page and begin a recorded conversation by keyboard; the microphone is sent unprocessed."""
    page.goto(f"http://{address}/")
    page.get_by_text("of work for every").wait_for()
    page.get_by_label("Sound on the line").select_option(sound_as)
    page.get_by_label("Preset").select_option(preset)
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Record in this browser").check()
    page.get_by_label("I wear headphones").check()
    page.get_by_role("button", name="Start talking").press("Enter")


def stop(page: Any, folder: Path) -> dict[str, Path]:
    """End the conversation and download everything: {"Sound": ..., "Text": ..., "Trace": ...}."""
    page.get_by_role("button", name="Stop").press("Enter")
    page.get_by_role("heading", name="Recording").wait_for()
    files = {}
    for name in ("Sound", "Text", "Trace"):
        with page.expect_download() as download:
            page.get_by_role("link", name=name).click()
        files[name] = folder / download.value.suggested_filename
        download.value.save_as(files[name])
    return files


def shown_text(page: Any) -> str:
    return "".join(page.locator("#transcript .model .words").all_text_contents())


def both_sides(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Left and right of a recording, int16."""
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == 24_000 and samples.shape[1] == 2
    return samples[:, 0], samples[:, 1]
