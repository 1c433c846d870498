"""New speakers from the recorded ones: another pitch, melody, vocal tract and breath (WORLD vocoder), same words and times.

    python warp.py [--count 5000] [--shard 0]

Reads the training utterances, writes WORK/audio/warped-train-SHARD as synthesise.py would.
"""

import argparse
import json

import numpy as np
import pyworld
from common import RATE, WORK
from corpus import Corpus

SHARE = {"kokoro": 0.25, "hibari": 0.25, "espeak": 0.15, "flite": 0.2, "festival": 0.15}


def speaker(wav, rng):
    """The same words by somebody else. wav: float [samples] at 24 kHz; -> float [samples]."""
    wav = wav.astype(np.float64)
    pitch, times = pyworld.dio(wav, RATE)
    pitch = pyworld.stonemask(wav, pitch, times, RATE)
    envelope, breath = pyworld.cheaptrick(wav, pitch, times, RATE), pyworld.d4c(wav, pitch, times, RATE)
    voiced = pitch > 0
    if voiced.any():
        middle = np.exp(np.log(pitch[voiced]).mean())
        lively, height = rng.uniform(0.2, 1.5), np.exp(rng.uniform(np.log(75), np.log(270)))
        pitch[voiced] = np.clip(height * (pitch[voiced] / middle) ** lively, 50, 600)
        # High voices mostly have short vocal tracts.
        tract = (height / middle) ** 0.15 * np.exp(rng.uniform(-0.13, 0.13))
    else:
        tract = np.exp(rng.uniform(-0.15, 0.15))
    bins = np.arange(envelope.shape[1])
    source = np.clip(bins / tract, 0, bins[-1])
    low = source.astype(int)
    part, high = source - low, np.minimum(low + 1, bins[-1])
    envelope = np.ascontiguousarray(np.exp((1 - part) * np.log(envelope[:, low]) + part * np.log(envelope[:, high])))
    breath = np.clip(breath ** np.exp(rng.uniform(-0.9, 0.5)), 1e-3, 1)
    return pyworld.synthesize(pitch, envelope, breath, RATE)[: len(wav)]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--count", type=int, default=5000)
    ap.add_argument("--shard", type=int, default=0)
    a = ap.parse_args()
    rng, corpus = np.random.default_rng(1000 + a.shard), Corpus("train")
    by = {e: [i for i, it in enumerate(corpus.items) if it["engine"] == e] for e in SHARE}
    offset, base = 0, WORK / "audio" / f"warped-train-{a.shard}"
    with base.with_suffix(".i16").open("wb") as audio, base.with_suffix(".jsonl").open("w") as index:
        for _ in range(a.count):
            i = int(rng.choice(by[str(rng.choice(list(SHARE), p=list(SHARE.values())))]))
            wav = speaker(corpus.wav(i), rng)
            pcm = np.int16(wav * (29000 / np.abs(wav).max()))
            it = corpus.items[i]
            line = {k: it[k] for k in ("text", "exchange", "voice", "aligned") if k in it}
            line |= {"engine": "warped", "voice": it["engine"] + " " + it["voice"], "start": offset, "length": len(pcm)}
            audio.write(pcm.tobytes())
            audio.flush()
            index.write(json.dumps(line) + "\n")
            index.flush()
            offset += len(pcm)


if __name__ == "__main__":
    main()
