"""moshi_mlx 0.3.0 past 4096 frames, where its conversations are heard to garble, beside Clearline's mlx backend.

Command line:  python oracle/mlx_past_the_wrap.py [--steps 4300] [--every 50]
Runs where moshi_mlx, mlx and Clearline are installed together (`pip install --no-deps moshi_mlx==0.3.0`: its pin is older than
the MLX that Clearline takes, and it runs with 0.32.4). The same small model three times, on the same rows: moshi_mlx as it runs (a
rotating cache of 4096 slots, context 3000), moshi_mlx with its own growing cache instead, and Clearline. Until frame 4096 all
agree.
Then moshi_mlx takes the last 3001 slots for the newest 3001 positions, which in a ring that has wrapped they are not: for 1095
frames (88 s) it sees nothing newer than the wrap. Exits with 1 unless that is what happens.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
from make_formats_mlx import lm_config
from moshi_mlx import models

from clearline.backends import get_backend
from clearline.checkpoint import open_checkpoint
from clearline.generate import LMPrograms

FOLDER = Path(__file__).parents[1] / "tests/golden/data/formats/mlx_bf16"
CONTEXT, SLOTS = 3000, 4096


def theirs(rotating: bool):
    """A function from a row to moshi_mlx's hidden state."""
    raw = json.loads((FOLDER / "config.json").read_text()) | {"context": CONTEXT}
    model = models.Lm(lm_config(raw))
    model.load_weights(str(FOLDER / "model.safetensors"))
    model.set_dtype(mx.float32)
    cache = model.transformer_cache if rotating else model.transformer.make_cache()

    def step(row: np.ndarray) -> np.ndarray:
        x = model.text_emb(mx.array([[int(row[0])]]))
        for k, table in enumerate(model.audio_embs):
            x = x + table(mx.array([[int(row[k + 1])]]))
        return np.array(model.out_norm(model.transformer(x, cache=cache)))[0, 0]

    return step


def ours():
    """The same of Clearline. (moshi_mlx sees `context` old keys and its own, PyTorch's definition counts the own one.)"""
    checkpoint = open_checkpoint(FOLDER)
    cfg = checkpoint.config.lm
    cfg = replace(cfg, transformer=replace(cfg.transformer, context=CONTEXT + 1))
    programs = LMPrograms(cfg, get_backend("mlx/cpu"), dict(checkpoint.lm_weights()))
    state = programs.temporal_state()
    return cfg, lambda row: programs.temporal.run(state, {"row": row[None]})["hidden"][0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4300)
    parser.add_argument("--every", type=int, default=50)
    args = parser.parse_args()
    mx.set_default_device(mx.cpu)
    cfg, clearline = ours()
    rotating, growing = theirs(rotating=True), theirs(rotating=False)
    rng = np.random.default_rng(4096)
    worst = {"before": [0.0, 0.0], "after": [0.0, 0.0]}
    print("| frame | moshi_mlx as it is | moshi_mlx, growing cache |\n|---|---|---|")
    for t in range(args.steps):
        row = np.concatenate([rng.integers(0, cfg.text_card, 1), rng.integers(0, cfg.card, cfg.n_q)])
        reference = clearline(row)
        apart = [float(np.abs(step(row) - reference).max() / np.abs(reference).max()) for step in (rotating, growing)]
        part = worst["before" if t < SLOTS else "after"]
        part[:] = [max(pair) for pair in zip(part, apart, strict=True)]
        if t % args.every == 0 or SLOTS - 2 <= t <= SLOTS + 2:
            print(f"| {t} | {apart[0]:.1e} | {apart[1]:.1e} |", flush=True)
    print(f"\nlargest difference to Clearline, of the largest value: {json.dumps(worst)}")
    right = max(*worst["before"], worst["after"][1]) < 1e-4 and worst["after"][0] > 1e-2
    print("as expected: only moshi_mlx's rotating cache goes wrong" if right else "NOT as expected")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
