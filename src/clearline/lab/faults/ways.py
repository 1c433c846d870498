"""How each fault is put into a rig."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from clearline.audio import Recording, to_mono
from clearline.backends import get_backend
from clearline.config import Sampling
from clearline.generate import CodecStream
from clearline.lab.doctor.codec_mistakes import CodecMistake, codec_mistakes, strided_elu
from clearline.lab.doctor.encoding import cluster_usage
from clearline.lab.doctor.lm_mistakes import lm_mistakes
from clearline.lab.doctor.odd import OddBackend, OddCodec
from clearline.lab.faults.rig import Rig

Inject = Callable[[Rig], None]


def hear(change: Callable[[np.ndarray, int, int], np.ndarray]) -> Inject:
    """change(mono [n], its rate, the codec's rate) -> what the codec is given."""

    def inject(rig: Rig) -> None:
        rig.hear = lambda recording, rate: change(mono(recording), recording.rate, rate)

    return inject


def mono(recording: Recording) -> np.ndarray:
    return to_mono(recording.samples, recording.rate, recording.rate)


def played(change: Callable[[np.ndarray, int], tuple[np.ndarray, int]]) -> Inject:
    return lambda rig: rig.played.append(change)


def settings(**changes: object) -> Inject:
    def inject(rig: Rig) -> None:
        rig.settings = replace(rig.settings, **changes)  # type: ignore[arg-type]

    return inject


def drawn(text: Sampling, audio: Sampling) -> Inject:
    return settings(text=text, audio=audio)


def no_top_k(rig: Rig) -> None:
    """A sure model hardly ever draws a token that top-k 250 would have excluded: here the settings say 3, at temperature 1.5."""
    rig.claimed = replace(rig.claimed, text=Sampling(1.5, top_k=3), audio=Sampling(1.5, top_k=3))
    rig.settings = replace(rig.settings, text=Sampling(1.5), audio=Sampling(1.5))


def codec(name: str, **odd: int) -> Inject:
    """A known mistake of the codec, or only its encoder's or decoder's half of it."""

    def inject(rig: Rig) -> None:
        backend = get_backend(rig.model.backend.name)
        if odd:
            rig.codec = OddCodec(rig.codec, backend, **odd)  # type: ignore[arg-type]
            return
        found: CodecMistake = next(m for m in codec_mistakes(lambda: cluster_usage(rig.model)) if m.name == name)
        rig.codec = found.make(rig.codec, backend)

    return inject


def lm(name: str) -> Inject:
    def inject(rig: Rig) -> None:
        rig.computed = next(m for m in lm_mistakes(rig.model.config) if m.name == name).made(rig.model)

    return inject


def delay(frames: int) -> Inject:
    return settings(acoustic_delay=frames)


def too_many_codebooks(rig: Rig) -> None:
    """32 codebooks laid out frame after frame and read 8 at a time: only every fourth step begins with a frame's own codes."""
    rng, waiting = np.random.default_rng(0), [np.zeros(0, np.int64)]

    def fed(_: int, codes: np.ndarray) -> np.ndarray:
        more = rng.integers(0, rig.model.mimi.cfg.bins, 3 * len(codes))
        waiting[0] = np.concatenate([waiting[0], codes, more])
        now, waiting[0] = waiting[0][: len(codes)], waiting[0][len(codes) :]
        return now

    rig.fed.append(fed)


def too_few_codebooks(rig: Rig) -> None:
    """Half of the codebooks encoded, zeros where the rest belong."""
    rig.fed.append(lambda _, codes: np.where(np.arange(len(codes)) < len(codes) // 2, codes, 0))


class _Half(OddCodec):
    """Decodes the first half of the codebooks it is given."""

    def stream(self, num_codebooks: int | None = None, window: Any = "frame") -> CodecStream:
        return _HalfStream(self, self.checked_codebooks(self.cfg.n_q if num_codebooks is None else num_codebooks), window)


class _HalfStream(CodecStream):
    def decode(self, codes: np.ndarray) -> np.ndarray:
        return super().decode(codes[: max(1, len(codes) // 2)])


def half_decoded(rig: Rig) -> None:
    rig.codec = _Half(rig.codec, get_backend(rig.model.backend.name))


def vocabulary(rig: Rig) -> None:
    bins = rig.model.mimi.cfg.bins
    rig.sent.append(lambda _, codes: np.minimum(codes + 1, bins - 1))


def text_vocabulary(rig: Rig) -> None:
    rig.said = 1


def underfilled(pcm: np.ndarray, rate: int, block: int = 960, missing: int = 96) -> tuple[np.ndarray, int]:
    """Every callback of 40 ms gets 4 ms too little; what is missing is silence."""
    blocks = np.pad(pcm, (0, -len(pcm) % (block - missing))).reshape(-1, block - missing)
    return np.pad(blocks, ((0, 0), (0, missing))).reshape(-1), rate


def reversed_frames(pcm: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
    return pcm.reshape(-1, 1920)[::-1].reshape(-1), rate


def reversed_samples(pcm: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
    return pcm.reshape(-1, 1920)[:, ::-1].reshape(-1), rate


def slow(rig: Rig) -> None:
    rig.slow = 90.0


def cached(rig: Rig) -> None:
    rig.runs = lambda runs: [runs[0], dict(runs[0])]


def unseeded(rig: Rig) -> None:
    rig.noise = rig.claimed.seed + 77


def random_runs(rig: Rig) -> None:
    """A generator that is not seeded: the repetition gives something else, and so does drawing again."""
    unseeded(rig)
    rig.runs = lambda runs: [runs[0], runs[1] | {"output": runs[1]["output"][::-1]}]


def hallucinated(rig: Rig) -> None:
    rig.transcript = lambda _: "Thanks for watching!"


def stale(rig: Rig) -> None:
    rig.stale = True


def other_config(rig: Rig) -> None:
    rig.setup = "mlx:config1b_202412"  # the shape of s2st-1b.toml


def program(rig: Rig) -> None:
    rig.setup = "@rust:moshi-cli"


def broken_operation(rig: Rig) -> None:
    rig.backend = OddBackend(get_backend(rig.model.backend.name), {"activation": strided_elu})


def wrong_elu(rig: Rig) -> None:
    codec("wrong-elu")(rig)
