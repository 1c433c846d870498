"""Both sides of a conversation as sound: from a two-channel recording, two recordings, or a trace."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clearline.app import load_codec
from clearline.audio import read_audio, to_mono
from clearline.errors import ClearlineError
from clearline.generate.text import Word
from clearline.lab.source import open_source
from clearline.lab.words import of_nano, words_of
from clearline.trace import Trace
from clearline.trace.container import MAGIC

RATE = 24_000


@dataclass(frozen=True)
class Conversation:
    """user and model float32 [n] at 24 kHz, of one length and on one clock; the model's words where they are known."""

    user: np.ndarray
    model: np.ndarray
    words: list[Word] | None = None

    @property
    def seconds(self) -> float:
        return len(self.user) / RATE


def open_conversation(first: Path, second: Path | None = None, model: str | None = None, swap: bool = False) -> Conversation:
    """A two-channel recording (user first unless `swap`), the user's and the model's recordings, or a trace.

    model: for a trace, whose codec decodes codes that were recorded without samples, and whose tokenizer reads the text.
    Raises ClearlineError for a recording of another number of channels, or a trace that lacks a side.
    """
    if not first.is_file():
        raise ClearlineError(f"{first} does not exist or is not a file")
    with first.open("rb") as file:
        traced = file.read(len(MAGIC)) == MAGIC
    if traced:
        if second is not None or swap:
            raise ClearlineError(f"{first} is a trace: it has both sides, and says which is which; give nothing beside it")
        return _from_trace(open_source(str(first)), model)
    if second is None:
        recording = read_audio(first)
        channels = recording.samples.shape[1]
        if channels != 2:
            raise ClearlineError(
                f"{first} has {channels} channel{'s' if channels > 1 else ''}; give a two-channel recording (user, model), two "
                "recordings, or a trace"
            )
        sides = [to_mono(recording.samples[:, i], recording.rate, RATE) for i in (0, 1)]
    else:
        sides = [to_mono(read.samples, read.rate, RATE) for read in (read_audio(first), read_audio(second))]
    if swap:
        sides.reverse()
    length = max(map(len, sides))
    user, reply = (np.pad(side, (0, length - len(side))) for side in sides)
    return Conversation(user, reply)


def _from_trace(trace: Trace, model: str | None) -> Conversation:
    if model is None and of_nano(trace):
        model = "nano"
    user, reply = sound(trace, "in", model), sound(trace, "out", model)
    if user is None or reply is None:
        side = "user" if user is None else "model"
        raise ClearlineError(
            f"the trace has no sound of the {side}: record it with --trace-pcm, or name the --model whose codec decodes its codes"
        )
    length = max(len(user), len(reply))
    user, reply = (np.pad(side, (0, length - len(side))) for side in (user, reply))
    return Conversation(user, reply, words_of(trace, model))


def sound(trace: Trace, way: str, model: str | None) -> np.ndarray | None:
    """What came "in" or went "out", float32 [steps * 1920]: recorded samples, or codes through the codec of `model`; silence in
    steps that have none. None when the trace has neither, or codes and no codec."""
    pcm = trace.columns.get(f"pcm_{way}")
    if pcm is not None:
        return np.nan_to_num(pcm.reshape(-1).astype(np.float32))
    codes = trace.columns.get(f"codes_{way}")
    if codes is None or model is None:
        return None
    codec = load_codec(model)
    known = ((codes >= 0) & (codes < codec.cfg.bins)).all(1)
    out = np.zeros((len(codes), codec.frame_size), np.float32)
    if codes.shape[1] > codec.cfg.n_q:
        raise ClearlineError(f"codes_{way} has {codes.shape[1]} codebooks, the codec of {model} has {codec.cfg.n_q}")
    if known.any():
        out[known] = codec.decode(codes[known].T).reshape(-1, codec.frame_size)
    return out.reshape(-1)
