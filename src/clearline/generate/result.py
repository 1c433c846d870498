"""What came of a recording, and what of each frame goes into a trace."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clearline.audio import clipped_samples
from clearline.config import LMConfig
from clearline.generate.session import Frame, silent_tokens
from clearline.generate.text import END_OF_TEXT, Tokenizer, Word, words


@dataclass(frozen=True)
class Result:
    """What came of a recording.

    pcm float32 [n] mono at sample_rate Hz; text the whole transcript; words with their times in seconds of pcm, or of the
    recording where the model only transcribes it;
    text_tokens int64 [T]; codes_in int64 [n_user, frames] and codes_out int64 [dep_q, T]; facts: hashes of input,
    weights, codec and config, with seed, preset, backend and version. seconds is the time the run took.
    """

    pcm: np.ndarray
    sample_rate: int
    text: str
    words: list[Word]
    text_tokens: np.ndarray
    codes_in: np.ndarray
    codes_out: np.ndarray
    facts: dict[str, Any]
    seconds: float
    frame_seconds: float = 0.08

    @property
    def audio_seconds(self) -> float:
        """Length of what was heard, silence included."""
        return float(self.codes_in.shape[1]) * self.frame_seconds

    @property
    def ended(self) -> bool:
        """Whether the last thing the model said was the end of its text, as a Hibiki does when it has translated all."""
        return self.text_tokens.size > 0 and int(self.text_tokens[-1]) == END_OF_TEXT

    @property
    def clipped(self) -> int:
        """Samples of pcm outside -1..1, which a 16-bit file clips."""
        return clipped_samples(self.pcm)

    @property
    def speed(self) -> float:
        """Multiple of real time."""
        return self.audio_seconds / max(self.seconds, 1e-9)


def collect(
    frames: Sequence[Frame],
    cfg: LMConfig,
    tokenizer: Tokenizer,
    size: int,
    rate: int,
    facts: dict[str, Any],
    seconds: float,
    lead: float = 0.0,
) -> Result:
    """One result of all frames of `size` samples at `rate` Hz; words are said `lead` seconds earlier than they are written."""
    tokens = [frame.text_token for frame in frames if frame.text_token is not None]
    found = [word.earlier(lead) for word in words(tokens, silent_tokens(cfg), tokenizer, size / rate)]
    pcm = [frame.pcm for frame in frames if frame.pcm is not None]
    codes_out = [frame.codes_out for frame in frames if frame.codes_out is not None]
    return Result(
        pcm=np.concatenate(pcm) if pcm else np.zeros(0, np.float32),
        sample_rate=rate,
        text=" ".join(word.text for word in found),
        words=found,
        text_tokens=np.array(tokens, np.int64),
        codes_in=np.stack([frame.codes_in for frame in frames], 1),
        codes_out=np.stack(codes_out, 1) if codes_out else np.zeros((cfg.dep_q, 0), np.int64),
        facts=facts,
        seconds=seconds,
        frame_seconds=size / rate,
    )


def boundaries(frame: Frame, samples: np.ndarray) -> dict[str, np.ndarray | int | None]:
    """The named boundaries of one step, for a trace; `samples` [frame_size] is what was heard."""
    out: dict[str, np.ndarray | int | None] = {
        "pcm_in": samples, "codes_in": frame.codes_in, "codes_out": frame.codes_out, "pcm_out": frame.pcm
    }  # fmt: skip
    lm = frame.lm
    if lm is not None:
        out |= {
            "row": lm.row,
            "hidden": lm.hidden,
            "text_logits": lm.text_logits,
            "text_token": lm.text_token,
            "audio_logits": lm.audio_logits,
            "audio_tokens": lm.audio_tokens,
        }
    return out
