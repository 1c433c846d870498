"""Files that other programs write, for the importers: run once with Kyutai's `moshi`, then once with `mlx`.

    /path/to/oracle/bin/python oracle/make_imports.py moshi    # codes of Kyutai's Mimi, saved by NumPy, PyTorch and json
    /path/to/mlx/bin/python oracle/make_imports.py mlx         # the same codes, saved by MLX

The log beside them is from `oracle/moshi_debug` (Rust), fed with `tests/lab/data/tokens.txt`:

    cargo run --release < tests/lab/data/tokens.txt > tests/lab/data/moshi_debug.log
    cargo run --release -- --plain < tests/lab/data/tokens.txt > tests/lab/data/moshi_debug_plain.log
"""

import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "lab" / "data"


def speech() -> np.ndarray:
    """Ten frames, the same as `tests/helpers/checkpoints.py` makes: float32 [19200]."""
    rng, t = np.random.default_rng(1), np.arange(19_200) / 24_000
    voice = sum(np.sin(2 * np.pi * 127 * h * t) / h for h in range(1, 6))
    return ((0.5 + 0.5 * np.sin(2 * np.pi * 3 * t + 1)) * (0.1 * voice + 0.02 * rng.standard_normal(19_200))).astype(np.float32)


def moshi() -> None:
    import torch
    from moshi.models import loaders
    from safetensors.torch import save_file

    case = ROOT / "tests" / "golden" / "data" / "moshi_d1"
    config = json.loads((case / "mimi_config.json").read_text())
    codec = loaders.get_mimi(str(case / "mimi.safetensors"), config, device="cpu")
    with torch.no_grad(), codec.streaming(1):
        codes = torch.cat([codec.encode(torch.from_numpy(frame)[None, None]) for frame in speech().reshape(-1, 1920)], -1)
    np.save(DATA / "moshi.npy", codes.numpy())  # [1, 8, frames], int64
    save_file({"codes": codes.to(torch.int32)}, str(DATA / "moshi.safetensors"))
    (DATA / "moshi.json").write_text(json.dumps(codes[0].tolist()))


def mlx() -> None:
    import mlx.core as mx

    codes = mx.array(np.load(DATA / "moshi.npy").astype(np.uint32))  # moshi_mlx's own dtype
    mx.save(str(DATA / "mlx.npy"), codes)
    mx.save_safetensors(str(DATA / "mlx.safetensors"), {"codes": codes})


if __name__ == "__main__":
    {"moshi": moshi, "mlx": mlx}[sys.argv[1]]()
