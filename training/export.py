"""Writes a nano folder that Kyutai's own package loads.

python export.py FOLDER [--mimi CKPT] [--lm CKPT]     (random weights where none is given)
"""

import argparse
import json
import pathlib
import shutil

import torch
from common import FILES, MIMI, WORK, build_lm, build_mimi, config
from safetensors.torch import save_file


def mimi_state(checkpoint=None):
    """bfloat16, except the quantiser: its codebooks are cheap and decide the codes."""
    torch.manual_seed(0)
    mimi = build_mimi()
    if checkpoint:
        mimi.load_state_dict(torch.load(checkpoint, map_location="cpu")["mimi"])
    else:
        for name, buffer in mimi.named_buffers():
            if name.endswith("embedding_sum"):
                buffer.normal_()
            if name.endswith("_initialized"):
                buffer.fill_(1)
    return {
        k: v.contiguous() if k.startswith("quantizer.") else v.to(torch.bfloat16).contiguous() for k, v in mimi.state_dict().items()
    }


def lm_state(checkpoint=None):
    torch.manual_seed(0)
    lm = build_lm()
    if checkpoint:
        lm.load_state_dict(torch.load(checkpoint, map_location="cpu")["lm"])
    return {k: v.to(torch.bfloat16).contiguous() for k, v in lm.state_dict().items()}


def export(folder, mimi=None, lm=None):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(), indent=1) + "\n")
    (folder / FILES["mimi_config_name"]).write_text(json.dumps(MIMI, indent=1) + "\n")
    shutil.copy(WORK / "tokenizer.model", folder / FILES["tokenizer_name"])
    save_file(mimi_state(mimi), folder / FILES["mimi_name"])
    save_file(lm_state(lm), folder / FILES["moshi_name"])
    return sum(f.stat().st_size for f in folder.iterdir())


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("folder")
    ap.add_argument("--mimi")
    ap.add_argument("--lm")
    a = ap.parse_args()
    print(f"{export(a.folder, a.mimi, a.lm) / 1e6:.1f} MB in {a.folder}")
