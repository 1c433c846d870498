"""What is done to the codes of nano's own replies before they are decoded: the faults of a pipeline, and none."""

from collections.abc import Callable

import numpy as np

Harm = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def moved(shift: int) -> Harm:
    """Acoustic codebooks `shift` frames later than the semantic one."""

    def harm(codes, rng):
        out = codes.copy()
        out[1:] = np.roll(codes[1:], shift, 1)
        return out

    return harm


def permuted(codes, rng):
    order = rng.permutation(len(codes))
    while (order == np.arange(len(codes))).sum() > 2:
        order = rng.permutation(len(codes))
    return codes[order]


def one_off(codes, rng):
    return (codes + int(rng.choice([-1, 1]))) % 512


def drawn_at_random(codes, rng):
    return rng.integers(0, 512, codes.shape)


def frames_reversed(codes, rng):
    return codes[:, ::-1].copy()


def frames_out_of_order(codes, rng):
    return codes[:, rng.permutation(codes.shape[1])]


def other_weights(codes, rng):
    """The codes of one codec through the codebooks of another: every number means another sound."""
    return np.stack([rng.permutation(512)[row] for row in codes])


def semantic_only_right(codes, rng):
    """The acoustic codebooks of another moment."""
    return np.concatenate([codes[:1], np.roll(codes[1:], int(rng.integers(8, 16)), 1)])


# name: (truth, family, harm)
CODEC_CONDITIONS: dict[str, tuple[str, str, Harm]] = {
    "nano healthy": ("clear", "codec healthy", lambda codes, rng: codes),
    **{f"acoustic {shift:+d}": ("garbled", "codec shifted", moved(shift)) for shift in (-2, -1, 1, 2)},
    "codebooks permuted": ("garbled", "codec permuted", permuted),
    "codes off by one": ("garbled", "codec other codes", one_off),
    "random codes": ("garbled", "codec other codes", drawn_at_random),
    "other weights": ("garbled", "codec other codes", other_weights),
    "frames reversed": ("garbled", "codec order", frames_reversed),
    "frames out of order": ("garbled", "codec order", frames_out_of_order),
    "acoustic of another moment": ("garbled", "codec shifted", semantic_only_right),
}
