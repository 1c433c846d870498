"""Pieces of the codec's training: its start, its parts in steps, checkpoints, the phoneme heads, and the distances of sounds."""

import math

import numpy as np
import torch
from common import PHONEMES, RATE, WORK
from together import rank
from torch import nn
from torch.nn import functional

SUB = 4  # phoneme steps in one frame


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
            convs[0].weight.data *= 5  # speech is far below full scale
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


def save(name, **parts):
    """Process 0 writes WORK/name; all have the same weights."""
    if not rank():
        torch.save({k: v.state_dict() for k, v in parts.items()}, WORK / name)


def load(module, name, part="mimi", prefix=""):
    state = torch.load(WORK / name, map_location="cpu")[part]
    module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def freeze(mimi):
    """Rounds all but the quantiser to bfloat16, as it will be stored; only the decoder learns from here."""
    mimi.eval()
    for name, p in mimi.state_dict().items():
        if not name.startswith("quantizer."):
            p.copy_(p.to(torch.bfloat16).float())
    for part in (mimi.encoder, mimi.encoder_transformer, mimi.downsample, mimi.quantizer):
        part.requires_grad_(False)
    for rvq in (mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest):
        rvq.output_proj.requires_grad_(True)  # only the decoder uses these


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
        return functional.cross_entropy(logits, labels.reshape(-1), ignore_index=-1)


def mel_matrix(n_fft, bands):
    def mel(f):
        return 2595 * np.log10(1 + f / 700)

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
        sx, sy = (torch.stft(s[:, 0], n, n // 4, window=w, return_complex=True).abs() / w.sum() * 2 for s in (x, y))
        lx, ly = ((m @ s).clamp_min(2e-4).log() for s in (sx, sy))
        total = total + (lx - ly).abs().mean()
    return total / len(MELS)


def waveform(x, y):
    """Relative error of the samples, as they are and with the treble lifted."""
    total = 0
    for k in (0, 0.9):
        a, b = (s[..., 1:] - k * s[..., :-1] for s in (x, y))
        total = total + (a - b).pow(2).mean() / a.pow(2).mean().clamp_min(1e-5)
    return total / 2
