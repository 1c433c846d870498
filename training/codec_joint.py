"""The codec's first phase: everything at once, from nothing."""

import torch
from codec_data import Data
from codec_model import Phonemes, decode, encode, initialise, quantise, save, spectral
from common import FRAME
from loop import Loop, cosine
from together import descend

QUANTISED_FROM = 0.25  # of the time


def fit_codebooks(mimi, data, batches=40):
    """k-means on many batches at once, one codebook after the other."""
    a, b = [], []
    with torch.no_grad():
        for _ in range(batches):
            for x in (data.reply_crops(8), data.users(8)[0]):
                z = encode(mimi, x)
                a.append(mimi.quantizer.rvq_first.input_proj(z).transpose(1, 2).reshape(-1, 64))
                b.append(mimi.quantizer.rvq_rest.input_proj(z).transpose(1, 2).reshape(-1, 64))
        for rvq, rows in ((mimi.quantizer.rvq_first, a), (mimi.quantizer.rvq_rest, b)):
            z = torch.cat(rows).T[None].contiguous()
            for _ in rvq.vq.layers:  # each call may start one more codebook
                rvq.vq(z, n_q=len(rvq.vq.layers))
            for layer in rvq.vq.layers:  # sums over many batches -> one batch
                layer._codebook.embedding_sum /= 2 * batches
                layer._codebook.cluster_usage /= 2 * batches


def joint(mimi, minutes, rate=1e-3):
    """Reconstruction of the reply voice and, less, of the users' voices (from a noisy copy: the encoder learns to hear
    through noise), and heads that make codebook 0 say which phoneme is spoken. It starts without quantiser."""
    initialise(mimi)
    data, heads, quantised = Data(1), Phonemes(), False
    params = [*mimi.parameters(), *heads.parameters()]
    opt = torch.optim.AdamW(params, lr=rate, betas=(0.9, 0.99), weight_decay=1e-4)
    loop = Loop("joint", minutes, lambda: save("codec_joint.pt", mimi=mimi, heads=heads))
    for done in loop:
        if not quantised and done > QUANTISED_FROM:
            fit_codebooks(mimi, data)
            quantised = True
        for g in opt.param_groups:
            g["lr"] = rate * min(1, (loop.step + 1) / 40) * (1 if done < 0.35 else cosine((done - 0.35) / 0.65, 0.04))
        mimi.train()
        x = data.reply_crops(3, 14)
        noisy, clean, labels = data.users(12, ease=0.7 * max(0, 1 - 2 * done))
        with torch.autocast("cpu", torch.bfloat16):
            z = encode(mimi, torch.cat([x, noisy])).float()
        latent, cb0, commit = quantise(mimi, z, quantised)
        at = int(data.rng.integers(5))  # users: decode a part of three
        with torch.autocast("cpu", torch.bfloat16):
            y = decode(mimi, latent[:3])
            yu = decode(mimi, latent[3:6, :, at : at + 9])
        reply, user = spectral(y.float(), x), spectral(yu.float(), clean[:3, :, at * FRAME : (at + 9) * FRAME])
        ce0, ce = heads.loss("code", cb0[3:], labels), heads.loss("latent", z[3:], labels)
        loss = reply + 0.3 * user + ce0 + 0.8 * ce + 0.25 * commit
        norm = descend(opt, loss, params, 2.0)
        loop.note(reply=reply, user=user, ce0=ce0, ce=ce, commit=commit, grad=norm)
