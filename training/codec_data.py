"""What the codec is trained on: crops of the replies, and of users as they come with noise and room."""

import itertools

import augment as aug
import numpy as np
import torch
from codec_model import SUB
from common import FRAME, LEAD, RATE
from corpus import Corpus, replies
from together import rank


class Data:
    def __init__(self, seed):
        self.rng = np.random.default_rng([seed, rank()])
        self.corpus = Corpus("train")
        self.weights = self.corpus.weights()
        quiet = np.zeros(LEAD * FRAME, np.float32)
        self.replies = [np.concatenate([quiet, w, quiet[: 10 * FRAME]]) for _, w, _ in replies()]
        sizes = np.array([len(r) for r in self.replies], float)
        self.reply_weights = sizes / sizes.sum()
        self.voices = [i for i, it in enumerate(self.corpus.items) if it["engine"] != "kokoro"]
        self.heart = [i for i, it in enumerate(self.corpus.items) if it["engine"] == "hibari"]

    def reply_crops(self, n, frames=16):
        """Crops of the replies at frame boundaries, exactly as they will be encoded;
        every fifth is other speech of the same voice."""
        out = []
        for k in range(n):
            if k % 5 == 4:
                w = self.corpus.wav(self.rng.choice(self.heart)) * 0.66
                w = np.pad(w, (self.rng.integers(frames * FRAME // 2), frames * FRAME))
                out.append(w[: frames * FRAME])
                continue
            w = self.replies[self.rng.choice(len(self.replies), p=self.reply_weights)]
            s = self.rng.integers((len(w) // FRAME) - frames + 1) * FRAME
            out.append(w[s : s + frames * FRAME])
        return torch.tensor(np.stack(out))[:, None]

    def users(self, n, frames=14, ease=0, lag=0.02):
        """Crops of user speech -> (noisy [n,1,T], clean [n,1,T], phonemes by step [n,50T], -1: not known)."""
        noisies, cleans, labels = [], [], np.full((n, frames * SUB), -1)
        for row in range(n):
            i = self.rng.choice(len(self.corpus), p=self.weights)
            w = self.corpus.wav(i)
            length = len(w)
            easy = self.rng.random() < ease  # at first mostly clean speech
            if self.rng.random() < 0.7 and not easy:
                w = aug.respeed(w, self.rng)
            known = self.corpus.labels(i, length / RATE, 0.02 * length / len(w), lag)
            at = int(self.rng.integers(-6, max(-5, len(w) // FRAME - frames + 4)))  # in frames
            clean = np.zeros(frames * FRAME, np.float32)
            part = w[max(0, at) * FRAME : (at + frames) * FRAME]
            lead = max(0, -at) * FRAME
            clean[lead : lead + len(part)] = part
            if known is not None:
                known = known[max(0, at) * SUB : (at + frames) * SUB]
                labels[row] = 0
                labels[row, max(0, -at) * SUB :][: len(known)] = known
            noisy = clean
            if not easy:
                noisy = aug.colour(noisy, self.rng) if self.rng.random() < 0.8 else noisy
                noisy = aug.add_noise(noisy, np.sqrt(np.mean(part**2)), self.rng, voices=self.babble)
            noisy = aug.level(aug.random_level(self.rng) if not easy else -4, noisy)
            noisies.append(noisy)
            cleans.append(clean * (0.6 / (np.abs(w).max() + 1e-9)))
        return (*(torch.tensor(np.stack(x), dtype=torch.float32)[:, None] for x in (noisies, cleans)), torch.tensor(labels))

    def babble(self, rng):
        return self.corpus.wav(self.voices[rng.integers(len(self.voices))])


class Users(torch.utils.data.IterableDataset):
    """Data.users for ever, made by another process; utterances that are added meanwhile are used."""

    def __init__(self, seed, ease, **args):
        self.seed, self.ease, self.args = seed, ease, args

    def __iter__(self):
        data = Data(self.seed)
        for i in itertools.count(1):
            yield data.users(20, ease=self.ease.value, **self.args)
            if i % 1000 == 0:
                data = Data(self.seed + i)
