"""Trains the codec (Kyutai's MimiModel modules, 1/4 of the width).

    python train_codec.py [--joint 26] [--polish 16]          minutes of CPU time of the two phases
    torchrun --nproc-per-node 2 train_codec.py ...            the same on two cores

Phase 1 trains everything: reconstruction of the reply voice and, less, of the
users' voices (from a noisy copy: the encoder learns to hear through noise),
and heads that make codebook 0 say which phoneme is spoken. It starts
without quantiser. Then encoder and quantiser are rounded and frozen
(codec_frozen.pt: the codes are final, the language model can start), and
phase 2 polishes the decoder on the frozen codes of the replies, sample by
sample. Result: codec.pt.
"""
import argparse
import math
import multiprocessing
import time

import numpy as np
import torch
from torch import nn

from codec_data import Data, Users
from codec_model import Phonemes, decode, encode, initialise, quantise, spectral, waveform
from common import FRAME, LEAD, WORK, build_mimi
from together import agree, join, mean_gradients, rank


def save(name, **parts):
    """Process 0 writes WORK/name; all have the same weights."""
    if not rank():
        torch.save({k: v.state_dict() for k, v in parts.items()}, WORK / name)


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
            for _ in rvq.vq.layers:                              # each call may start one more codebook
                rvq.vq(z, n_q=len(rvq.vq.layers))
            for layer in rvq.vq.layers:                          # sums over many batches -> one batch
                layer._codebook.embedding_sum /= 2 * batches
                layer._codebook.cluster_usage /= 2 * batches


def usage(mimi, codes):
    return [len(torch.unique(codes[:, k])) for k in range(codes.shape[1])]


def phase1(mimi, minutes, log, resume):
    data, heads = Data(1), Phonemes()
    if resume:
        d = torch.load(WORK / "codec_phase1.pt")
        mimi.load_state_dict(d["mimi"]), heads.load_state_dict(d["heads"])
    params = [*mimi.parameters(), *heads.parameters()]
    opt = torch.optim.AdamW(params, lr=1e-3, betas=(.9, .99), weight_decay=1e-4)
    start, quantised, step, last, sums = time.process_time(), False, 0, time.process_time(), {}
    while (done := agree((time.process_time() - start) / (60 * minutes))) < 1:
        if not quantised and done > .25:
            data = Data(3)                                       # utterances may have been added
            fit_codebooks(mimi, data)
            quantised = True
        lr = 1e-3 * min(1, (step + 1) / 40) * (1 if done < .35 else .04 + .96 * (.5 + .5 * math.cos(math.pi * (done - .35) / .65)))
        for g in opt.param_groups:
            g["lr"] = lr
        mimi.train()
        x = data.reply_crops(3, 14)
        noisy, clean, labels = data.users(12, ease=.7 * max(0, 1 - 2 * done))
        with torch.autocast("cpu", torch.bfloat16):
            z = encode(mimi, torch.cat([x, noisy])).float()
        q, cb0, commit = quantise(mimi, z, quantised)
        at = int(data.rng.integers(5))                           # users: decode a part of three
        with torch.autocast("cpu", torch.bfloat16):
            y = decode(mimi, q[:3])
            yu = decode(mimi, q[3:6, :, at:at + 9])
        lr_, lu = spectral(y.float(), x), spectral(yu.float(), clean[:3, :, at * FRAME:(at + 9) * FRAME])
        le = heads.loss("code", cb0[3:], labels)
        lf = heads.loss("latent", z[3:], labels)
        loss = lr_ + .3 * lu + le + .8 * lf + .25 * commit
        opt.zero_grad()
        loss.backward()
        mean_gradients(params)
        norm = nn.utils.clip_grad_norm_(params, 2.0)
        opt.step()
        step += 1
        for k, v in dict(reply=lr_, user=lu, ce0=le, ce=lf, commit=commit, grad=norm).items():
            sums[k] = sums.get(k, 0) + float(v.detach())
        if step % 50 == 0:
            log(f"{step} {(time.process_time() - start) / 60:.1f}min " + " ".join(f"{k} {v / 50:.3f}" for k, v in sums.items()))
            sums = {}
        if time.process_time() - last > 120:
            last = time.process_time()
            save("codec_phase1.pt", mimi=mimi, heads=heads)
    save("codec_phase1.pt", mimi=mimi, heads=heads)


def load(mimi, path):
    """Layers that the checkpoint lacks start as identities."""
    state = torch.load(path, map_location="cpu")["mimi"]
    missing = mimi.load_state_dict(state, strict=False).missing_keys
    for name, p in mimi.named_parameters():
        if name in missing and name.endswith(("out_proj.weight", "out_projs.0.weight", "linear2.weight")):
            nn.init.zeros_(p)
        if name in missing and "layer_scale" in name:
            p.data.fill_(.3)
    return missing


