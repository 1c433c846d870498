"""Times Kyutai's PyTorch Mimi, streaming, one frame at a time. Runs in the oracle's environment; prints JSON."""

import json
import sys
import time

import numpy as np
import torch
from moshi.models import loaders

steps, threads = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads)
torch.manual_seed(0)
encode, decode = [], []
with torch.no_grad():
    mimi = loaders.get_mimi(None, num_codebooks=8)
    with mimi.streaming(1):
        for i in range(steps + 5):
            pcm = torch.from_numpy(np.random.default_rng(i).standard_normal((1, 1, 1920), np.float32) * 0.1)
            start = time.perf_counter()
            codes = mimi.encode(pcm)
            middle = time.perf_counter()
            mimi.decode(codes)
            encode.append((middle - start) * 1e3)
            decode.append((time.perf_counter() - middle) * 1e3)
print(json.dumps({"encode": encode[5:], "decode": decode[5:]}))
