"""Loads a nano folder with Kyutai's own package and runs it for a few seconds, greedy, float32.

python check_official.py FOLDER [INPUT.wav OUTPUT.wav]
"""

import json
import pathlib
import sys

import common
import torch
from moshi.models import LMGen
from moshi.models.loaders import CheckpointInfo


def load(folder):
    folder = pathlib.Path(folder).resolve()
    c = json.loads((folder / "config.json").read_text())
    info = CheckpointInfo.from_hf_repo(
        "local",
        moshi_weights=folder / c["moshi_name"],
        mimi_weights=folder / c["mimi_name"],
        tokenizer=folder / c["tokenizer_name"],
        config_path=folder / "config.json",
        mimi_config_path=folder / c["mimi_config_name"],
    )
    return (info.get_mimi("cpu"), info.get_moshi("cpu", dtype=torch.float32), info.get_text_tokenizer())


@torch.no_grad()
def run(mimi, lm, pcm):
    """pcm [frames, 1920] -> (text tokens, audio codes [8, T], reply samples); frame by frame."""
    gen = LMGen(lm, use_sampling=False)
    text, codes, out = [], [], []
    with mimi.streaming(1), gen.streaming(1):
        for i, chunk in enumerate(pcm):
            user = mimi.encode(chunk[None, None])
            # The first step only sees the initial tokens, so its frame is given twice.
            for _ in range(2 if i == 0 else 1):
                tokens = gen.step(user)
            if tokens is not None:
                text.append(int(tokens[0, 0, 0]))
                codes.append(tokens[0, 1:, 0])
                out.append(mimi.decode(tokens[:, 1:])[0, 0])
    return text, torch.stack(codes, 1), torch.cat(out)


if __name__ == "__main__":
    mimi, lm, sp = load(sys.argv[1])
    print("lm parameters", sum(p.numel() for p in lm.parameters()), "mimi parameters", sum(p.numel() for p in mimi.parameters()))
    if len(sys.argv) > 2:
        import soundfile
        import soxr

        wav, rate = soundfile.read(sys.argv[2], dtype="float32")
        wav = torch.from_numpy(soxr.resample(wav, rate, common.RATE))
    else:
        wav = torch.zeros(common.RATE * 2)
    text, codes, out = run(mimi, lm, wav[: len(wav) // 1920 * 1920].view(-1, 1920))
    print("text:", sp.decode([t for t in text if t not in (0, 3)]), "| tokens", text[:60])
    if len(sys.argv) > 3:
        soundfile.write(sys.argv[3], out.numpy(), common.RATE)
