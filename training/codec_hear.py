"""The codec's second phase, mostly the encoder's: it learns to put phonemes into the codes, against everything that
augment.py does. The replies keep their place in the latent space, and the decoder follows."""

import copy
import multiprocessing

import torch
from codec_data import Data, Users
from codec_model import Phonemes, decode, encode, load, quantise, save, spectral, waveform
from common import FRAME
from loop import Loop, cosine
from together import descend


def hear(mimi, minutes, rate):
    load(mimi, "codec.pt")
    data, heads = Data(5), Phonemes()
    load(heads.code, "codec_joint.pt", "heads", "code.")
    old = copy.deepcopy(mimi)
    with torch.no_grad():
        wanted = [encode(old, torch.tensor(r)[None, None]) for r in data.replies]
    params = [*mimi.parameters(), *heads.parameters()]
    opt = torch.optim.AdamW(params, lr=rate, betas=(0.9, 0.99), weight_decay=1e-4)
    ease = multiprocessing.Value("d", 0)
    users = iter(torch.utils.data.DataLoader(Users(5, ease, lag=0.06), batch_size=None, num_workers=1, prefetch_factor=4))
    loop = Loop("hear", minutes, lambda: save("codec_hear.pt", mimi=mimi, heads=heads))
    for done in loop:
        for g in opt.param_groups:
            g["lr"] = rate * min(1, (loop.step + 1) / 100) * cosine(done, 0.02)
        mimi.train()
        ease.value = 0.3 * max(0, 1 - 2 * done)
        noisy, clean, labels = next(users)
        i = int(data.rng.integers(len(wanted)))
        reply = torch.tensor(data.replies[i])[None, None]
        with torch.autocast("cpu", torch.bfloat16):
            z, z_reply = encode(mimi, noisy).float(), encode(mimi, reply).float()
        # One call, so that the codebooks follow both.
        n, dim, t = z.shape
        latent, cb0, commit = quantise(mimi, torch.cat([z.transpose(0, 1).reshape(1, dim, n * t), z_reply], 2), True)
        heard, cb0 = (x[..., : n * t].reshape(-1, n, t).transpose(0, 1) for x in (latent, cb0))
        said = latent[..., n * t :]
        ce0, ce = heads.loss("code", cb0, labels), heads.loss("latent", heard, labels)
        held = (z_reply - wanted[i]).pow(2).mean() / wanted[i].pow(2).mean()
        loss = ce0 + ce + 0.25 * commit + 0.5 * held
        if loop.step % 3 == 0:
            at = int(data.rng.integers(5))
            with torch.autocast("cpu", torch.bfloat16):
                y = decode(mimi, heard[:3, :, at : at + 9])
            user = spectral(y.float(), clean[:3, :, at * FRAME : (at + 9) * FRAME])
            loss = loss + 0.3 * user
            loop.note(user=user)
        elif loop.step % 3 == 1:
            at = int(data.rng.integers(6, said.shape[2] - 18))
            with torch.autocast("cpu", torch.bfloat16):
                y = decode(mimi, said[..., at : at + 14])
            y, x = y.float()[..., 2 * FRAME :], reply[..., (at + 2) * FRAME : (at + 14) * FRAME]
            sound = spectral(y, x)
            loss = loss + sound + 0.2 * waveform(x, y)
            loop.note(reply=sound)
        descend(opt, loss, params, 2.0)
        loop.note(ce0=ce0, ce=ce, commit=commit, held=held)
