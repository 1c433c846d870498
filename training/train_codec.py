"""Trains the codec (Kyutai's MimiModel modules, 1/4 of the width), phase by phase:

    python train_codec.py joint --minutes 15          -> codec_frozen.pt
    python train_codec.py polish --minutes 10         codec_frozen.pt -> codec.pt
    python train_codec.py hear --minutes 48           codec.pt -> codec_frozen.pt and codec.pt
    torchrun --nproc-per-node 2 train_codec.py ...    the same on two cores

Minutes are of CPU time. What is in codec_frozen.pt is rounded and its codes are final: the language model can start. Only the
decoder is polished after that (`--resume`: from where it is).
"""

import argparse

import torch
from codec_hear import hear
from codec_joint import joint
from codec_model import freeze, load, save
from codec_polish import polish
from common import build_mimi
from together import agree, join


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("phase", choices=["joint", "hear", "polish"])
    ap.add_argument("--minutes", type=float, required=True)
    ap.add_argument("--rate", type=float, default=1.1e-3, help="learning rate of hear and polish")
    ap.add_argument("--resume", action="store_true", help="polish the decoder of codec.pt, not that of codec_frozen.pt")
    a = ap.parse_args()
    join()
    torch.manual_seed(0)
    # On a busy machine two threads wait for each other: one is several times faster.
    torch.set_num_threads(1)
    mimi = build_mimi()
    if a.phase == "joint":
        joint(mimi, a.minutes)
        freeze(mimi)
        save("codec_frozen.pt", mimi=mimi)
    elif a.phase == "hear":
        hear(mimi, a.minutes, a.rate)
        freeze(mimi)
        save("codec_frozen.pt", mimi=mimi)
        save("codec.pt", mimi=mimi)
    else:
        load(mimi, "codec_frozen.pt")
        freeze(mimi)
        polish(mimi, a.minutes, a.rate, a.resume)
        freeze(mimi)  # rounds the decoder too
        save("codec.pt", mimi=mimi)
    agree(0)  # written, before a process ends


if __name__ == "__main__":
    main()
