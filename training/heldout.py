"""The recordings that nano is measured on: voices, sentences and noises it has never met."""

import augment as aug
import numpy as np
from common import FRAME, RATE, exchanges
from corpus import Corpus

KINDS = {  # name: (noise kinds, SNR range, room, level range in dBFS)
    "clean": (None, None, False, (-12, -1)),
    "soft": (None, None, False, (-38, -24)),
    "room": (None, None, True, (-12, -1)),
    "noise 15-30 dB": (aug.HELDOUT_NOISE, (15, 30), False, (-12, -1)),
    "noise 8-15 dB": (aug.HELDOUT_NOISE, (8, 15), True, (-12, -1)),
}
ENGINES = ["kokoro"] * 6 + ["flite", "espeak", "festival"]


def recordings(count, seed):
    """-> dicts of `wav` (int16, whole frames), `ends` of speech in samples, `wanted` replies, what was `said`, `voice`, `kind`.

    Every sixth is a conversation of two or three exchanges; a few more, at the end, in which nobody speaks.
    """
    rng, corpus, known = np.random.default_rng(seed), Corpus("heldout"), exchanges()
    by_engine = {}
    for i, item in enumerate(corpus.items):
        by_engine.setdefault(item["engine"], []).append(i)
    engines = [e for e in ENGINES if e in by_engine]
    found = []
    for n in range(count):
        kind = list(KINDS)[n % len(KINDS)]
        turns = 1 if n % 6 else int(rng.integers(2, 4))
        found.append(conversation(kind, turns, corpus, by_engine, engines, known, rng))
    for n in range(max(6, count // 15)):
        wav = np.zeros(10 * RATE, np.float32)
        if n:
            wav = aug.level(rng.uniform(-40, -6), aug.noise([*aug.HELDOUT_NOISE, "pink"][n % 4], len(wav), rng))
        found.append({"wav": wav, "ends": [], "wanted": [], "said": [], "voice": [], "kind": "nobody speaks"})
    for recording in found:  # as a 16-bit file
        pcm = np.round(np.clip(recording["wav"], -1, 1) * 32767).astype(np.int16)
        recording["wav"] = np.pad(pcm, (0, -len(pcm) % FRAME))
    return found


def conversation(kind, turns, corpus, by_engine, engines, known, rng):
    noises, snr, room, levels = KINDS[kind]
    parts, now, found = [], 0, {"ends": [], "wanted": [], "said": [], "voice": [], "kind": kind}
    for _ in range(turns):
        i = int(rng.choice(by_engine[str(rng.choice(engines))]))
        item, wav = corpus.items[i], corpus.wav(i)
        lead = int(rng.uniform(0.4, 2) * RATE)
        reply = known["exchanges"][item["exchange"]]["reply"] if item["exchange"] >= 0 else known["fallback"]
        end = len(wav) - int(0.04 * RATE)
        wav = np.pad(wav, (0, RATE // 3))
        if room or rng.random() < 0.5:
            wav = aug.colour(wav, rng, room)
        tail = int((5.2 if "ten" in reply else 4.2) * RATE)
        parts += [np.zeros(lead, np.float32), aug.level(0, wav), np.zeros(tail, np.float32)]
        for key, value in (("ends", now + lead + end), ("wanted", reply), ("said", item["text"]), ("voice", item["voice"])):
            found[key].append(value)
        now += lead + len(wav) + tail
    wav = np.concatenate(parts)
    if noises:
        noise = aug.noise(str(rng.choice(noises)), len(wav), rng)
        loudness = np.sqrt(np.mean(wav[np.abs(wav) > 0.02] ** 2))
        wav = wav + noise * loudness * 10 ** (-rng.uniform(*snr) / 20)
    return found | {"wav": aug.level(rng.uniform(*levels), wav)}
