"""Trains the codec (Kyutai's MimiModel modules, 1/4 of the width).

    python train_codec.py [--joint 26] [--polish 16]          minutes of the two phases

Phase 1 trains everything: reconstruction of the reply voice and, less, of the
users' voices (from a noisy copy: the encoder learns to hear through noise),
and a CTC head that makes codebook 0 say which phoneme is spoken. It starts
without quantiser. Then encoder and quantiser are rounded and frozen
(codec_frozen.pt: the codes are final, the language model can start), and
phase 2 polishes the decoder on frozen codes of the replies, with a
discriminator. Result: codec.pt.
"""
import argparse
import math
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import augment as aug
from common import FRAME, PHONEMES, RATE, WORK, build_mimi
from corpus import Corpus, replies

SUB = 4                                                          # CTC steps in one frame


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
    """CTC heads on codebook 0 (no context: the code itself must say it) and on the latent."""
    def __init__(self):
        super().__init__()
        n = SUB * (len(PHONEMES) + 1)
        self.code = nn.Sequential(nn.Conv1d(64, 256, 1), nn.GELU(), nn.Conv1d(256, n, 1))
        self.latent = nn.Sequential(nn.Conv1d(128, 256, 1), nn.GELU(), nn.Conv1d(256, n, 1))

    def loss(self, head, z, targets, labels, frames):
        """CTC for all; where the phonemes are known step by step, cross entropy, which learns faster."""
        logits = getattr(self, head)(z.float())
        b, _, t = logits.shape
        logp = logits.view(b, SUB, -1, t).permute(3, 1, 0, 2).reshape(t * SUB, b, -1).log_softmax(-1)
        lengths = torch.tensor([len(x) for x in targets])
        flat = torch.tensor([p for x in targets for p in x])
        ctc = F.ctc_loss(logp, flat, torch.tensor(frames) * SUB, lengths, zero_infinity=True)
        known = [i for i, x in enumerate(labels) if x is not None]
        if not known:
            return ctc, torch.zeros(())
        y = torch.full((len(known), t * SUB), -100)
        for row, i in enumerate(known):
            n = min(t * SUB, len(labels[i]))
            y[row, :n] = torch.tensor(labels[i][:n])
        return ctc, F.nll_loss(logp[:, known].transpose(0, 1).reshape(-1, logp.shape[-1]), y.reshape(-1))


