"""What a whole recording is fed as: its frames, and the silence after it in which the reply is heard."""

from collections.abc import Iterator, Sequence

import numpy as np

from clearline.config.checkpoint import CheckpointConfig
from clearline.errors import ConfigError
from clearline.generate.session import Frame, silent_tokens
from clearline.generate.text import END_OF_TEXT

# After the input ends, silence is fed until the model has said nothing for this long, and never longer than the limit.
QUIET_SECONDS = 2.0
LIMIT_SECONDS = 15.0
# Kyutai's run_inference waits for a Hibiki's end of text without a limit; here it is the input's length and this much more.
HIBIKI_EXTRA_SECONDS = 30.0


def check_tail(tail: float | None) -> None:
    """Raise ConfigError for a tail out of range."""
    if tail is not None and (not isinstance(tail, int | float | np.number) or not 0 <= tail <= 3600):
        raise ConfigError(f"the tail is {tail} seconds; it must lie in 0..3600")


def feed(
    mono: np.ndarray, rate: int, size: int, tail: float | None, config: CheckpointConfig, done: Sequence[Frame]
) -> Iterator[tuple[np.ndarray | None, int | None]]:
    """Frames [size] of `mono` [n] at `rate` Hz, the last filled up with zeros, then the tail; with the number of frames if known.

    `tail` is in seconds; None feeds silence until the model is quiet, or as long as Kyutai's program does for the model's
    type. None in place of a frame is the end of the input, which some models are told. `done` is the frames produced so
    far, which the caller appends to: from it is seen whether the model is still talking.
    """
    check_tail(tail)
    mono = np.pad(mono, (int(config.stt_prefix_seconds * rate), 0))
    mono = np.pad(mono, (0, -len(mono) % size))
    count = len(mono) // size
    if tail is None and config.lm.dep_q == 0:
        # What run_inference feeds to speech-to-text models: their delay and one second more.
        tail = config.stt_delay_seconds + 1.0
    extra = None if tail is None else int(np.ceil(tail * rate / size))
    total = None if extra is None else count + extra
    for frame in mono.reshape(-1, size):
        yield frame, total
    silence = np.zeros(size, np.float32)
    if extra is not None:
        yield from ((silence, total) for _ in range(extra))
    elif config.model_type == "hibiki":
        yield None, None
        for _ in range(count + round(HIBIKI_EXTRA_SECONDS * rate / size)):
            if done[-1].text_token == END_OF_TEXT:
                break
            yield silence, None
    else:
        quiet, limit = (int(seconds * rate / size) for seconds in (QUIET_SECONDS, LIMIT_SECONDS))
        silent = silent_tokens(config.lm)
        for i in range(limit):
            if i >= quiet and all(frame.text_token is None or frame.text_token in silent for frame in done[-quiet:]):
                break
            yield silence, None
