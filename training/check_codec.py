"""How the replies sound after the codec: DistillMOS, word errors, codebook use.

python check_codec.py CKPT [HOW_MANY]
"""

import sys

import numpy as np
import soundfile
import torch
from build_sessions import load_codec
from common import FRAME, RATE, WORK
from corpus import replies
from judge import Judge, errors, plain


@torch.no_grad()
def main(checkpoint, count=99):
    torch.set_num_threads(1)
    mimi, judge, wrong, words, mos, codes = load_codec(checkpoint), Judge(), 0, 0, [], []
    (WORK / "decoded").mkdir(exist_ok=True)
    for i, (text, wav, _) in enumerate(replies()[: int(count)]):
        x = torch.tensor(np.pad(wav, (30 * FRAME, 6 * FRAME)))[None, None]
        c = mimi.encode(x)
        codes.append(c[0])
        y = mimi.decode(c)[0, 0, 28 * FRAME :].numpy()
        heard, m = judge(y)
        soundfile.write(WORK / f"decoded/{i:02d}.wav", y, RATE)
        wrong, words = wrong + errors(plain(text), plain(heard)), words + len(plain(text))
        mos.append(m)
        print(f"{m:.2f} {judge(wav)[1]:.2f} {text} | {heard}", flush=True)
    print(
        f"MOS {np.mean(mos):.2f}, word errors {100 * wrong / words:.1f} %, codes in use",
        [len(torch.unique(torch.cat(codes, 1)[k])) for k in range(8)],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
