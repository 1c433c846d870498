"""Microphone and loudspeaker, by `sounddevice` (PortAudio)."""

import asyncio
import threading
from collections import deque
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from clearline.errors import AudioError, ConfigError
from clearline.server.echo import EchoDetector

# A microphone that gives nothing for so long has been unplugged or taken away.
_SILENT_SECONDS = 5.0
# A reply that has waited this long in the loudspeaker's queue is old news: the oldest frames are dropped.
_MOST_QUEUED = 12
_MOST_UNHEARD = 25


def sound_library() -> ModuleType:
    """`sounddevice`. Raises ConfigError, with how to mend it, when it or PortAudio is not there."""
    try:
        import sounddevice
    except ImportError as error:
        raise ConfigError(
            f"sound devices need the package sounddevice ({error}): pip install 'clearline[chat]', "
            "or use --input and --output with files"
        ) from error
    except OSError as error:
        raise ConfigError(f"{error}: install PortAudio (Debian: libportaudio2), or use --input and --output with files") from error
    return sounddevice


def device_list() -> str:
    """The devices of this machine, one a line, as their numbers and names."""
    return str(sound_library().query_devices())


class Devices:
    """Ears and mouth in one, as a context manager: 80 ms blocks, mono. `muted` feeds the model silence instead."""

    def __init__(self, frame_size: int, sample_rate: int, microphone: str | None, loudspeaker: str | None) -> None:
        self.muted = False
        self.underruns = 0
        self._size = frame_size
        self._silence = np.zeros(frame_size, np.float32)
        self._heard: deque[np.ndarray] = deque(maxlen=_MOST_UNHEARD)
        self._to_play: deque[np.ndarray] = deque()
        self._lock = threading.Lock()
        self._playing = self._silence
        self._echo = EchoDetector(sample_rate, frame_size)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arrived = asyncio.Event()
        library = sound_library()
        common: dict[str, Any] = {"samplerate": sample_rate, "channels": 1, "blocksize": frame_size, "dtype": "float32"}
        try:
            self._input = library.InputStream(device=_device(microphone), callback=self._on_input, **common)
            self._output = library.OutputStream(device=_device(loudspeaker), callback=self._on_output, **common)
        except (library.PortAudioError, ValueError) as error:
            raise AudioError(
                f"cannot open the sound devices at {sample_rate} Hz: {error}; `clearline chat --devices` lists them"
            ) from error

    def __enter__(self) -> "Devices":
        self._loop = asyncio.get_running_loop()
        self._output.start()
        self._input.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._input.close()
        self._output.close()

    async def frame(self) -> np.ndarray | None:
        """Raises AudioError when the microphone gives nothing any more."""
        try:
            async with asyncio.timeout(_SILENT_SECONDS):
                while not self._heard:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            raise AudioError(f"the microphone has given nothing for {_SILENT_SECONDS:g} seconds") from None
        frame = self._heard.popleft()
        return self._silence if self.muted else frame

    def replied(self, text: str) -> None: ...

    def echo(self) -> bool:
        """Whether the microphone has heard the loudspeaker in the last two seconds."""
        return self._echo.echo()

    def play(self, pcm: np.ndarray) -> None:
        with self._lock:
            self._to_play.append(pcm)
            while len(self._to_play) > _MOST_QUEUED:
                self._to_play.popleft()

    def _on_input(self, block: np.ndarray, frames: int, time: Any, status: Any) -> None:
        """On PortAudio's thread."""
        heard = block[:, 0].copy()
        self._echo.add(heard, self._playing)
        self._heard.append(heard)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrived.set)

    def _on_output(self, block: np.ndarray, frames: int, time: Any, status: Any) -> None:
        """On PortAudio's thread."""
        with self._lock:
            frame = self._to_play.popleft() if self._to_play else None
        self._playing = self._silence if frame is None else frame
        if frame is None:
            self.underruns += 1
            block.fill(0)
        else:
            block[:, 0] = frame


def _device(name: str | None) -> str | int | None:
    return int(name) if name is not None and name.isdigit() else name