def hear(mimi, minutes, log, resume, rate):
    """Mostly the encoder: it learns to put phonemes into the codes, against everything that augment.py does.
    The replies keep their place in the latent space, and the decoder follows."""
    load(mimi, WORK / "codec.pt")
    data, heads = Data(5), Phonemes()
    before = WORK / ("codec_hear.pt" if resume else "codec_phase1.pt")
    known = torch.load(before)["heads"]
    heads.load_state_dict(known if resume else heads.state_dict() | {k: v for k, v in known.items() if k.startswith("code.")})
    old = build_mimi()
    load(old, WORK / "codec.pt")
    with torch.no_grad():
        want = [encode(old, torch.tensor(r)[None, None]) for r in data.replies]
    params = [*mimi.parameters(), *heads.parameters()]
    opt = torch.optim.AdamW(params, lr=1e-3, betas=(.9, .99), weight_decay=1e-4)
    ease = multiprocessing.Value("d", 0)
    users = iter(torch.utils.data.DataLoader(Users(7 if resume else 5, ease, lag=.06), batch_size=None, num_workers=1, prefetch_factor=4))
    start, step, last, sums = time.process_time(), 0, time.process_time(), {}
    while (done := agree((time.process_time() - start) / (60 * minutes))) < 1:
        for g in opt.param_groups:
            g["lr"] = rate * min(1, (step + 1) / 100) * (.02 + .98 * (.5 + .5 * math.cos(math.pi * done)))
        mimi.train()
        ease.value = 0 if resume else .3 * max(0, 1 - 2 * done)
        noisy, clean, labels = next(users)
        i = int(data.rng.integers(len(want)))
        reply = torch.tensor(data.replies[i])[None, None]
        with torch.autocast("cpu", torch.bfloat16):
            z = encode(mimi, noisy).float()
            zr = encode(mimi, reply).float()
        # one call, so that the codebooks follow both
        n, t = z.shape[0], z.shape[2]
        flat = torch.cat([z.transpose(0, 1).reshape(1, z.shape[1], n * t), zr], 2)
        latent, cb0, commit = quantise(mimi, flat, True)
        back = lambda x: x[..., :n * t].reshape(x.shape[1], n, t).transpose(0, 1)
        held = (zr - want[i]).pow(2).mean() / want[i].pow(2).mean()
        le, lf = heads.loss("code", back(cb0), labels), heads.loss("latent", back(latent), labels)
        d = dict(ce0=le, ce=lf, commit=commit, held=held)
        loss = le + lf + .25 * commit + .5 * held
        if step % 3 == 0:
            at = int(data.rng.integers(5))
            with torch.autocast("cpu", torch.bfloat16):
                y = decode(mimi, back(latent)[:3, :, at:at + 9])
            d["user"] = spectral(y.float(), clean[:3, :, at * FRAME:(at + 9) * FRAME])
            loss = loss + .3 * d["user"]
        elif step % 3 == 1:
            tail = latent[..., n * t:]
            at = int(data.rng.integers(6, tail.shape[2] - 18))
            with torch.autocast("cpu", torch.bfloat16):
                y = decode(mimi, tail[..., at:at + 14])
            y, x = y.float()[..., 2 * FRAME:], reply[..., (at + 2) * FRAME:(at + 14) * FRAME]
            d["reply"] = spectral(y, x)
            loss = loss + d["reply"] + .2 * waveform(x, y)
        opt.zero_grad()
        loss.backward()
        mean_gradients(params)
        nn.utils.clip_grad_norm_(params, 2.0)
        opt.step()
        step += 1
        for k, v in d.items():
            sums.setdefault(k, []).append(float(v.detach()))
        if step % 50 == 0:
            log(f"hear {step} {(time.process_time() - start) / 60:.1f}min " + " ".join(f"{k} {np.mean(v):.3f}" for k, v in sums.items()))
            sums = {}
        if time.process_time() - last > 120:
            last = time.process_time()
            save("codec_hear.pt", mimi=mimi, heads=heads)
    save("codec_hear.pt", mimi=mimi, heads=heads)


def freeze(mimi):
    """Rounds all but the quantiser to bfloat16, as it will be stored."""
    mimi.eval()
    for name, p in mimi.state_dict().items():
        if not name.startswith("quantizer."):
            p.copy_(p.to(torch.bfloat16).float())
    for part in (mimi.encoder, mimi.encoder_transformer, mimi.downsample, mimi.quantizer):
        part.requires_grad_(False)
    for rvq in (mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest):
        rvq.output_proj.requires_grad_(True)                     # only the decoder uses these


