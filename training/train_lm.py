"""Trains the language model (Kyutai's LMModel) on the sessions of build_sessions.py.

    python train_lm.py [--minutes 60] [--batch 20] [--resume | --again]
    torchrun --nproc-per-node 2 train_lm.py ...          a process on each of two cores, with the mean of their gradients

The minutes are of CPU time, so a busy machine changes nothing. Writes lm.pt every two minutes. Shards SESSIONS*.npz that appear
while it runs are read as they come.
"""

import argparse
import random

import numpy as np
import torch
from common import WORK, build_lm
from lm_data import Sessions
from lm_model import Ears, Losses
from loop import Loop, cosine
from together import descend, join, rank
from validate import right

TESTED = 7  # minutes between two looks at held-out sessions


def arguments():
    ap = argparse.ArgumentParser()
    ap.add_argument("--minutes", type=float, default=60)
    ap.add_argument("--batch", type=int, default=20)
    ap.add_argument("--rate", type=float, default=1.2e-3)
    ap.add_argument("--dropout", type=float, default=0.1)
    ap.add_argument("--pattern", default="sessions*.npz")
    ap.add_argument("--codec", default=str(WORK / "codec_frozen.pt"))
    ap.add_argument("--out", default="lm")
    ap.add_argument("--resume", action="store_true", help="go on with --out where it was cut")
    ap.add_argument("--again", action="store_true", help="from the weights of --out, with a new optimiser and the whole schedule")
    ap.add_argument("--speak", type=float, default=0.5, help="share of the time in which every step learns the replies' sound; "
                    "later every fourth, since they are known by heart early")  # fmt: skip
    return ap.parse_args()


def main():
    a = arguments()
    torch.manual_seed(0)
    random.seed(0)
    torch.set_num_threads(1)
    join()
    rng = np.random.default_rng(rank())
    lm = build_lm()
    losses, ears = Losses(lm, a.dropout), Ears(lm, a.codec)
    params = [*lm.parameters(), *losses.parameters(), *ears.parameters()]
    matrix = [p.dim() > 1 and p.shape[0] > 1 for p in params]
    groups = [
        {"params": [p for p, is_matrix in zip(params, matrix, strict=True) if is_matrix], "weight_decay": 0.08},
        {"params": [p for p, is_matrix in zip(params, matrix, strict=True) if not is_matrix], "weight_decay": 0},
    ]
    opt = torch.optim.AdamW(groups, lr=a.rate, betas=(0.9, 0.97))
    spent = restore(a, lm, losses, ears, opt) if a.resume or a.again else 0
    train, held = Sessions(a.pattern), Sessions(a.pattern.replace("sessions", "heldout"))
    torch.manual_seed(rank())  # the models are alike, what they see is not

    def keep():
        train.reload()
        held.reload()
        if not rank():
            save(a.out, lm, losses, ears, opt, loop.spent)

    loop, tested = Loop("lm", a.minutes, keep, spent), spent
    for done in loop:
        for g in opt.param_groups:
            g["lr"] = a.rate * min(1, (loop.step + 1) / (20 if spent else 150)) * cosine(done, 0.02)
        lm.train()
        ears.listen()
        found = losses(lm, *train.batch(a.batch, rng), 1 - done, speak=done < a.speak or loop.step % 4 == 0)
        phonetic = 0.3 * (1 - done) + 0.03
        weights = {"text": 10, "intent": 0.5, "cb0": 0.25, "cb": 0.12, "ctc": 0.5 * phonetic, "ce": 2 * phonetic}
        descend(opt, sum(weights[name] * loss for name, loss in found.items()), params, 1.0)
        loop.note(**found)
        if not rank() and loop.spent - tested > 60 * TESTED and done > 0.08:
            tested = loop.spent
            lm.eval()
            ears.listen()
            shares = " ".join(f"{name} {right(lm, s):.2f}" for name, s in (("train", train), ("heldout", held)) if s.seen)
            print(f"sessions right: {shares}", flush=True)


def save(out, lm, losses, ears, opt, spent):
    state = {"lm": ears.fold(lm.state_dict()), "ears": ears.state_dict(), "losses": losses.state_dict(), "opt": opt.state_dict()}
    torch.save(state | {"spent": spent}, WORK / f"{out}.tmp")
    (WORK / f"{out}.tmp").rename(WORK / f"{out}.pt")


def restore(a, lm, losses, ears, opt):
    """-> the seconds that are behind."""
    d = torch.load(WORK / f"{a.out}.pt")
    vectors = ears.vectors.clone()  # of this codec, maybe a newer one
    ears.load_state_dict(d["ears"])
    lm.load_state_dict(ears.fold(d["lm"], -1))
    losses.load_state_dict(d["losses"])
    ears.vectors.copy_(vectors)
    if a.again:
        return 0
    opt.load_state_dict(d["opt"])
    return d["spent"]


if __name__ == "__main__":
    main()
