"""The same faults on the codes or the sound of another program, into which nobody can look.

All there is: codes (of a log, a file, an adapter), decoded right or wrong; or the sound alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from clearline.app import Model
from clearline.audio import Recording
from clearline.backends import get_backend
from clearline.generate import Codec
from clearline.lab.align import shifted
from clearline.lab.doctor import Evidence, examine
from clearline.lab.doctor.odd import OddCodec
from clearline.lab.faults import ways
from clearline.trace import Trace

Codes = np.ndarray


@dataclass(frozen=True)
class ForeignFault:
    """name: a right diagnosis, where the kind of evidence allows one; codes: what becomes of codes [K, T]; decoded: how
    they are made sound; played: what becomes of the sound. garbles: whether nobody would understand the result."""

    name: str
    description: str
    codes: Callable[[Codes, int], Codes] = lambda codes, bins: codes
    decoded: Callable[[Codec], Codec] = lambda codec: codec
    played: Callable[[np.ndarray, int], tuple[np.ndarray, int]] = lambda pcm, rate: (pcm, rate)
    garbles: bool = True


def _shift(by: int) -> Callable[[Codes, int], Codes]:
    return lambda codes, bins: shifted(codes, by)


def _shuffled(codes: Codes, bins: int) -> Codes:
    rng = np.random.default_rng(0)
    return np.stack([row[rng.permutation(len(row))] for row in codes])


FOREIGN: tuple[ForeignFault, ...] = (
    ForeignFault("acoustic-delay", "acoustic delay one too large", _shift(-1)),
    ForeignFault("acoustic-delay", "acoustic delay one too small", _shift(1)),
    ForeignFault("acoustic-delay", "acoustic delay two too large", _shift(-2)),
    ForeignFault("audio-vocabulary-offset", "codes one too large", lambda codes, bins: np.minimum(codes + 1, bins - 1)),
    ForeignFault("buffer-reversed", "frames in reverse order", lambda codes, bins: codes[:, ::-1].copy()),
    ForeignFault("codebooks-permuted", "codebooks in reverse order", lambda codes, bins: codes[::-1].copy()),
    ForeignFault("unexplained-tokens", "every codebook's frames shuffled", _shuffled),
    ForeignFault("unexplained-tokens", "random codes", lambda codes, bins: np.random.default_rng(0).integers(0, bins, codes.shape)),
    ForeignFault(
        "decoder-state-reset",
        "decoded frame by frame without state",
        decoded=lambda codec: OddCodec(codec, get_backend("onnx"), forget_decoder=1),
    ),
    ForeignFault("buffer-reversed", "sound played backwards", played=lambda pcm, rate: (pcm[::-1].copy(), rate)),
    ForeignFault("samples-reversed", "samples of each frame backwards", played=ways.reversed_samples),
    ForeignFault("callback-underfilled", "callback under-filled", played=ways.underfilled, garbles=False),
    ForeignFault("output-wrong-rate", "header of 16 kHz", played=lambda pcm, rate: (pcm, 16_000), garbles=False),
)


@dataclass(frozen=True)
class ForeignCase:
    """given: "codes", "codes and sound" or "sound". wrong: whether the doctor found something wrong; named: what; kind: of the
    diagnosis, "undecided" where it can neither say so nor that all is well."""

    fault: str
    description: str
    given: str
    wrong: bool
    named: tuple[str, ...]
    kind: str


def foreign_trial(model: Model, codes: Codes, text: np.ndarray | None = None) -> Iterator[ForeignCase]:
    """Codes [K, T] of another program (and its text tokens [T]) intact, and with each fault, in every kind of evidence."""
    intact = ForeignFault("", "intact", garbles=False)
    for fault in (intact, *FOREIGN):
        broken = fault.codes(codes, model.mimi.cfg.bins)
        pcm = fault.decoded(model.mimi).decode(broken)
        sound, rate = fault.played(pcm.astype(np.float32), model.mimi.sample_rate)
        output = Recording(np.clip(sound, -1, 1).astype(np.float32)[:, None], rate)
        columns = {"codes_out": broken.T.astype(np.int64)}
        if text is not None and broken.shape[1] == len(text):
            columns["text_token"] = text
        both = Evidence(model, trace=Trace(columns), output=output)
        for given, evidence in (
            ("codes", replace(both, output=None)),
            ("codes and sound", both),
            ("sound", replace(both, trace=None)),
        ):
            if given == "codes" and broken is codes and fault is not intact:
                continue  # nothing is wrong with the codes
            found = examine(evidence, machine=False, listen=True)
            yield ForeignCase(fault.name, fault.description, given, bool(found.names), found.names, found.kind)
