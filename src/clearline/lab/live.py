"""The sides of a comparison: files opened, or implementations run now on an input."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from clearline.app import Model, load, load_codec
from clearline.audio import read_audio, to_mono
from clearline.backends import BACKENDS, Wanted, open_backend, specified
from clearline.checkpoint.safetensors import file_hash
from clearline.config import GenerationConfig, preset
from clearline.errors import ClearlineError
from clearline.lab.adapters import PEERS, Peer, peer_layers, run_peer
from clearline.lab.source import open_source, source_path
from clearline.trace import LOGITS, PCM, TOKENS, MemoryRecorder, Trace

# 20 s: enough to pass a context of 250 codec frames, little enough to keep a 7B's logits in memory.
FRAMES = 250


@dataclass(frozen=True)
class Live:
    """What a run made now needs: the recording, the model's folder, settings (None: the model's own), how many frames.
    on_step is told what is going on, in words."""

    input: Path
    model: str = "nano"
    settings: GenerationConfig | None = None
    frames: int = FRAMES
    on_step: Callable[[str], None] = lambda what: None


@dataclass(frozen=True)
class Side:
    """One side of a comparison: its trace, and what can be asked more.

    model: for teacher forcing, and for a look at every layer. look(frame): every layer's output at that frame, by name, of an
    implementation that is not ours but can be looked into.
    """

    name: str
    trace: Trace
    model: Model | None = None
    look: Callable[[int], dict[str, np.ndarray]] | None = None


def is_live(name: str) -> bool:
    """Whether a side's name means something to run: run:BACKEND, run:BACKEND@PRESET, run:codec, peer:NAME."""
    return name.startswith(("run:", "peer:"))


def check_side(name: str, live: Live | None) -> None:
    """Raise ClearlineError for a side that cannot be had: looked at before the other one takes its time."""
    if not is_live(name):
        if not source_path(name)[0].is_file():
            raise ClearlineError(f"{name} does not exist or is not a file")
        return
    if live is None:
        raise ClearlineError(f"{name} is to be run now: give a recording with --input")
    kind, _, rest = name.partition(":")
    if kind == "peer":
        if rest not in PEERS:
            raise ClearlineError(f"there is no peer {rest!r}; known: {', '.join(PEERS)}")
    elif rest != "codec":
        backend, _, named = rest.partition("@")
        if specified(backend)[0] not in BACKENDS:
            raise ClearlineError(f"there is no backend {backend!r}; known: {', '.join(BACKENDS)}")
        open_backend(backend, Wanted())
        if named:
            preset(named)


def open_side(name: str, live: Live | None) -> Side:
    """A side by its name: a file, or one of the above with something to run them on. Raises ClearlineError."""
    check_side(name, live)
    if live is None or not is_live(name):
        return Side(name, open_source(name))
    kind, _, rest = name.partition(":")
    live.on_step(name)
    if kind == "peer":
        peer = PEERS[rest]
        look = partial(look_into_peer, peer, live) if peer.has_layers else None
        return Side(name, replace_name(run_peer_on(peer, live), name), look=look)
    if rest == "codec":
        return Side(name, replace_name(run_codec(live), name))
    backend, _, named = rest.partition("@")
    chosen = preset(named) if named else live.settings
    model = load(live.model, backend=backend)
    told = replace(live, on_step=lambda frame: live.on_step(f"{name}, {frame}"))
    return Side(name, replace_name(run_now(model, told, chosen), name), model)


def run_now(model: Model, live: Live, settings: GenerationConfig | None) -> Trace:
    """A run of `model` with every boundary recorded, and no silence after the input."""
    recorder = MemoryRecorder(TOKENS | LOGITS | PCM)
    pcm = frames_of(live, model.mimi.sample_rate, model.mimi.frame_size).reshape(-1)
    config = model.generation(settings)
    model.run(
        pcm, model.mimi.sample_rate, config, tail=0, recorder=recorder, input_hash=file_hash(live.input),
        on_frame=lambda frame, number, total: live.on_step(f"frame {number + 1} of {total}"),
    )  # fmt: skip
    return recorder.trace()


def run_peer_on(peer: Peer, live: Live) -> Trace:
    """Another implementation on the same frames; with our codes, where it is run without its codec."""
    return run_peer(peer, live.model, frames_of(live), _codes(peer, live))


def look_into_peer(peer: Peer, live: Live, frame: int) -> dict[str, np.ndarray]:
    """Every layer of another implementation at one frame of the same input: it is run once more up to there."""
    codes = _codes(peer, live)
    return peer_layers(peer, live.model, frames_of(live)[: frame + 1], None if codes is None else codes[: frame + 1])


def _codes(peer: Peer, live: Live) -> np.ndarray | None:
    return run_codec(live).columns["codes_in"] if peer.needs_codes else None


def run_codec(live: Live, codebooks: int | None = None) -> Trace:
    """The codec alone: the input's codes, and what they sound like."""
    codec = load_codec(live.model)
    stream = codec.stream(codebooks)
    recorder = MemoryRecorder(PCM | TOKENS)
    recorder.begin({"input": file_hash(live.input), "backend": "onnx"})
    for frame in frames_of(live, codec.sample_rate, codec.frame_size):
        codes = stream.encode(frame)
        recorder.add({"pcm_in": frame, "codes_in": codes, "codes_out": codes, "pcm_out": stream.decode(codes)})
    return recorder.trace()


def frames_of(live: Live, rate: int = 24_000, frame_size: int = 1920) -> np.ndarray:
    """The input's first frames, float32 [frames, frame_size]; the last one filled up with zeros."""
    recording = read_audio(live.input)
    pcm = to_mono(recording.samples, recording.rate, rate)[: live.frames * frame_size]
    return np.pad(pcm, (0, -len(pcm) % frame_size)).reshape(-1, frame_size)


def replace_name(trace: Trace, name: str) -> Trace:
    return replace(trace, facts=dict(trace.facts) | {"name": name})
