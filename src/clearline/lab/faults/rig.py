"""A conversation with places to break it: what a run is made of, part by part, and what it leaves behind."""

import copy
import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from clearline.app import Model
from clearline.audio import Recording, to_mono, wav_bytes
from clearline.config import GenerationConfig
from clearline.generate import Codec, Generator
from clearline.generate.delays import TokenGrid
from clearline.lab.doctor import Evidence
from clearline.ops import Backend
from clearline.trace import BOUNDARIES, MemoryRecorder

# Silence after the recording, in frames: the last reply needs about 3 s.
TAIL = 45
FrameChange = Callable[[int, np.ndarray], np.ndarray]


@dataclass
class Rig:
    """What a run is made of. A fault changes one part; the facts that the trace names stay those of `claimed`.

    settings: as they are; claimed: as the program's author believes. computed: the language model as it is computed; codec:
    as it is computed. hear: file to 24 kHz mono. fed: the user's codes of frame t [n_user] on their way to the model. said:
    offset of the text token that is fed back. sent: codes of frame t [dep_q] on their way to the decoder. played: sound
    [n] and its rate to what is written. slow: milliseconds added to every frame. runs, transcript, setup, backend: as in
    `Evidence`.
    """

    model: Model
    settings: GenerationConfig
    claimed: GenerationConfig
    computed: Model
    codec: Codec
    hear: Callable[[Recording, int], np.ndarray] = lambda recording, rate: to_mono(recording.samples, recording.rate, rate)
    fed: list[FrameChange] = field(default_factory=list)
    said: int = 0
    sent: list[FrameChange] = field(default_factory=list)
    played: list[Callable[[np.ndarray, int], tuple[np.ndarray, int]]] = field(default_factory=list)
    slow: float = 0.0
    noise: int = 0
    setup: str | None = None
    folder: str = "nano"
    transcript: Callable[[str], str] = lambda text: text
    runs: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda runs: runs
    stale: bool = False
    backend: Backend | None = None


def intact(model: Model, seed: int, folder: str = "nano") -> Rig:
    """A rig with nothing broken, with the checkpoint's own settings."""
    settings = model.generation(seed=seed)
    return Rig(model, settings, settings, model, model.mimi, folder=folder)


def run(rig: Rig, recording: Recording) -> Evidence:
    """Run the recording through the rig, and hand over everything a careful engineer would have recorded."""
    model, size = rig.model, rig.model.mimi.frame_size
    pcm = rig.hear(recording, model.mimi.sample_rate)
    heard = np.pad(pcm, (0, -len(pcm) % size + TAIL * size)).reshape(-1, size).astype(np.float32)
    input_hash = hashlib.sha256(np.ascontiguousarray(recording.samples).tobytes()).hexdigest()
    recorder = MemoryRecorder(BOUNDARIES)
    generator, times = _generator(rig), []
    stream = rig.codec.stream(max(1, model.config.user_streams))
    sound: list[np.ndarray] = []
    for t, frame in enumerate(heard):
        begun = time.thread_time()  # of this thread alone: other programs on this machine are not the rig's fault
        codes = stream.encode(frame)
        for change in rig.fed:
            codes = change(t, codes)
        if t == 0 and rig.settings.first_frame == "twice":
            generator.step(codes)
        lm = generator.step(codes)
        out = None if lm.codes is None else lm.codes[1:]
        pcm_out = None
        if out is not None:
            for change in rig.sent:
                out = change(t, out)
            if ((out >= 0) & (out < model.mimi.cfg.bins)).all():
                pcm_out = stream.decode(out).astype(np.float32)
                sound.append(pcm_out)
        times.append((time.thread_time() - begun) * 1e3 + rig.slow)
        recorder.add({
            "pcm_in": frame, "codes_in": codes, "row": lm.row, "hidden": lm.hidden, "text_logits": lm.text_logits,
            "text_token": lm.text_token, "audio_logits": lm.audio_logits, "audio_tokens": lm.audio_tokens, "codes_out": out,
            "pcm_out": pcm_out,
        })  # fmt: skip
    output = played(rig, np.concatenate(sound) if sound else np.zeros(size, np.float32))
    written = wav_hash(output)
    recorder.begin(model.facts(rig.claimed) | {"input": input_hash, "output": written})
    evidence = Evidence(
        model,
        rig.folder,
        recorder.trace(),
        recording,
        input_hash,
        output,
        written,
        np.array(times),
        rig.setup,
        rig.runs(_records(rig, written, sum(times) / 1e3)),
        backend=rig.backend,
    )
    if rig.stale:
        old = Recording(np.roll(output.samples, len(output.samples) // 3)[: len(output.samples) * 2 // 3].copy(), output.rate)
        evidence = replace(evidence, output=old, output_hash=wav_hash(old))
    from clearline.lab.doctor.examine import said

    return replace(evidence, transcript=rig.transcript(said(evidence) or ""))


def played(rig: Rig, pcm: np.ndarray) -> Recording:
    """The file that is written: 16 bits, after everything that is done to the decoder's sound."""
    rate = rig.model.mimi.sample_rate
    for change in rig.played:
        pcm, rate = change(pcm, rate)
    return Recording((np.clip(np.rint(pcm * 32768), -32768, 32767) / 32768).astype(np.float32)[:, None], rate)


def wav_hash(recording: Recording) -> str:
    return hashlib.sha256(wav_bytes(recording.samples[:, 0], recording.rate)).hexdigest()


def _generator(rig: Rig) -> Generator:
    settings = replace(rig.settings, seed=rig.noise) if rig.noise else rig.settings
    generator = Generator(rig.computed.programs, settings)
    if rig.said:
        grid = copy.copy(generator._grid)
        grid.__class__ = type("TextOffset", (_TextOffset,), {"by": rig.said, "card": rig.model.config.text_card})
        generator._grid = grid
    return generator


class _TextOffset(TokenGrid):
    """Feeds back another text token than the one sampled."""

    by, card = 0, 0

    def write_own(self, text: int, audio: np.ndarray) -> None:
        super().write_own(int(np.clip(text + self.by, 0, self.card - 1)), audio)


def _records(rig: Rig, output: str, seconds: float) -> list[dict[str, Any]]:
    """Records of this run and of its repetition, as `clearline trials` keeps them; what came of it is the same."""
    started: Sequence[str] = ("2026-01-01T00:00:00.000", "2026-01-01T00:00:09.000")
    return [
        {"run_id": str(uuid.uuid4()), "seed": rig.claimed.seed, "output": output, "seconds": max(seconds, 0.001), "started": at}
        for at in started
    ]
