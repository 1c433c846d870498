"""The known ways in which a codec is computed wrongly, each as a codec that does it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clearline.generate import Codec
from clearline.lab.doctor.odd import OddBackend, OddCodec
from clearline.ops import Backend, Weight

Half = str  # "encoder" or "decoder"


@dataclass(frozen=True)
class CodecMistake:
    """name: the finding's; with `halves`, the boundary's half is put before it. what: in words. make: the codec."""

    name: str
    what: str
    remedy: str
    make: Callable[[Codec, Backend], OddCodec]
    halves: bool = False

    def called(self, half: Half) -> str:
        return f"{half}-{self.name}" if self.halves else self.name


def codec_mistakes(usage: Callable[[], Mapping[str, np.ndarray]]) -> Iterator[CodecMistake]:
    """Every known mistake, likeliest first. usage: reads the codebooks' cluster usage, by weight name."""
    for every in (1, 2, 5):
        yield CodecMistake(
            "state-reset",
            f"the codec's state is thrown away {'after every frame' if every == 1 else f'every {every} frames'}",
            "keep one streaming state for the whole conversation, or decode the whole recording at once",
            lambda codec, backend, every=every: OddCodec(codec, backend, forget_encoder=every, forget_decoder=every),  # type: ignore[misc]
            halves=True,
        )
    yield CodecMistake(
        "shared-codec-state",
        "encoder and decoder write into one and the same transformer state",
        "give the encoder and the decoder a state of their own",
        lambda codec, backend: OddCodec(codec, backend, shared=True),
    )
    yield CodecMistake(
        "codebooks-not-normalised",
        "the codebooks' embedding sums are used without dividing them by the cluster usage",
        "use embedding_sum / max(cluster_usage, 1e-5) as codebook",
        lambda codec, backend: OddCodec(codec, backend, unnormalised(codec.weights, usage())),
    )
    for what, wrong in (
        ("reads its input in the wrong memory order (as if a transposed tensor were contiguous)", strided_elu),
        ("is a ReLU", lambda ops, x, name, alpha=1.0: ops.activation(x, "relu" if name == "elu" else name, alpha)),
    ):
        yield CodecMistake(
            "wrong-elu",
            f"the ELU of the codec's convolutions {what}",
            "make the tensor contiguous before the activation, or mend the operation (`clearline doctor` tests it by itself)",
            lambda codec, backend, wrong=wrong: OddCodec(codec, OddBackend(backend, {"activation": wrong})),  # type: ignore[misc]
        )
    yield CodecMistake(
        "codec-rope-layout",
        "the codec's transformer rotates split halves instead of neighbouring pairs",
        "use interleaved RoPE (rope_i in Candle, traditional=True in MLX) for Mimi",
        lambda codec, backend: OddCodec(codec, OddBackend(backend, {"rope": halved_rope})),
    )


def strided_elu(ops: Any, x: Any, name: str, alpha: float = 1.0) -> Any:
    """ELU of a [B, T, C] tensor whose elements are fetched in the order of its transpose."""
    if name == "elu" and x.shape[1] > 1:
        x = ops.reshape(ops.transpose(x, (0, 2, 1)), x.shape)
    return ops.activation(x, name, alpha)


def halved_rope(ops: Any, x: Any, position: Any, period: float, layout: str) -> Any:
    return ops.rope(x, position, period, "halves" if layout == "interleaved" else "interleaved")


def unnormalised(weights: Mapping[str, Weight], usage: Mapping[str, np.ndarray]) -> dict[str, Weight]:
    """Codebooks as embedding sums: each centroid times its usage [bins]."""
    out = dict(weights)
    for name, counts in usage.items():
        out[name] = replace(out[name], data=out[name].dense(np.float32) * np.maximum(counts, 1e-5)[:, None].astype(np.float32))
    return out
