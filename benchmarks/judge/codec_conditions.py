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


def stuck_frame(codes, rng):
    """One frame's codes for ever."""
    frame = int(rng.integers(6, codes.shape[1] // 2))
    return np.repeat(codes[:, frame : frame + 1], codes.shape[1], 1)


def mostly_random(codes, rng):
    """What a temperature of 5 leaves: a few of the tokens, and anything for the rest."""
    return np.where(rng.random(codes.shape) < 0.2, codes, rng.integers(0, 512, codes.shape))


def first_only(codes, rng):
    """The acoustic codebooks set to one token."""
    return np.where(np.arange(len(codes))[:, None] < 1, codes, 0)


def half_missing(codes, rng):
    """The second half of the codebooks set to one token."""
    return np.where(np.arange(len(codes))[:, None] < len(codes) // 2, codes, 0)


def block(codes, rng):
    """Frames in blocks of a quarter of a second, the blocks out of order."""
    size = 3
    blocks = codes[:, : codes.shape[1] // size * size].reshape(len(codes), -1, size)
    return blocks[:, rng.permutation(blocks.shape[1])].reshape(len(codes), -1)


# name: (truth, family, harm)
CODEC_CONDITIONS: dict[str, tuple[str, str, Harm]] = {
    "nano healthy": ("clear", "codec healthy", lambda codes, rng: codes),
    # A truth of its own: it sounds broken, and yet nano's first codebook says enough for Whisper tiny.en to hear most words
    # (check_truth.py). Nothing is fitted to it; what is said of it is reported.
    **{f"acoustic {shift:+d}": ("misaligned", "codec shifted", moved(shift)) for shift in (-2, -1, 1, 2)},
    "codebooks permuted": ("garbled", "codec permuted", permuted),
    "codes off by one": ("garbled", "codec other codes", one_off),
    "random codes": ("garbled", "codec other codes", drawn_at_random),
    "other weights": ("garbled", "codec other codes", other_weights),
    "frames reversed": ("garbled", "codec order", frames_reversed),
    "frames out of order": ("garbled", "codec order", frames_out_of_order),
    "blocks out of order": ("garbled", "codec order", block),
    "stuck frame": ("garbled", "codec stuck", stuck_frame),
    "mostly random": ("garbled", "codec other codes", mostly_random),
    "half of the codebooks zero": ("degraded", "codec zeros", half_missing),
    "acoustic codebooks zero": ("garbled", "codec zeros", first_only),
    "acoustic of another moment": ("misaligned", "codec shifted", semantic_only_right),
}
