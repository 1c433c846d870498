"""PersonaPlex' system prompt: what the model has said, and heard, before the conversation begins.

Read in NVIDIA/personaplex (3428dfd), `lm.py` and `offline.py`: the voice (no text), half a second of silence, the text
(silence), half a second of silence; all the while the user's side is a 440 Hz tone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clearline.audio import read_audio, to_loudness, to_mono
from clearline.checkpoint.files import open_tensors
from clearline.checkpoint.safetensors import file_hash
from clearline.config import LMConfig
from clearline.errors import AudioError, CheckpointError, ConfigError
from clearline.generate.codec import Codec
from clearline.generate.text import Tokenizer

# Half a second of 12.5 Hz frames, rounded down; the loudness that voices are brought to.
SPACER_FRAMES = 6
VOICE_LUFS = -24.0
MAX_VOICE_SECONDS = 120.0
# What NVIDIA's offline.py says when it is given no text.
DEFAULT_TEXT = "You are a wise and friendly teacher. Answer questions or provide advice in a clear and engaging way."
# The released codec's codes of one frame of silence and of a 440 Hz sine.
SILENCE = (948, 243, 1178, 546, 1736, 1030, 1978, 2008)
SINE = (430, 1268, 381, 1611, 1095, 1495, 56, 472)
_TAG = "<system>"


@dataclass(frozen=True)
class Persona:
    """Who a PersonaPlex is to be.

    text: its role ("" for none). voice: a recording of someone speaking, or a voice that NVIDIA saved, as .safetensors
    or .gguf; without one, the model finds a voice of its own. silence, sine: what these sounds are in a codec that is not the
    released one. Raises ClearlineError for a voice that is not there, or a pickle.
    """

    text: str = DEFAULT_TEXT
    voice: str | Path | None = None
    silence: tuple[int, ...] | None = None
    sine: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.voice is None:
            return
        path = Path(self.voice)
        if path.suffix == ".pt":
            raise CheckpointError(
                f"{path} is a pickle, which can run any code when it is opened, so it is not. Convert it where you trust it:\n"
                "  python -c \"import sys, torch, safetensors.torch as s; p = torch.load(sys.argv[1], 'cpu', weights_only=True); "
                f's.save_file({{k: v.contiguous() for k, v in p.items()}}, sys.argv[2])" {path.name} {path.stem}.safetensors'
            )
        if not path.is_file():
            raise AudioError(f"the voice {path} does not exist, or is not a file")

    def facts(self) -> dict[str, str | None]:
        """What a result's record says of it: the text, and the voice's sha256."""
        return {"text": tagged(self.text), "voice": None if self.voice is None else file_hash(Path(self.voice))}


@dataclass(frozen=True)
class SavedVoice:
    """A voice as NVIDIA saves it: the summed embeddings float32 [steps, dim] of its frames, and the tokens after them.

    tokens int64 [streams, 1 + max_delay], see `Generator.replay`.
    """

    embeddings: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Prompt:
    """A persona in tokens. voice int64 [dep_q, frames]; text token ids; silence [dep_q] and sine [n_user] of one frame."""

    voice: np.ndarray
    saved: SavedVoice | None
    text: tuple[int, ...]
    padding: int
    silence: np.ndarray
    sine: np.ndarray

    @property
    def steps(self) -> int:
        saved = 0 if self.saved is None else len(self.saved.embeddings)
        return saved + sum(1 for _ in self.frames())

    def frames(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(text and audio tokens [1 + dep_q] that are said, codes [n_user] that are heard) of each step with tokens.

        NVIDIA's first call only starts its clock, so that its frame is lost; a saved voice lacks it already.
        """
        frames = [(self.padding, codes) for codes in self.voice.T]
        spacer = [(self.padding, self.silence)] * SPACER_FRAMES
        frames += [*spacer, *((token, self.silence) for token in self.text), *spacer]
        for text, codes in frames[1:] if self.saved is None else frames:
            yield np.concatenate([[text], codes]), self.sine


