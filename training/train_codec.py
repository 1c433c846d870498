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
import itertools
import math
import multiprocessing
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import augment as aug
from common import FRAME, LEAD, PHONEMES, RATE, WORK, build_mimi
from corpus import Corpus, replies
from together import agree, join, mean_gradients

SUB = 4                                                          # phoneme steps in one frame
RANK = 0                                                         # of several processes, this one


def save(name, **parts):
    """Process 0 writes WORK/name; all have the same weights."""
    if not RANK:
        torch.save({k: v.state_dict() for k, v in parts.items()}, WORK / name)


# ------------------------------------------------------------------- model

def initialise(mimi):
    """Variance-preserving start. The default one never leaves its plateau."""
    for part in (mimi.encoder, mimi.decoder):
        convs = [m for m in part.modules() if isinstance(m, (nn.Conv1d, nn.ConvTranspose1d))]
        for m in convs:
            taps = m.weight[0, 0].numel()
            fan_in = m.weight.shape[1] * taps if isinstance(m, nn.Conv1d) else m.weight.shape[0] * taps / m.stride[0]
            nn.init.normal_(m.weight, std=1 / math.sqrt(fan_in))
            nn.init.zeros_(m.bias)
        if part is mimi.encoder:
            convs[0].weight.data *= 5                            # speech is far below full scale
        else:
            convs[-1].weight.data *= 0.03
    for name, p in mimi.named_parameters():
        if "layer_scale" in name:
            p.data.fill_(0.3)


def encode(mimi, x):
    (z,) = mimi.encoder_transformer(mimi.encoder(x))
    return mimi._to_framerate(z)


def decode(mimi, z):
    (z,) = mimi.decoder_transformer(mimi._to_encoder_framerate(z))
    return mimi.decoder(z)


def quantise(mimi, z, on):
    """-> (latent for the decoder, 64-dim codebook-0 latent, commitment loss)."""
    q = mimi.quantizer
    first, rest = q.rvq_first, q.rvq_rest
    a, b = first.input_proj(z), rest.input_proj(z)
    if not on:
        return first.output_proj(a) + rest.output_proj(b), a, 0.01 * (a.pow(2).mean() + b.pow(2).mean())
    a, _, la, _ = first.vq(a, n_q=1)
    b, _, lb, _ = rest.vq(b, n_q=7)
    return first.output_proj(a) + rest.output_proj(b), a, la.mean() + lb.mean()


class Phonemes(nn.Module):
    """Say which phoneme is spoken, from codebook 0 alone and from the latent, without context."""
    def __init__(self):
        super().__init__()
        n = SUB * (len(PHONEMES) + 1)
        self.code = nn.Sequential(nn.Conv1d(64, 256, 1), nn.GELU(), nn.Conv1d(256, n, 1))
        self.latent = nn.Sequential(nn.Conv1d(128, 256, 1), nn.GELU(), nn.Conv1d(256, n, 1))

    def loss(self, head, z, labels):
        logits = getattr(self, head)(z.float())
        b, _, t = logits.shape
        logits = logits.view(b, SUB, -1, t).permute(0, 3, 1, 2).reshape(b * t * SUB, -1)
        return F.cross_entropy(logits, labels.reshape(-1), ignore_index=-1)


# -------------------------------------------------------------------- loss

