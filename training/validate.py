"""Plays held-out sessions to a checkpoint of the language model and shows what it answers.

    python validate.py [CKPT] [COUNT] [PATTERN]
"""
import sys

import torch

from build_sessions import load_tokenizer
from common import WORK, build_lm
from train_lm import Sessions, greedy, right

if __name__ == "__main__":
    checkpoint, count, pattern = (sys.argv[1:] + [str(WORK / "lm.pt"), "48", "heldout*.npz"][len(sys.argv) - 1:])[:3]
    torch.set_num_threads(1)
    lm, sp = build_lm(), load_tokenizer()
    lm.load_state_dict({k: v.to(torch.bfloat16).float() for k, v in torch.load(checkpoint)["lm"].items()})
    codes = Sessions(pattern).codes[-int(count):].long()
    text, audio = greedy(lm.eval(), codes[:, 9:])
    say = lambda row: sp.decode([int(t) for t in row if t not in (0, 3)])
    for got, want in zip(text, codes[:, 0]):
        print("  " if say(got) == say(want) else "X ", say(want), "" if say(got) == say(want) else f"-> {say(got)}")
    spoken = codes[:, 0] != 3
    print("right", right(text.tolist(), codes[:, 0].tolist()))