BEFORE = 34                                                      # silent frames before a reply while polishing


@torch.no_grad()
def reply_codes(mimi, data):
    """Codes of every reply as the decoder will meet them: after the codes of a long silence, from LEAD frames on their own."""
    quiet = mimi.encode(torch.zeros(1, 1, 200 * FRAME))[0][:, -BEFORE:]
    return [torch.cat([quiet, mimi.encode(torch.tensor(r)[None, None])[0][:, LEAD:]], 1) for r in data.replies]


def phase2(mimi, minutes, log, resume, rate):
    """The decoder learns the replies by heart, sample by sample: their codes never
    change, and a voice whose phase is right does not buzz."""
    # The first frames of a crop lack their past: four layers of 16 frames reach far.
    data, skip, frames = Data(2), 16, 30
    codes = reply_codes(mimi, data)
    sounds = [np.pad(r[LEAD * FRAME:], (BEFORE * FRAME, 0)) for r in data.replies]
    log("codes in use on the replies: " + str(usage(mimi, torch.cat(codes, 1).T)))
    if resume:
        mimi.load_state_dict(torch.load(WORK / "codec.pt")["mimi"])
    params = [p for p in mimi.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=rate, betas=(.9, .99), weight_decay=0)
    start, step, last, sums = time.process_time(), 0, time.process_time(), {}
    while (done := agree((time.process_time() - start) / (60 * minutes))) < 1:
        for g in opt.param_groups:
            g["lr"] = rate * min(1, (step + 1) / 30) * (.01 + .99 * (.5 + .5 * math.cos(math.pi * done)))
        cs, xs = [], []
        for _ in range(4):
            i = data.rng.choice(len(codes), p=data.reply_weights)
            # of the silence around a reply, less than there is
            s = int(data.rng.integers(BEFORE - 18, codes[i].shape[1] - frames - 4))
            cs.append(codes[i][:, s:s + frames])
            xs.append(torch.tensor(sounds[i][(s + skip) * FRAME:(s + frames) * FRAME]))
        x = torch.stack(xs)[:, None]
        z = mimi.quantizer.decode(torch.stack(cs))
        with torch.autocast("cpu", torch.bfloat16, enabled=done < .9):
            y = decode(mimi, z)
        y = y.float()[..., skip * FRAME:]                        # the first frames lack their past
        loss = wave = waveform(x, y)
        d = dict(wave=wave)
        if step % 2:
            d["mel"] = spectral(y, x)
            loss = wave + .5 * d["mel"]
        opt.zero_grad()
        loss.backward()
        mean_gradients(params)
        nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        step += 1
        for k, v in d.items():
            sums.setdefault(k, []).append(float(v.detach()))
        if step % 50 == 0:
            log(f"polish {step} {(time.process_time() - start) / 60:.1f}min " + " ".join(f"{k} {np.mean(v):.3f}" for k, v in sums.items()))
            sums = {}
        if time.process_time() - last > 120:
            last = time.process_time()
            save("codec.pt", mimi=mimi)
    save("codec.pt", mimi=mimi)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--joint", type=float, default=26)
    ap.add_argument("--polish", type=float, default=16)
    ap.add_argument("--hear", type=float, default=28)
    ap.add_argument("--rate", type=float, default=1.1e-3, help="learning rate of hear and polish")
    ap.add_argument("--only", choices=["joint", "hear", "polish"])
    ap.add_argument("--resume", action="store_true")
    # On a busy machine two threads wait for each other: one is several times faster.
    ap.add_argument("--threads", type=int, default=1)
    a = ap.parse_args()
    join()
    torch.manual_seed(0)
    torch.set_num_threads(a.threads)
    log = lambda s: None if rank() else print(s, flush=True)
    mimi = build_mimi()
    if a.only == "hear":
        hear(mimi, a.hear, log, a.resume, a.rate)
        freeze(mimi)
        save("codec_frozen2.pt", mimi=mimi)
        return
    if a.only != "polish":
        initialise(mimi)
        phase1(mimi, a.joint, log, a.resume)
        freeze(mimi)
        save("codec_frozen.pt", mimi=mimi)
        agree(0)                                                 # written, before others read it
    if a.only != "joint":
        mimi.load_state_dict(torch.load(WORK / "codec_frozen.pt")["mimi"])
        freeze(mimi)
        phase2(mimi, a.polish, log, a.resume and a.only == "polish", a.rate)
        freeze(mimi)                                             # rounds the decoder too
        save("codec.pt", mimi=mimi)


if __name__ == "__main__":
    main()
