"""Checks that the Hugging Face naming of a checkpoint's Mimi computes the same codes and audio in transformers.

Command line:  python oracle/check_huggingface.py [FOLDER]     (default: tests/golden/data/delay2)
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import MimiModel


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parents[1] / "tests/golden/data/delay2")
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as repository:
        shutil.copy(folder / "mimi_hf.safetensors", f"{repository}/model.safetensors")
        shutil.copy(folder / "mimi_hf_config.json", f"{repository}/config.json")
        model, loading = MimiModel.from_pretrained(repository, output_loading_info=True)
    model.eval()
    problems = {kind: names for kind, names in loading.items() if names}
    if problems:
        print(problems)
        return 1
    golden = load_file(folder / "golden.safetensors")
    codes = model.encode(torch.from_numpy(golden["pcm"])[None, None]).audio_codes[0].numpy()
    want = golden["codes_whole"]
    wave = model.decode(torch.from_numpy(golden["codes_stream"])[None]).audio_values[0, 0].numpy()
    error = np.abs(wave - golden["pcm_whole"]).max() / np.abs(golden["pcm_whole"]).max()
    same = codes.shape == want.shape and bool((codes == want).all())
    print(f"codes equal: {same} ({(codes != want[: len(codes)]).mean():.4f} differ), audio error {error:.2e}")
    return 0 if same and error < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