def prompt(persona: Persona, cfg: LMConfig, tokenizer: Tokenizer, codec: Codec) -> Prompt:
    """The tokens of a persona. Raises ClearlineError for a voice that cannot be read, and for a prompt that is too long."""
    silence, sine = (
        _codes("silence", persona.silence or SILENCE, cfg.dep_q, cfg),
        _codes("a sine", persona.sine or SINE, cfg.user_streams, cfg),
    )
    voice, saved = np.zeros((cfg.dep_q, 0), np.int64), None
    if persona.voice is not None:
        path = Path(persona.voice)
        if path.suffix in (".safetensors", ".gguf"):
            saved = _saved(path, cfg)
        else:
            voice = codec.encode(_recording(path, codec.sample_rate), cfg.dep_q)
    made = Prompt(voice, saved, tuple(_text_tokens(persona.text, tokenizer)), cfg.text_padding, silence, sine)
    if made.steps > cfg.transformer.context:
        raise ConfigError(
            f"the system prompt takes {made.steps} frames ({voice.shape[1]} of voice, {len(made.text)} of text), but the model "
            f"remembers {cfg.transformer.context}: shorten it"
        )
    return made


def tagged(text: str) -> str:
    """The text between system tags, which it may have already; "" stays as it is."""
    text = text.strip()
    return text if not text or (text.startswith(_TAG) and text.endswith(_TAG)) else f"{_TAG} {text} {_TAG}"


def _text_tokens(text: str, tokenizer: Tokenizer) -> list[int]:
    return list(tokenizer.encode(tagged(text))) if text.strip() else []


def _codes(what: str, codes: tuple[int, ...], count: int, cfg: LMConfig) -> np.ndarray:
    if len(codes) != count or not all(0 <= code < cfg.card for code in codes):
        raise ConfigError(
            f"the codes of {what} are {list(codes)}; this model needs {count} of 0..{cfg.card - 1}: is its codec the released one?"
        )
    return np.array(codes, np.int64)


def _recording(path: Path, rate: int) -> np.ndarray:
    found = read_audio(path, MAX_VOICE_SECONDS)
    return to_loudness(to_mono(found.samples, found.rate, rate), rate, VOICE_LUFS)


def _saved(path: Path, cfg: LMConfig) -> SavedVoice:
    """NVIDIA's two tensors: embeddings [steps, 1, 1, dim], and the token cache [1, streams, max_delay + 3] at its end.

    moshi.cpp keeps them in GGUF files, with "voice." before their names and without leading ones in their shapes.
    """
    tensors = {name.removeprefix("voice."): tensor for name, tensor in open_tensors(path).items()}
    if "cache" in tensors and len(tensors["cache"].shape) == 2:
        tensors["cache"] = tensors["cache"].reshaped((1, *tensors["cache"].shape))
    dim, columns = cfg.transformer.dim, cfg.max_delay + 3
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    steps = shapes.get("embeddings", (0,))[0]
    if shapes != {"embeddings": (steps, 1, 1, dim), "cache": (1, cfg.streams, columns)} or not steps:
        raise CheckpointError(
            f"{path} holds {', '.join(f'{name} {list(shape)}' for name, shape in shapes.items())}; a voice of this model has "
            f"embeddings [steps, 1, 1, {dim}] and cache [1, {cfg.streams}, {columns}]"
        )
    embeddings = tensors["embeddings"].read().dense(np.float32).reshape(steps, dim)
    cache = np.asarray(tensors["cache"].read().data)
    # The step after the last embedding is number `steps`; the cache is a ring of columns.
    tokens = cache[0][:, (steps + np.arange(1 + cfg.max_delay)) % columns].astype(np.int64)
    cards = np.array([cfg.text_card, *[cfg.card] * cfg.n_q])[:, None]
    wanted = np.asarray(cfg.delays)[:, None] >= np.arange(1 + cfg.max_delay)
    if cache.dtype.kind not in "iu" or not np.isfinite(embeddings).all() or (wanted & ((tokens < 0) | (tokens > cards))).any():
        raise CheckpointError(f"{path}: its embeddings are not finite, or its tokens are not this model's")
    return SavedVoice(embeddings, tokens)
