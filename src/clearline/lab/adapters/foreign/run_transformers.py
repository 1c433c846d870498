"""Mimi of Hugging Face `transformers`: encodes a whole recording and decodes its own codes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from job import main
from transformers import MimiModel


@torch.no_grad()
def run(job: dict[str, Any], frames: np.ndarray) -> dict[str, np.ndarray]:
    folder = Path(job["mimi"]).parent
    if not (folder / "config.json").is_file():
        raise SystemExit(f"{folder} has no config.json of a transformers Mimi")
    model, loading = MimiModel.from_pretrained(folder, output_loading_info=True)
    problems = {kind: names for kind, names in loading.items() if names}
    if problems:
        raise SystemExit(f"the weights are not those of a transformers Mimi: {str(problems)[:300]}")
    model.eval()
    pcm = torch.from_numpy(frames.reshape(1, 1, -1))
    codes = model.encode(pcm).audio_codes
    heard = model.decode(codes).audio_values[0, 0].numpy()
    rows = codes[0].numpy().T.astype(np.int64)
    size = frames.shape[1]
    return {"pcm_in": frames, "codes_in": rows, "codes_out": rows, "pcm_out": heard[: len(rows) * size].reshape(-1, size)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(run)
