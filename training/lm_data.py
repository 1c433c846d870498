"""What the language model is trained on: sessions, and what its ears and its memory make of them."""

import numpy as np
import torch
from common import WORK


class Sessions:
    """The sessions of WORK/pattern: codes [N,17,T] of text, reply and user, phonemes, and the labels of their steps."""

    def __init__(self, pattern):
        self.pattern, self.seen = pattern, {}
        self.reload()

    def reload(self):
        files = {f: f.stat().st_mtime for f in sorted(WORK.glob(self.pattern)) if ".tmp." not in f.name}
        if files == self.seen or not files:
            return
        self.seen, parts, self.phones, labels = files, [], [], []
        for f in files:
            d = np.load(f)
            parts.append(np.concatenate([d["text"][:, None], d["reply"], d["user"]], 1))
            labels.append(d["labels"])
            self.phones += np.split(d["phones"], np.cumsum(d["lengths"])[:-1])
        self.codes, self.labels = torch.tensor(np.concatenate(parts)), torch.tensor(np.concatenate(labels))

    def batch(self, n, rng):
        i = rng.integers(len(self.codes), size=n)
        return self.codes[i].long(), [self.phones[j] for j in i], self.labels[i].long()


def corrupt(x, card, amount):
    """What the ears and the memory hear in training is never quite what was said; less so towards the end."""
    x = x.clone()
    b = len(x)
    user, own = x[:, 9:], x[:, 1:9]
    noise = torch.randint(card, user.shape)
    swap = amount * torch.rand(b, 1, 1) * torch.tensor([0.03] + [0.06] * 7)[:, None]
    user[:] = torch.where(torch.rand(user.shape) < swap, noise, user)
    drop = amount * torch.rand(b, 1, 1) * torch.tensor([0.05] + [0.2] * 7)[:, None]
    user[:] = torch.where(torch.rand(user.shape) < drop, -1, user)
    deaf = torch.where(torch.rand(b) < 0.15 * amount, torch.randint(2, 9, (b,)), 8)  # upper codebooks missing
    user[:] = torch.where(torch.arange(8)[None, :, None] >= deaf[:, None, None], -1, user)
    own[:] = torch.where(torch.rand(own.shape) < 0.03, torch.randint(card, own.shape), own)
    return x
