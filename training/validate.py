"""Plays held-out sessions to a checkpoint of the language model and shows what it answers.

python validate.py [CKPT] [COUNT] [PATTERN]
"""

import sys

import numpy as np
import torch
from build_sessions import load_tokenizer
from common import TEXT_EPAD, TEXT_PAD, WORK, build_lm
from lm_data import Sessions
from moshi.models import LMGen


@torch.no_grad()
def greedy(lm, user):
    """Plays user codes [B,8,T] to the model; -> greedy text [B,T']."""
    gen = LMGen(lm, use_sampling=False)
    text = []
    with gen.streaming(len(user)):
        for i in range(user.shape[2]):
            for _ in range(2 if i == 0 else 1):
                out = gen.step(user[:, :, i : i + 1])
            if out is not None:
                text.append(out[:, 0, 0])
    return torch.stack(text, 1)


def spoken(row):
    return [int(x) for x in row if x not in (TEXT_PAD, TEXT_EPAD)]


def right(lm, sessions, count=48):
    """Share of the last sessions in which exactly the wanted words are said, none more."""
    codes = sessions.codes[-count:].long()
    said, wanted = greedy(lm, codes[:, 9:]).tolist(), codes[:, 0].tolist()
    return float(np.mean([spoken(a) == spoken(b) for a, b in zip(said, wanted, strict=True)]))


def main(checkpoint=WORK / "lm.pt", count=48, pattern="heldout*.npz"):
    torch.set_num_threads(1)
    lm, tokenizer, sessions = build_lm(), load_tokenizer(), Sessions(pattern)
    lm.load_state_dict({k: v.to(torch.bfloat16).float() for k, v in torch.load(checkpoint)["lm"].items()})
    codes, good = sessions.codes[-int(count) :].long(), 0
    for said, wanted in zip(greedy(lm.eval(), codes[:, 9:]), codes[:, 0], strict=True):
        said, wanted = tokenizer.decode(spoken(said)), tokenizer.decode(spoken(wanted))
        good += said == wanted
        print(f"   {wanted}" if said == wanted else f"X  {wanted} -> {said}")
    print("right", good / len(codes))


if __name__ == "__main__":
    main(*sys.argv[1:])
