"""Makes the training sessions of the language model and encodes them with the frozen codec.

    python build_sessions.py OUT [--count N] [--seed S] [--codec CKPT] [--split train]

A session is 12 s of two people: the user says up to four things with random
silence around them; four frames after the end of each, nano's reply starts.
OUT.npz: user [N,8,T], reply [N,8,T], text [N,T], the user's phonemes, and where
they are known in time, labels [N,4T] (-1: not known).
"""

import argparse
from pathlib import Path

import augment as aug
import numpy as np
import torch
from common import FRAME, LEAD, RATE, TEXT_EPAD, TEXT_PAD, WORK, build_mimi, exchanges
from corpus import Corpus
from corpus import replies as spoken_replies

T = 150  # frames of a session
REACT = 4  # frames from end of speech to reply


class Replies:
    """Codes and text tokens of every reply, and the codes of nano's silence."""

    def __init__(self, mimi, tokenizer):
        before, after = LEAD, 12  # as the decoder learns them
        with torch.no_grad():
            quiet = mimi.encode(torch.zeros(1, 1, (T + 50) * FRAME))[0].numpy()
            self.start = quiet  # from the start of a session
            steady = quiet[:, -1:]
            self.codes, self.text = [], []
            for _, wav, onsets in spoken_replies():
                pad = np.pad(wav, (before * FRAME, after * FRAME))
                codes = mimi.encode(torch.tensor(pad)[None, None])[0].numpy()[:, before:]
                n = len(wav) // FRAME + 3  # three frames for the codec to settle
                self.codes.append(codes[:, :n])
                self.text.append(place(tokenizer, onsets, n))
        self.steady = steady


def place(tokenizer, onsets, n):
    """Text tokens of a reply, frame by frame: a word's tokens from the frame in which it
    starts, one end-of-padding token before them where there is room, else padding.
    The first entry is the frame before the reply."""
    row = np.full(n + 1, TEXT_PAD, np.int64)
    free = 0
    for word, start in onsets:
        at = max(free, 1 + int(start * RATE / FRAME))
        if at > free or at == 1:
            row[at - 1] = TEXT_EPAD
        for token in tokenizer.encode(word):
            row[at] = token
            at += 1
        free = at
    return row


