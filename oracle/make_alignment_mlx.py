"""What `moshi_mlx`'s LmGen says, greedily, on the goldens' checkpoints: the oracle of the MLX alignment quirk.

Command line:  python oracle/make_alignment_mlx.py [CASE ...]
Runs where moshi_mlx 0.3.0 and mlx[cpu] 0.26.5 are installed. Only as many steps as the context holds: past it, MLX's
rotating cache is another question.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from make_formats_mlx import lm_config
from moshi_mlx import models
from moshi_mlx.models.generate import LmGen
from moshi_mlx.utils.sampling import Sampler
from safetensors.numpy import load_file, save_file

DATA = Path(__file__).parents[1] / "tests/golden/data"


def stack_depformer(tensors: dict[str, mx.array]) -> dict[str, mx.array]:
    """moshi_mlx reads only the older names, where a projection of all depformer steps is one tensor."""
    out = {name: value for name, value in tensors.items() if "_projs." not in name}
    steps: dict[str, dict[int, mx.array]] = {}
    for name, value in tensors.items():
        if "_projs." in name:
            stem, _, rest = name.partition("_projs.")
            older = f"{stem}_proj_weight" if stem.endswith("in") else f"{stem}_proj.weight"
            steps.setdefault(older, {})[int(rest.split(".")[0])] = value
    return out | {name: mx.concatenate([parts[i] for i in sorted(parts)]) for name, parts in steps.items()}


def run(case: str) -> None:
    folder = DATA / case
    raw = json.loads((folder / "config.json").read_text())
    config = lm_config(raw)
    model = models.Lm(config)
    model.set_dtype(mx.float32)
    with tempfile.TemporaryDirectory() as temporary:
        stacked = str(Path(temporary) / "model.safetensors")
        mx.save_safetensors(stacked, stack_depformer(mx.load(str(folder / "model.safetensors"))))
        model.load_pytorch_weights(stacked, config)
    model.set_dtype(mx.float32)
    steps = raw["context"]
    users = load_file(folder / "golden.safetensors")["user_codes"][:steps]
    gen = LmGen(model, steps + 1, text_sampler=Sampler(temp=0), audio_sampler=Sampler(temp=0))
    text, audio = [], []
    for codes in users:
        token, _ = gen.step(mx.array(codes)[None])  # a pair, whatever its annotation says
        text.append(int(np.array(token).reshape(-1)[0]))
        out = gen.last_audio_tokens()
        audio.append(np.full(raw["dep_q"], -2) if out is None else np.array(out).reshape(-1))
    golden = {"user_codes": users, "text_token": np.array(text), "codes_out": np.stack(audio).astype(np.int64)}
    save_file(golden, folder / "golden_mlx.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["moshi_d1", "delay2"])
    mx.set_default_device(mx.cpu)
    for case in parser.parse_args().cases:
        run(case)


if __name__ == "__main__":
    main()
