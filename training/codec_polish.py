"""The codec's last phase: the decoder learns the replies by heart, sample by sample. Their codes never change, and a voice
whose phase is right does not buzz."""

import numpy as np
import torch
from codec_data import Data
from codec_model import decode, load, save, spectral, waveform
from common import FRAME, LEAD
from loop import Loop, cosine
from together import descend

BEFORE = 34  # silent frames before a reply
# The first frames of a crop lack their past: four layers of 16 frames reach far.
SKIP, FRAMES = 16, 30


@torch.no_grad()
def reply_codes(mimi, data):
    """Codes of every reply as the decoder will meet them: after the codes of a long silence, from LEAD frames on their own."""
    quiet = mimi.encode(torch.zeros(1, 1, 200 * FRAME))[0][:, -BEFORE:]
    return [torch.cat([quiet, mimi.encode(torch.tensor(r)[None, None])[0][:, LEAD:]], 1) for r in data.replies]


def polish(mimi, minutes, rate, resume):
    """`mimi` is frozen but for its decoder, which goes on from codec.pt where `resume` is true."""
    data = Data(2)
    codes = reply_codes(mimi, data)
    sounds = [np.pad(r[LEAD * FRAME :], (BEFORE * FRAME, 0)) for r in data.replies]
    if resume:
        load(mimi, "codec.pt")
    params = [p for p in mimi.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=rate, betas=(0.9, 0.99), weight_decay=0)
    loop = Loop("polish", minutes, lambda: save("codec.pt", mimi=mimi))
    for done in loop:
        for g in opt.param_groups:
            g["lr"] = rate * min(1, (loop.step + 1) / 30) * cosine(done, 0.01)
        crops, wanted = [], []
        for _ in range(4):
            i = data.rng.choice(len(codes), p=data.reply_weights)
            # Of the silence around a reply, less than there is.
            s = int(data.rng.integers(BEFORE - 18, codes[i].shape[1] - FRAMES - 4))
            crops.append(codes[i][:, s : s + FRAMES])
            wanted.append(torch.tensor(sounds[i][(s + SKIP) * FRAME : (s + FRAMES) * FRAME]))
        x = torch.stack(wanted)[:, None]
        z = mimi.quantizer.decode(torch.stack(crops))
        with torch.autocast("cpu", torch.bfloat16, enabled=done < 0.9):
            y = decode(mimi, z)
        y = y.float()[..., SKIP * FRAME :]
        loss = wave = waveform(x, y)
        loop.note(wave=wave)
        if loop.step % 2:
            mel = spectral(y, x)
            loss = wave + 0.5 * mel
            loop.note(mel=mel)
        descend(opt, loss, params, 1.0)
