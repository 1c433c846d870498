"""Times rustymimi, streaming, one frame at a time. Runs in the oracle's environment; prints JSON."""

import json
import sys
import time

import numpy as np
import rustymimi

steps, weights = int(sys.argv[1]), sys.argv[3]
mimi = rustymimi.Tokenizer(weights, num_codebooks=8)
encode, decode = [], []
for i in range(steps + 5):
    pcm = np.random.default_rng(i).standard_normal((1, 1, 1920), np.float32) * 0.1
    start = time.perf_counter()
    codes = mimi.encode_step(pcm)
    middle = time.perf_counter()
    mimi.decode_step(codes)
    encode.append((middle - start) * 1e3)
    decode.append((time.perf_counter() - middle) * 1e3)
print(json.dumps({"encode": encode[5:], "decode": decode[5:]}))
