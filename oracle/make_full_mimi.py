"""Golden of a Mimi in the official shape, from PyTorch `moshi` and, as a second oracle, from `rustymimi`.

Command line:  python oracle/make_full_mimi.py [--out tests/golden/data/full_mimi]
The weights (320 MB) are not stored: `philox_mimi.load_full_mimi(folder)` remakes them with NumPy alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("NO_TORCH_COMPILE", "1")

import numpy as np
import rustymimi
import torch
from make_golden import codec_margin, codec_streams, relative, versions
from moshi.models import loaders
from philox_mimi import FULL_MIMI_SEED, load_full_mimi, stack_attention, test_pcm
from safetensors.numpy import save_file

CODEBOOKS = 32
FRAMES = 8
# Past the transformers' context (125 frames), where rustymimi sees other rows than PyTorch does; with fewer codebooks.
LONG_FRAMES, LONG_CODEBOOKS, LONG_SEED = 140, 8, 5


def rusty(path: Path, pcm: np.ndarray, codes: np.ndarray) -> dict[str, np.ndarray]:
    """Codes and audio of the Rust implementation, frame by frame, from one safetensors file."""
    tokenizer = rustymimi.Tokenizer(str(path), num_codebooks=CODEBOOKS)
    frames = [tokenizer.encode_step(chunk[None, None]) for chunk in np.split(pcm, FRAMES)]
    waves = [tokenizer.decode_step(codes[None, :, t : t + 1].astype(np.uint32)) for t in range(FRAMES)]
    tokenizer.reset()
    return {
        "rusty_codes": np.concatenate([f[0] for f in frames], 1).astype(np.int64),
        "rusty_pcm": np.concatenate([w[0, 0] for w in waves]).astype(np.float32),
    }


def rusty_long(path: Path) -> dict[str, np.ndarray]:
    """Codes of a recording longer than the context, and the last frames of what they sound like."""
    tokenizer = rustymimi.Tokenizer(str(path), num_codebooks=LONG_CODEBOOKS)
    pcm = test_pcm(LONG_FRAMES, LONG_SEED)
    codes = np.concatenate([tokenizer.encode_step(chunk[None, None])[0] for chunk in np.split(pcm, LONG_FRAMES)], 1)
    waves = [tokenizer.decode_step(codes[None, :, t : t + 1].astype(np.uint32))[0, 0] for t in range(LONG_FRAMES)]
    end = np.concatenate(waves[-4:]).astype(np.float32)
    return {"rusty_long_codes": codes.astype(np.int64), "rusty_long_pcm_end": end}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "tests/golden/data/full_mimi")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    model = loaders.get_mimi(None, num_codebooks=CODEBOOKS)
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(shape)}" for name, shape in shapes.items())
    (args.out / "shapes.json").write_text(f'{{"seed": {FULL_MIMI_SEED}, "shapes": {{\n{lines}\n}}}}\n')
    state = load_full_mimi(args.out)
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(np.ascontiguousarray(state[name]).tobytes())
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    pcm = test_pcm(FRAMES, FULL_MIMI_SEED)
    out = {"pcm": pcm} | codec_streams(model, pcm)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mimi.safetensors"
        save_file({name: np.ascontiguousarray(value) for name, value in stack_attention(state).items()}, str(path))
        del state
        second = rusty(path, pcm, out["codes_stream"]) | rusty_long(path)
    report = {
        "case": "full_mimi",
        "description": "Mimi in the official shape, 32 codebooks; weights from NumPy's Philox",
        "seed": FULL_MIMI_SEED,
        "weights_sha256_sorted_by_name": digest.hexdigest(),
        "versions": versions() | {"rustymimi": version("rustymimi")},
        "codec_margin": codec_margin(model, out["latent"]),
        "latent_rms": float(np.sqrt((out["latent"] ** 2).mean())),
        "pcm_stream_rms": float(np.sqrt((out["pcm_stream"] ** 2).mean())),
        "distinct_codes": [len(set(row)) for row in out["codes_stream"].tolist()],
        "stream_vs_whole_codes": float((out["codes_stream"] != out["codes_whole"]).mean()),
        "stream_vs_whole_pcm": relative(out["pcm_stream"], out["pcm_whole"]),
        "rusty_vs_moshi_codes": float((second["rusty_codes"] != out["codes_stream"]).mean()),
        "rusty_vs_moshi_pcm": relative(second["rusty_pcm"], out["pcm_stream"]),
    }
    del out["latent_whole"], out["codes_whole"], out["pcm_whole"]
    arrays = {k: np.ascontiguousarray(v) for k, v in sorted((out | second).items())}
    save_file(arrays, str(args.out / "golden.safetensors"))
    (args.out / "golden.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
