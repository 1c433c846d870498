"""A small random Hibiki (LUT conditioner, guidance, end of stream) and what Kyutai's own command-line loop makes of it.

Command line:  python oracle/make_hibiki.py [--out tests/golden/data/formats/hibiki]

The folder holds a checkpoint in Kyutai's layout and, for guidance 1 and 3, `pcm`, `inputs_G` [T, user codebooks] that
`moshi.run_inference` fed to LMGen (the end-of-input frame and the silence after it included), `tokens_G` [T, 1 + dep_q] that
came out (rows of -2 for None), `text_logits_G` [T, text_card] after guidance, and `samples_G`, the
length of the reply. Seeds are moved on until
the loop ends by itself, at an end-of-text token after the input, and no greedy choice is nearly a tie.
"""

from __future__ import annotations

import argparse
import copy
import io
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_TORCH_COMPILE", "1")

import numpy as np
import torch
from cases import Case, lm, mimi
from make_checkpoint import load_checkpoint, make_checkpoint
from make_golden import SAFE_LM_MARGIN, _Enough, margins
from moshi.client_utils import RawPrinter
from moshi.run_inference import InferenceState
from philox_mimi import test_pcm
from safetensors.numpy import save_file

LIMIT = 60
FRAMES = 12
CONDITIONED = {
    "conditioners": {
        "description": {
            "type": "lut",
            "lut": {
                "n_bins": 7, "dim": 8, "tokenizer": "noop", "possible_values": ["very_bad", "bad", "neutral", "good", "very_good"],
            },
        }
    },
    "fuser": {"sum": ["description"]},
}  # fmt: skip
SEED = 31


def case() -> Case:
    """A fresh one each time: the official loader writes into the conditioners' configuration."""
    config = lm([0, 0, 2, 2, 0, 2, 2], 3, **copy.deepcopy(CONDITIONED))
    return Case(seed=SEED, description="Hibiki", lm=config, mimi=mimi(3), extra={"model_type": "hibiki"})


@torch.no_grad()
def run(folder: Path, pcm: np.ndarray, guidance: float) -> tuple[dict[str, np.ndarray], bool, float]:
    """The official loop; whether it ended by itself, and its smallest greedy margin."""
    info = load_checkpoint(folder)
    model, codec = info.get_moshi(device="cpu", dtype=torch.float32), info.get_mimi()
    logits: list[np.ndarray] = []
    options: dict[str, Any] = {"use_sampling": False, "on_text_logits_hook": lambda x: logits.append(x.flatten().numpy().copy())}
    state = InferenceState(info, codec, info.get_text_tokenizer(), model, 1, guidance, "cpu", **options)
    state.printer = RawPrinter(stream=io.StringIO(), err_stream=io.StringIO())
    inputs: list[np.ndarray] = []
    tokens: list[np.ndarray] = []
    step = state.lm_gen.step

    def recording(codes: torch.Tensor) -> torch.Tensor | None:
        if len(inputs) == LIMIT:
            raise _Enough
        out = step(codes)
        inputs.append(codes[0, :, 0].numpy().copy())
        tokens.append(np.full(1 + model.dep_q, -2, np.int64) if out is None else out[0, :, 0].numpy().copy())
        return out

    state.lm_gen.step = recording  # type: ignore[method-assign]
    try:
        wave = state.run(torch.from_numpy(pcm)[None, None])[0][1][0].numpy()
    except _Enough:
        return {}, False, 0.0
    arrays = {"inputs": np.stack(inputs), "tokens": np.stack(tokens), "text_logits": np.stack(logits)}
    arrays["samples"] = np.array(len(wave))
    return {f"{name}_{guidance:g}": value for name, value in arrays.items()}, True, margins(logits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "tests/golden/data/formats/hibiki")
    folder = parser.parse_args().out
    torch.set_num_threads(1)
    for attempt in range(400):
        seed = SEED + 1000 * attempt
        make_checkpoint(case(), folder, seed)
        pcm = test_pcm(FRAMES, seed)
        golden: dict[str, np.ndarray] = {"pcm": pcm}
        for guidance in (1.0, 3.0):
            arrays, ended, margin = run(folder, pcm, guidance)
            if not ended or margin < SAFE_LM_MARGIN:
                break
            golden |= arrays
        else:
            print(f"seed {seed}: {[len(golden[f'tokens_{g}']) for g in (1, 3)]} steps")
            save_file({name: np.ascontiguousarray(value) for name, value in golden.items()}, folder / "pipeline.safetensors")
            return
    raise RuntimeError("no seed whose loop ends by itself")


if __name__ == "__main__":
    main()
