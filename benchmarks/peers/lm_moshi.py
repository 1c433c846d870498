"""Times Kyutai's PyTorch LM step (temporal, then depformer) with random weights. Runs in the oracle's environment.

Arguments: steps, threads, shape (hibiki-1b | moshi-7b), context already filled. Prints JSON.
"""

import json
import sys
import time

import torch
from moshi.models import LMGen
from moshi.models.lm import LMModel
from moshi.models.loaders import _lm_kwargs

steps, threads, shape, filled = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
torch.set_num_threads(threads)
torch.manual_seed(0)
kwargs = dict(_lm_kwargs)
if shape == "hibiki-1b":
    kwargs |= {"dim": 2048, "num_heads": 16, "num_layers": 16, "text_card": 48000, "depformer_dim_feedforward": 4224}
    kwargs["delays"] = [0, 0, *[2] * 7, 0, *[2] * 7]
elif shape != "moshi-7b":
    sys.exit(f"unknown shape {shape}")
temporal, depth = [], []
with torch.no_grad():
    model = LMModel(device="cpu", dtype=torch.bfloat16, **kwargs).eval()
    gen = LMGen(model, use_sampling=True)
    with gen.streaming(1):
        # The official ring attends over its whole capacity from the first step, so what is filled does not change its time.
        for _ in range(steps + 3):
            marks: list[float] = []
            start = time.perf_counter()
            gen.on_text_hook = lambda _token, marks=marks: marks.append(time.perf_counter())
            gen.step(torch.randint(0, 2048, (1, 8, 1)))
            end = time.perf_counter()
            temporal.append((marks[0] - start) * 1e3)
            depth.append((end - marks[0]) * 1e3)
print(json.dumps({"temporal": temporal[3:], "depth": depth[3:]}))