def mel_matrix(n_fft, bands):
    mel = lambda f: 2595 * np.log10(1 + f / 700)
    edges = 700 * (10 ** (np.linspace(mel(20), mel(11800), bands + 2) / 2595) - 1)
    f = np.linspace(0, RATE / 2, n_fft // 2 + 1)
    lo, mid, hi = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    m = np.maximum(0, np.minimum((f - lo) / (mid - lo), (hi - f) / (hi - mid)))
    return torch.tensor(m / np.maximum(m.sum(1, keepdims=True), 1e-6), dtype=torch.float32)


MELS = {n: mel_matrix(n, b) for n, b in ((256, 20), (512, 40), (1024, 80), (2048, 100))}


def spectral(x, y):
    """Mean log-mel distance at several resolutions, with a floor near -75 dB."""
    total = 0
    for n, m in MELS.items():
        w = torch.hann_window(n)
        sx, sy = (torch.stft(s[:, 0], n, n // 4, window=w, return_complex=True).abs() / w.sum() * 2
                  for s in (x, y))
        lx, ly = ((m @ s).clamp_min(2e-4).log() for s in (sx, sy))
        total = total + (lx - ly).abs().mean()
    return total / len(MELS)


def waveform(x, y):
    """Relative error of the samples, as they are and with the treble lifted."""
    total = 0
    for k in (0, .9):
        a, b = (s[..., 1:] - k * s[..., :-1] for s in (x, y))
        total = total + (a - b).pow(2).mean() / a.pow(2).mean().clamp_min(1e-5)
    return total / 2


# -------------------------------------------------------------------- data

class Data:
    def __init__(self, seed):
        self.rng = np.random.default_rng([seed, RANK])
        self.corpus = Corpus("train")
        self.weights = self.corpus.weights()
        quiet = np.zeros(LEAD * FRAME, np.float32)
        self.replies = [np.concatenate([quiet, w, quiet[:10 * FRAME]]) for _, w, _ in replies()]
        sizes = np.array([len(r) for r in self.replies], float)
        self.reply_weights = sizes / sizes.sum()
        self.voices = [i for i, it in enumerate(self.corpus.items) if it["engine"] != "kokoro"]
        self.heart = [i for i, it in enumerate(self.corpus.items) if it["engine"] == "hibari"]

    def reply_crops(self, n, frames=16):
        """Crops of the replies at frame boundaries, exactly as they will be encoded;
        every fifth is other speech of the same voice."""
        out = []
        for k in range(n):
            if k % 5 == 4:
                w = self.corpus.wav(self.rng.choice(self.heart)) * .66
                w = np.pad(w, (self.rng.integers(frames * FRAME // 2), frames * FRAME))
                out.append(w[:frames * FRAME])
                continue
            w = self.replies[self.rng.choice(len(self.replies), p=self.reply_weights)]
            s = self.rng.integers((len(w) // FRAME) - frames + 1) * FRAME
            out.append(w[s:s + frames * FRAME])
        return torch.tensor(np.stack(out))[:, None]

    def users(self, n, frames=14, ease=0, lag=.02):
        """Crops of user speech -> (noisy [n,1,T], clean [n,1,T], phonemes by step [n,50T], -1: not known)."""
        noisies, cleans, labels = [], [], np.full((n, frames * SUB), -1)
        for row in range(n):
            i = self.rng.choice(len(self.corpus), p=self.weights)
            w = self.corpus.wav(i)
            length = len(w)
            easy = self.rng.random() < ease                      # at first mostly clean speech
            if self.rng.random() < .7 and not easy:
                w = aug.respeed(w, self.rng)
            known = self.corpus.labels(i, length / RATE, .02 * length / len(w), lag)
            at = int(self.rng.integers(-6, max(-5, len(w) // FRAME - frames + 4)))   # in frames
            clean = np.zeros(frames * FRAME, np.float32)
            part = w[max(0, at) * FRAME:(at + frames) * FRAME]
            lead = max(0, -at) * FRAME
            clean[lead:lead + len(part)] = part
            if known is not None:
                known = known[max(0, at) * SUB:(at + frames) * SUB]
                labels[row] = 0
                labels[row, max(0, -at) * SUB:][:len(known)] = known
            noisy = clean
            if not easy:
                noisy = aug.colour(noisy, self.rng) if self.rng.random() < .8 else noisy
                noisy = aug.add_noise(noisy, np.sqrt(np.mean(part ** 2)), self.rng, voices=self.babble)
            noisy = aug.level(aug.random_level(self.rng) if not easy else -4, noisy)
            noisies.append(noisy), cleans.append(clean * (.6 / (np.abs(w).max() + 1e-9)))
        return (*(torch.tensor(np.stack(x), dtype=torch.float32)[:, None] for x in (noisies, cleans)),
                torch.tensor(labels))

    def babble(self, rng):
        return self.corpus.wav(self.voices[rng.integers(len(self.voices))])


class Users(torch.utils.data.IterableDataset):
    """Data.users for ever, made by another process; utterances that are added meanwhile are used."""
    def __init__(self, seed, ease, **args):
        self.seed, self.ease, self.args = seed, ease, args

    def __iter__(self):
        data = Data(self.seed)
        for i in itertools.count(1):
            yield data.users(20, ease=self.ease.value, **self.args)
            if i % 1000 == 0:
                data = Data(self.seed + i)


# ---------------------------------------------------------------- training

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
    data, heads, q = Data(5), Phonemes(), mimi.quantizer
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
    global RANK
    RANK = join()
    torch.manual_seed(0)
    torch.set_num_threads(a.threads)
    log = lambda s: None if RANK else print(s, flush=True)
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
