"""Loads what `clearline convert` wrote with official packages, strictly, and compares its logits with the source's golden.

    clearline convert tests/golden/data/formats/mlx_wide... -o FOLDER --quantize bf16
    .venv-oracle/bin/python oracle/check_converted.py FOLDER GOLDEN      # Kyutai's moshi, from --names kyutai, bf16 or f32
    .venv-mlx/bin/python    oracle/check_converted.py FOLDER GOLDEN      # moshi_mlx, from --names mlx, any precision

GOLDEN is a golden.safetensors of tests/golden/data/formats. Which package is used depends on which is installed. Prints the
largest difference relative to the largest logit: 0 up to float32 rounding when the precision is the source's.
"""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def with_moshi(folder: Path, raw: dict, golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import torch
    from make_formats import outputs
    from moshi.models import loaders

    info = loaders.CheckpointInfo.from_hf_repo(
        "local/folder", moshi_weights=folder / raw["moshi_name"], mimi_weights=folder / "none", tokenizer=folder / "none",
        config_path=folder / "config.json", mimi_config_path=folder / "mimi_config.json",
    )  # fmt: skip
    model = info.get_moshi(device="cpu", dtype=torch.float32)
    return outputs(model, golden["rows"], golden["tokens"])


def with_mlx(folder: Path, raw: dict, golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import mlx.core as mx
    import mlx.nn as nn
    from make_formats_mlx import lm_config, outputs
    from moshi_mlx import models

    mx.set_default_device(mx.cpu)
    model = models.Lm(lm_config(raw))
    model.set_dtype(mx.bfloat16)
    for bits, group in ((8, 64), (4, 32)):
        if raw["moshi_name"].endswith(f".q{bits}.safetensors"):
            nn.quantize(model, bits=bits, group_size=group)
    model.load_weights(str(folder / raw["moshi_name"]), strict=True)
    model.set_dtype(mx.float32)
    return outputs(model, golden["rows"], golden["tokens"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("golden", type=Path)
    args = parser.parse_args()
    raw, golden = json.loads((args.folder / "config.json").read_text()), load_file(args.golden)
    found = with_mlx(args.folder, raw, golden) if find_spec("moshi_mlx") else with_moshi(args.folder, raw, golden)
    for name, values in found.items():
        print(f"{name}: {np.abs(values - golden[name]).max() / np.abs(golden[name]).max():.2e}")


if __name__ == "__main__":
    main()
