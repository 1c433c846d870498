"""Random model SHAPES, not only random weights: compares Clearline with the official `moshi` package on configurations
nobody thought of.

    python oracle/fuzz_live.py [--count 20] [--seed 0] [--backend onnx]

Needs an environment with both packages (see oracle/README.md). Prints each configuration and stops with 1 at a mismatch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case, lm, mimi
from compare_live import Check, compare_codec, compare_lm
from make_checkpoint import load_checkpoint, make_checkpoint

import clearline


def random_case(rng: np.random.Generator, seed: int) -> Case:
    """A configuration that the official package accepts and can stream."""

    def pick(*options: Any) -> Any:
        return options[int(rng.integers(len(options)))]

    dep_q = int(pick(0, 1, 2, 3, 4, 8))
    users = int(pick(0, 1, 2, 4, 8)) if dep_q else int(pick(1, 3, 8, 32))
    most = int(pick(0, 1, 2, 3))
    delays = [0 if rng.random() < 0.8 else int(rng.integers(0, most + 1))]
    delays += [int(d) for d in rng.integers(0, most + 1, dep_q + users)]
    heads = int(pick(2, 4))
    head_dim = int(pick(4, 8, 16))
    changes: dict[str, Any] = {
        "dim": heads * head_dim,
        "num_heads": heads,
        "num_layers": int(pick(1, 2, 3)),
        "card": int(pick(16, 33, 64)),
        "context": int(pick(1, 2, 3, 5, 13, 30)),
        "max_period": pick(100, 10000, 100000),
        "hidden_scale": pick(2, 4, 4.125),
        "gating": pick("silu", "silu", "gelu", "sigmoid", "none"),
        "norm": pick("rms_norm_f32", "rms_norm", "layer_norm", "layer_norm_f32"),
        "positional_embedding": pick("rope", "rope", "rope_concat", "sin", "sin_rope", "none"),
        "layer_scale": pick(None, 0.1),
        "kv_repeat": pick(1, 1, 2),
        "bias_proj": pick(False, True),
        "norm_emb": pick(False, False, True),
        "depformer_dim": 16,
        "depformer_num_heads": 2,
        "depformer_num_layers": int(pick(1, 2)),
        "depformer_dim_feedforward": pick(64, 66, 40),
        "depformer_gating": pick("silu", "gelu"),
        "depformer_pos_emb": pick("none", "sin", "rope"),
        "depformer_multi_linear": pick(True, False),
        "depformer_layer_scale": pick(None, 0.1),
        "depformer_kv_repeat": pick(1, 2),
    }
    if dep_q > 1:
        changes["depformer_low_rank_embeddings"] = pick(None, None, 5)
        if rng.random() < 0.4:
            groups = np.unique(rng.integers(0, dep_q, dep_q), return_inverse=True)[1]
            changes["depformer_weights_per_step_schedule"] = [int(group) for group in groups]
        changes["depformer_norm"] = pick(None, "layer_norm", "rms_norm_f32")
    if rng.random() < 0.3:
        changes["text_card_out"] = 30
    d_model = int(pick(8, 16, 24))
    codec = mimi(
        max(2, dep_q, users), bins=changes["card"], filters=int(pick(2, 3)), dimension=16, d_model=d_model,
        layers=int(pick(1, 2)), heads=2, context=int(pick(4, 5, 9, 20)), residual_layers=int(pick(0, 1, 2)),
    )  # fmt: skip
    ratios = pick([8, 6, 5, 4], [8, 6, 5, 4], [6, 4, 1, 5], [24, 5])
    # Frames of one to four rows of the transformers.
    codec["frame_rate"] = 24000 / int(np.prod(ratios)) / int(pick(1, 2, 2, 3, 4))
    codec["seanet"] |= {
        "ratios": ratios,
        "kernel_size": int(pick(7, 4, 1)),
        "last_kernel_size": int(pick(3, 1, 8)),
        "residual_kernel_size": int(pick(3, 1, 5)),
        "dilation_base": int(pick(1, 2, 3)),
        "true_skip": pick(True, True, False),
        "compress": int(pick(1, 2)),
    }
    codec["transformer"] |= {
        "gating": pick("none", "none", "silu"),
        "norm": pick("layer_norm", "layer_norm", "rms_norm_f32"),
        "positional_embedding": pick("rope", "rope", "rope_concat", "sin", "none"),
        "layer_scale": pick(0.01, None),
        "kv_repeat": pick(1, 2),
    }
    codec["quantizer"]["n_q_semantic"] = int(pick(1, 1, 2)) if max(dep_q, users) > 2 else 1
    return Case(
        seed=seed, description="random shape", lm=lm(delays, dep_q, **changes), mimi=codec,
        extra={"model_type": "moshi" if dep_q else "stt"}, stacked=bool(rng.integers(2)), bfloat16=bool(rng.integers(2)),
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", default="onnx")
    args = parser.parse_args()
    check = Check()
    for seed in range(args.seed, args.seed + args.count):
        case = random_case(np.random.default_rng(seed), seed)
        with tempfile.TemporaryDirectory() as folder:
            make_checkpoint(case, Path(folder), seed)
            print(f"seed {seed}: {json.dumps(case.lm)} {json.dumps(case.mimi)}", flush=True)
            info = load_checkpoint(Path(folder))
            ours = clearline.load(folder, backend=args.backend)
            compare_lm(check, info, ours, 80, seed, 1e-4)
            compare_codec(check, info, ours, 16, seed, 1e-4)
        if check.failed:
            return 1
    print("all agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
