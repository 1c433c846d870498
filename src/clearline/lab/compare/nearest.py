"""Two different codes of the same sound: how little of the latent it takes to turn one into the other."""

from dataclasses import dataclass

import numpy as np

from clearline.generate import Codec


@dataclass(frozen=True)
class NearestCode:
    """The first codebook in which the codes of one frame differ, and this codec's view of the two.

    nearest: the code that is nearest to the residual r. turn: how far r has to move until the code of the other side is as
    near as the nearest, (|r - c'|^2 - |r - c|^2) / (2 |c' - c|), as a share of the latent |x| that r is what is left of.
    """

    codebook: int
    frame: int
    code_a: int
    code_b: int
    nearest: int
    turn: float


def nearest_code(codec: Codec, pcm: np.ndarray, codes_a: np.ndarray, codes_b: np.ndarray) -> NearestCode:
    """The last frame of pcm [T, frame_size], which the two sides encoded as codes_a and codes_b [K], not equal."""
    stream = codec.stream(1)
    for frame in pcm[:-1]:
        stream.encode_latent(frame)
    latent = stream.encode_latent(pcm[-1]).astype(np.float64)
    k = int(np.flatnonzero(codes_a != codes_b)[0])
    half, first = ("rvq_first", 0) if k < codec.cfg.n_q_semantic else ("rvq_rest", codec.cfg.n_q_semantic)
    residual = projected = _weight(codec, f"quantizer.{half}.input_proj.weight")[..., 0] @ latent
    for level in range(first, k):
        residual = residual - _codebook(codec, half, level - first)[codes_a[level]]
    book = _codebook(codec, half, k - first)
    distance = ((residual - book) ** 2).sum(1)
    nearest = int(distance.argmin())
    moves = [
        (distance[code] - distance[nearest]) / (2 * np.linalg.norm(book[code] - book[nearest]))
        for code in (codes_a[k], codes_b[k])
        if code != nearest
    ]
    turn = float(max(moves)) / max(float(np.linalg.norm(projected)), 1e-300)
    return NearestCode(k, len(pcm) - 1, int(codes_a[k]), int(codes_b[k]), nearest, turn)


def _codebook(codec: Codec, half: str, level: int) -> np.ndarray:
    return _weight(codec, f"quantizer.{half}.vq.layers.{level}._codebook.embedding")


def _weight(codec: Codec, name: str) -> np.ndarray:
    return codec.weights[name].dense(np.float64)