class Maker:
    def __init__(self, split, mimi, tokenizer, seed, kinds=aug.TRAIN_NOISE):
        self.rng = np.random.default_rng(seed)
        self.mimi, self.replies, self.kinds = mimi, Replies(mimi, tokenizer), kinds
        self.corpus = Corpus(split)
        w = self.corpus.weights()
        by = {}
        for i, it in enumerate(self.corpus.items):
            if len(self.corpus.wav(i)) < 3 * RATE:
                by.setdefault(it["exchange"], []).append(i)
        self.by = {k: (np.array(v), w[v] / w[v].sum()) for k, v in by.items()}
        known = [p.lower() for e in exchanges()["exchanges"] for p in e["prompts"]]
        # Cut in the middle, these could still be a known prompt.
        self.whole = {t for t in known if any(t != p and t.startswith(p) for p in known)}
        self.fallback = len(self.replies.codes) - 1

    def pick(self):
        """-> (samples, end of speech in samples, reply number, phonemes, phonemes by step)"""
        rng = self.rng
        exchange = int(rng.integers(self.fallback)) if rng.random() < 0.66 else -1
        index, weights = self.by[exchange]
        i = rng.choice(index, p=weights)
        wav, phones = self.corpus.wav(i), self.corpus.phones(i)
        if exchange >= 0 and rng.random() < 0.05:
            text = self.corpus.items[i]["text"].lower()
            if len(text.split()) > 2 and text not in self.whole:
                n = int(len(wav) * rng.uniform(0.35, 0.5))  # half a prompt is not a prompt
                wav = wav[:n] * np.minimum(1, (n - np.arange(n)) / 400).astype(np.float32)
                exchange, phones = -1, phones[: int(len(phones) * n / len(self.corpus.wav(i)))]
        length = len(wav)
        if rng.random() < 0.75:
            wav = aug.respeed(wav, rng)
        labels = self.corpus.labels(i, length / RATE, 0.02 * length / len(wav))
        if labels is None:
            labels = np.full(len(wav) * 50 // RATE, -1)
        end = len(wav) - int(0.04 * RATE)
        wav = np.pad(wav, (0, RATE // 3))  # room for the reverberation
        if rng.random() < 0.8:
            wav = aug.colour(wav, rng)
        return aug.level(0, wav), end, exchange % (self.fallback + 1), phones, labels

    def session(self):
        rng, replies = self.rng, self.replies
        user = np.zeros(T * FRAME, np.float32)
        reply, text, phones = replies.start[:, :T].copy(), np.full(T, TEXT_PAD), []
        labels = np.zeros(4 * T, np.int64)
        now, rms = int(rng.uniform(0.15, rng.choice([1.5, 4, 9], p=[0.7, 0.25, 0.05])) * RATE), []
        talk = rng.random() > 0.08  # else: nobody speaks at all
        for _ in range(4 if talk else 0):
            wav, end, number, ph, lab = self.pick()
            first = (now + end) // FRAME + REACT
            codes, tokens = replies.codes[number], replies.text[number]
            if first + codes.shape[1] > T:
                break
            gain = 10 ** (rng.uniform(-4, 0) / 20)
            stop = min(len(user), now + len(wav))
            user[now:stop] += gain * wav[: stop - now]
            rms.append(np.sqrt(np.mean(wav[:end] ** 2)) * gain)
            reply[:, first : first + codes.shape[1]] = codes
            reply[:, first + codes.shape[1] :] = replies.steady
            text[first - 1 : first + codes.shape[1]] = tokens
            phones += ph
            at = now * 50 // RATE
            labels[at : at + len(lab)] = lab[: 4 * T - at]
            now = (first + codes.shape[1]) * FRAME + int(rng.uniform(0.2, rng.choice([1, 3.5])) * RATE)
            if now > (T - 30) * FRAME:
                break
        user = self.room_noise(user, np.mean(rms) if rms else 10 ** (rng.uniform(-30, -12) / 20))
        peak = np.abs(user).max()
        if peak > 0:
            user *= 10 ** (aug.random_level(rng) / 20) / peak
        if rng.random() < 0.05:
            user = np.clip(user * 2, -1, 1)
        if rng.random() < 0.5:  # what a 16-bit recorder does
            user = np.round(user * 32767) / 32768
        return user, reply, text, phones, labels

    def room_noise(self, user, rms):
        rng, kind = self.rng, self.rng.random()
        if kind < 0.25:
            return user  # digital silence between the words
        if kind < 0.4:
            return aug.add_noise(user, rms, rng, self.kinds, snr=rng.uniform(40, 60), rate=1)
        noisy = aug.add_noise(user, rms, rng, self.kinds, self.babble, rate=1)
        if rng.random() < 0.15:  # noise that comes and goes
            gate = np.repeat(rng.random(T // 5 + 1) < 0.6, 5 * FRAME)[: len(user)]
            gate = np.convolve(gate, np.ones(480) / 480, "same").astype(np.float32)
            noisy = user + (noisy - user) * gate
        return noisy

    def babble(self, rng):
        return self.corpus.wav(int(rng.integers(len(self.corpus))))

    def batch(self, n):
        rows = [self.session() for _ in range(n)]
        with torch.no_grad():
            user = self.mimi.encode(torch.tensor(np.stack([r[0] for r in rows]), dtype=torch.float32)[:, None])
        return (user.numpy(), *(np.stack([r[k] for r in rows]) for k in (1, 2, 4)), [r[3] for r in rows])


def load_codec(path):
    mimi = build_mimi()
    mimi.load_state_dict(torch.load(path, map_location="cpu")["mimi"])
    return mimi.eval()


def load_tokenizer():
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(WORK / "tokenizer.model"))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("out")
    ap.add_argument("--count", type=int, default=4000)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--split", default="train")
    ap.add_argument("--codec", default=str(WORK / "codec_frozen.pt"))
    a = ap.parse_args()
    torch.set_num_threads(1)
    kinds = aug.TRAIN_NOISE if a.split == "train" else aug.HELDOUT_NOISE
    maker = Maker(a.split, load_codec(a.codec), load_tokenizer(), a.seed, kinds)
    parts = []

    def save():
        phones = [p for x in parts for p in x[4]]
        np.savez(
            a.out + ".tmp.npz",
            **{
                k: np.concatenate([x[i] for x in parts]).astype(np.int16) for i, k in enumerate(("user", "reply", "text", "labels"))
            },
            phones=np.concatenate([np.array(p, np.int16) for p in phones]),
            lengths=np.array([len(p) for p in phones]),
        )
        Path(a.out + ".tmp.npz").replace(a.out + ".npz")

    while (n := sum(len(x[4]) for x in parts)) < a.count:
        parts.append(maker.batch(4))
        if len(parts) % 80 == 0:
            save()
            print(n + 4, "sessions", flush=True)
    save()


if __name__ == "__main__":
    main()
