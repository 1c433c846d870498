"""Do frames of codes follow each other? In speech, or any sound, neighbouring frames are more alike than frames of other times.

A permutation test, so that no reference of natural codes is needed: the likeness of neighbours in the order as it is, among
that in random orders of the same frames. Frames that were shuffled are one random order among others. The other way round (the
reverse order) is as orderly as the right one; `consistency` sees that.
"""

import numpy as np

from clearline.generate import Codec
from clearline.lab.consistency import SILENCE_DB, loudness, reference_speech

# Random orders to compare with; frames with sound that a verdict needs: of 12 to 30 frames one order in ten was not told from
# random ones. The largest p of a codec whose latents are known to be continuous, on clear speech.
ORDERS, FEWEST, KNOWN = 499, 40, 0.02
# Of fewer different frames than these (a token that is stuck) every order is the same.
DISTINCT = 20


def order_p(codec: Codec, codes: np.ndarray) -> float | None:
    """p of the order of the frames of codes [K, T] that have sound: small in a sound, anything if they were shuffled.

    None where fewer than FEWEST of them have sound or DISTINCT of them differ, or where even clear speech has no order that this
    codec's latents show.
    """
    there = codes[:, _sounding(codec.decode(codes), codec)]
    if there.shape[1] < FEWEST or len(np.unique(there, axis=1).T) < DISTINCT:
        return None
    speech = reference_speech(codec.sample_rate)
    clear = codec.encode(speech, len(codes))
    if _p(latents(codec, clear)) > KNOWN:
        return None
    return _p(latents(codec, there))


def latents(codec: Codec, codes: np.ndarray) -> np.ndarray:
    """What codes [K, T] add up to, of the semantic and of the acoustic half, side by side at equal power: [T, 2 dim]."""
    semantic = codec.cfg.n_q_semantic
    halves = []
    for path, rows in (("rvq_first", codes[:semantic]), ("rvq_rest", codes[semantic:])):
        tables = [codec.weights[f"quantizer.{path}.vq.layers.{level}._codebook.embedding"] for level in range(len(rows))]
        if tables:
            total = np.sum([table.data[row].astype(np.float64) for table, row in zip(tables, rows, strict=True)], 0)
            total = total - total.mean(0)
            halves.append(total / (np.sqrt((total**2).mean()) + 1e-12))
    return np.concatenate(halves, 1)


def _sounding(pcm: np.ndarray, codec: Codec) -> np.ndarray:
    return loudness(pcm.reshape(-1, codec.frame_size)) > SILENCE_DB


def _p(rows: np.ndarray) -> float:
    """(1 + random orders whose neighbours are at least as alike) / (1 + random orders), for rows [T, dim]."""
    rng = np.random.default_rng(0)
    likeness = rows @ rows.T  # of every frame with every other
    found = likeness[np.arange(len(rows) - 1), np.arange(1, len(rows))].sum()
    orders = [rng.permutation(len(rows)) for _ in range(ORDERS)]
    others = np.array([likeness[order[:-1], order[1:]].sum() for order in orders])
    return (1 + int((others >= found).sum())) / (1 + ORDERS)