class Discriminator(nn.Module):
    """Small two-dimensional convolutions over complex spectrograms, at three resolutions."""
    def __init__(self, sizes=(2048, 1024, 512), c=16):
        super().__init__()
        self.sizes = sizes
        self.nets = nn.ModuleList(nn.ModuleList([
            nn.Conv2d(2, c, (3, 9), (1, 2), (1, 4)), nn.Conv2d(c, c, (3, 9), (1, 2), (1, 4)),
            nn.Conv2d(c, c, (3, 9), (1, 2), (2, 4), (2, 1)), nn.Conv2d(c, c, (3, 3), 1, 1),
            nn.Conv2d(c, 1, (3, 3), 1, 1)]) for _ in sizes)

    def forward(self, x):
        outs, feats = [], []
        for n, net in zip(self.sizes, self.nets):
            s = torch.stft(x[:, 0], n, n // 4, window=torch.hann_window(n), normalized=True, return_complex=True)
            s = s * s.abs().clamp_min(1e-4) ** -0.6              # soft sounds count too
            h = torch.stack([s.real, s.imag], 1).transpose(2, 3)
            with torch.autocast("cpu", torch.bfloat16):
                for layer in net[:-1]:
                    h = F.leaky_relu(layer(h), 0.2)
                    feats.append(h.float())
                outs.append(net[-1](h).float())
        return outs, feats


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


# -------------------------------------------------------------------- data

class Data:
    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.corpus = Corpus("train")
        self.weights = self.corpus.weights()
        quiet = np.zeros(14 * FRAME, np.float32)
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

    def users(self, n, most=2.4):
        """-> (noisy [n,1,T], clean [n,1,T], phoneme lists, phonemes by step, frames of each)."""
        rows = []
        while len(rows) < n:
            i = self.rng.choice(len(self.corpus), p=self.weights)
            w, n = self.corpus.wav(i), self.corpus.items[i]["length"]
            if self.rng.random() < .7:
                w = aug.respeed(w, self.rng)
            labels = self.corpus.labels(i, n / RATE, .02 * n / len(w))
            lead = int(self.rng.integers(200, FRAME * 3))
            w = np.pad(w, (lead, FRAME * 3))
            if len(w) > most * RATE:
                continue
            if labels is not None:
                labels = np.pad(labels, (round(lead / RATE / .02), 10))
            clean = w * (.6 / (np.abs(w).max() + 1e-9))
            noisy = aug.colour(w, self.rng) if self.rng.random() < .8 else w
            rms = np.sqrt(np.mean(noisy ** 2))
            noisy = aug.add_noise(noisy, rms, self.rng, voices=self.babble)
            noisy = aug.level(aug.random_level(self.rng), noisy)
            rows.append((noisy, clean, self.corpus.phones(i), labels))
        # Few different lengths: the convolutions are compiled for each new shape.
        t = -(-max(len(r[0]) for r in rows) // (6 * FRAME)) * 6 * FRAME
        pad = lambda k: torch.tensor(np.stack([np.pad(r[k], (0, t - len(r[k]))) for r in rows]), dtype=torch.float32)[:, None]
        return pad(0), pad(1), [r[2] for r in rows], [r[3] for r in rows], [-(-len(r[0]) // FRAME) for r in rows]

    def babble(self, rng):
        return self.corpus.wav(self.voices[rng.integers(len(self.voices))])


# ---------------------------------------------------------------- training

def fit_codebooks(mimi, data, batches=40):
    """k-means on many batches at once, one codebook after the other."""
    a, b = [], []
    with torch.no_grad():
        for _ in range(batches):
            for x in (data.reply_crops(8), data.users(4)[0]):
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
    start, quantised, step, last, sums = time.time(), False, 0, time.time(), {}
    while (done := (time.time() - start) / (60 * minutes)) < 1:
        if not quantised and done > .25:
            data = Data(3)                                       # utterances may have been added
            fit_codebooks(mimi, data)
            quantised = True
        lr = 1e-3 * min(1, (step + 1) / 100) * (1 if done < .35 else .04 + .96 * (.5 + .5 * math.cos(math.pi * (done - .35) / .65)))
        for g in opt.param_groups:
            g["lr"] = lr
        mimi.train()
        x = data.reply_crops(5, 14)
        noisy, clean, targets, labels, frames = data.users(6)
        with torch.autocast("cpu", torch.bfloat16):
            zr, zu = encode(mimi, x), encode(mimi, noisy)
        zr, zu = zr.float(), zu.float()
        t = zu.shape[-1]
        # Both latents go through the quantiser as one batch, so that its moving
        # averages see the two kinds of speech together.
        flat = torch.cat([zr.transpose(1, 2).reshape(-1, 128), zu.transpose(1, 2).reshape(-1, 128)]).T[None]
        q, cb0, commit = quantise(mimi, flat, quantised)
        n = zr.shape[0] * zr.shape[-1]
        split = lambda v, b: v[0].T.reshape(b, -1, v.shape[1]).transpose(1, 2)
        qr, qu = split(q[..., :n], len(x)), split(q[..., n:], len(noisy))
        at = int(data.rng.integers(max(1, t - 9)))                # users: decode a short part of two
        with torch.autocast("cpu", torch.bfloat16):
            y = decode(mimi, qr)
            yu = decode(mimi, qu[:2, :, at:at + 10])
        lr_, lu = spectral(y.float(), x), spectral(yu.float(), clean[:2, :, at * FRAME:(at + 10) * FRAME][..., :yu.shape[-1]])
        lc, le = heads.loss("code", split(cb0[..., n:], len(noisy)), targets, labels, frames)
        ll, lf = heads.loss("latent", zu, targets, labels, frames)
        loss = lr_ + .3 * lu + .15 * lc + .1 * ll + .35 * le + .25 * lf + .25 * commit
        opt.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(params, 2.0)
        opt.step()
        step += 1
        for k, v in dict(reply=lr_, user=lu, ctc0=lc, ctc=ll, ce0=le, ce=lf, commit=commit, grad=norm).items():
            sums[k] = sums.get(k, 0) + float(v.detach())
        if step % 50 == 0:
            log(f"{step} {(time.time() - start) / 60:.1f}min " + " ".join(f"{k} {v / 50:.3f}" for k, v in sums.items()))
            sums = {}
        if time.time() - last > 120:
            last = time.time()
            torch.save({"mimi": mimi.state_dict(), "heads": heads.state_dict()}, WORK / "codec_phase1.pt")
    torch.save({"mimi": mimi.state_dict(), "heads": heads.state_dict()}, WORK / "codec_phase1.pt")


def freeze(mimi):
    """Rounds all but the quantiser to bfloat16, as it will be stored."""
    mimi.eval()
    for name, p in mimi.state_dict().items():
        if not name.startswith("quantizer."):
            p.copy_(p.to(torch.bfloat16).float())
    for part in (mimi.encoder, mimi.encoder_transformer, mimi.downsample, mimi.quantizer):
        part.requires_grad_(False)


@torch.no_grad()
def reply_codes(mimi, data):
    return [mimi.encode(torch.tensor(r)[None, None])[0] for r in data.replies]


def phase2(mimi, minutes, log):
    data, disc = Data(2), Discriminator()
    codes = reply_codes(mimi, data)
    log("codes in use on the replies: " + str(usage(mimi, torch.cat(codes, 1).T)))
    params = [p for p in mimi.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=6e-4, betas=(.8, .99), weight_decay=0)
    opt_d = torch.optim.AdamW(disc.parameters(), lr=6e-4, betas=(.8, .99))
    heart = []
    with torch.no_grad():                                        # some other speech, against overfitting
        for _ in range(20):
            x = data.reply_crops(10)[4::5]
            heart.append((mimi.encode(x), x))
    start, step, last, sums, frames = time.time(), 0, time.time(), {}, 16
    while (done := (time.time() - start) / (60 * minutes)) < 1:
        for o in (opt, opt_d):
            o.param_groups[0]["lr"] = 6e-4 * min(1, (step + 1) / 50) * (.03 + .97 * (.5 + .5 * math.cos(math.pi * done)))
        cs, xs = [], []
        for _ in range(8):
            i = data.rng.choice(len(codes), p=data.reply_weights)
            s = int(data.rng.integers(codes[i].shape[1] - frames + 1))
            cs.append(codes[i][:, s:s + frames])
            xs.append(torch.tensor(data.replies[i][s * FRAME:(s + frames) * FRAME]))
        c, x = torch.stack(cs), torch.stack(xs)[:, None]
        if step % 4 == 3:
            hc, hx = random.choice(heart)
            c, x = torch.cat([c[2:], hc]), torch.cat([x[2:], hx])
        z = mimi.quantizer.decode(c)
        with torch.autocast("cpu", torch.bfloat16):
            y = decode(mimi, z)
        y = y.float()
        mel = spectral(y, x)
        loss = mel * 3
        # the discriminator listens to half a second somewhere, every time somewhere else
        s = int(data.rng.integers(frames * FRAME - 14400))
        yc, xc = y[..., s:s + 14400], x[..., s:s + 14400]
        d = dict(mel=mel)
        if done > .1:
            if step % 2 == 0:
                real, fake = disc(xc)[0], disc(yc.detach())[0]
                ld = sum(F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake)) / len(real)
                opt_d.zero_grad()
                ld.backward()
                opt_d.step()
                d["disc"] = ld
            if done > .15:
                with torch.no_grad():
                    _, fr = disc(xc)
                disc.requires_grad_(False)
                out, ff = disc(yc)
                disc.requires_grad_(True)
                adv = sum(-o.mean() for o in out) / len(out)
                match = sum((a - b).abs().mean() / (a.abs().mean() + 1e-3) for a, b in zip(fr, ff)) / len(ff)
                loss = loss + .5 * adv + 1.5 * match
                d.update(adv=adv, match=match)
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, 5.0)
        opt.step()
        step += 1
        for k, v in d.items():
            sums.setdefault(k, []).append(float(v.detach()))
        if step % 50 == 0:
            log(f"polish {step} {(time.time() - start) / 60:.1f}min " + " ".join(f"{k} {np.mean(v):.3f}" for k, v in sums.items()))
            sums = {}
        if time.time() - last > 120:
            last = time.time()
            torch.save({"mimi": mimi.state_dict()}, WORK / "codec.pt")
    torch.save({"mimi": mimi.state_dict()}, WORK / "codec.pt")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--joint", type=float, default=26)
    ap.add_argument("--polish", type=float, default=16)
    ap.add_argument("--only", choices=["joint", "polish"])
    ap.add_argument("--resume", action="store_true")
    a = ap.parse_args()
    torch.manual_seed(0), random.seed(0)
    torch.set_num_threads(2)
    log = lambda s: print(s, flush=True)
    mimi = build_mimi()
    if a.only != "polish":
        initialise(mimi)
        phase1(mimi, a.joint, log, a.resume)
        freeze(mimi)
        torch.save({"mimi": mimi.state_dict()}, WORK / "codec_frozen.pt")
    if a.only != "joint":
        mimi.load_state_dict(torch.load(WORK / "codec_frozen.pt")["mimi"])
        freeze(mimi)
        phase2(mimi, a.polish, log)
        freeze(mimi)                                             # rounds the decoder too
        torch.save({"mimi": mimi.state_dict()}, WORK / "codec.pt")


if __name__ == "__main__":
    main()
