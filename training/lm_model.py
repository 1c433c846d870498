"""Pieces of the language model's training: ears that know the codec, which reply is being given, and the losses."""

import itertools

import numpy as np
import torch
from build_sessions import load_codec, load_tokenizer
from common import PHONEMES, TEXT_EPAD, TEXT_PAD, exchanges
from lm_data import corrupt
from moshi.models.lm_utils import _delay_sequence
from torch import nn
from torch.nn import functional

SUB = 4  # phoneme steps in one frame
WRONG_EARS = 0.15


class Intents:
    """Which reply is being given: text [B,T] -> its number [B,T] from three frames before its first word
    to its last word, -1 elsewhere."""

    def __init__(self):
        tokenizer, known = load_tokenizer(), exchanges()
        replies = [e["reply"] for e in known["exchanges"]] + [known["fallback"]]
        self.number = {tuple(t for w in r.split() for t in tokenizer.encode(w)): i for i, r in enumerate(replies)}
        self.count = len(replies)

    def __call__(self, text):
        out = torch.full(text.shape, -1)
        for row, numbers in zip(text.tolist(), out, strict=True):
            words = [t for t, x in enumerate(row) if x not in (TEXT_PAD, TEXT_EPAD)]
            starts = [i for i, t in enumerate(words) if i == 0 or t - words[i - 1] > 12]
            for a, b in itertools.pairwise([*starts, len(words)]):
                numbers[max(0, words[a] - 3) : words[b - 1] + 1] = self.number[tuple(row[t] for t in words[a:b])]
        return out


def continuing(text):
    """Frames of a reply after its first word, up to its last: text [B,T] -> bool [B,T]."""
    inside = torch.zeros(text.shape, dtype=torch.bool)
    for row, mask in zip(text.tolist(), inside, strict=True):
        words = [t for t, x in enumerate(row) if x not in (TEXT_PAD, TEXT_EPAD)]
        for a, b in itertools.pairwise(words):
            if b - a <= 12:
                mask[a + 1 : b + 1] = True
    return inside


class Ears(nn.Module):
    """The user's codes are heard as what they stand for: embedding of code c of codebook k =
    free table[k][c] + P . (its vector in the codec), so neighbours in the codec are neighbours here
    from the first step. P is shared by the codebooks of one delay, and folded into the tables when saved."""

    def __init__(self, lm, codec):
        super().__init__()
        mimi = load_codec(codec)
        with torch.no_grad():
            vectors = [
                rvq.output_proj(layer.embedding.T[None])[0].T
                for rvq in (mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest)
                for layer in rvq.vq.layers
            ]
            vectors = [v - v.mean(0) for v in vectors]
            power = sum(v.var(0).mean() for v in vectors)
        self.register_buffer("vectors", torch.stack(vectors) / power.sqrt())
        self.p = nn.ParameterList(
            nn.Parameter(torch.randn(self.vectors.shape[2], lm.dim) / self.vectors.shape[2] ** 0.5) for _ in range(2)
        )
        self.embs = list(lm.emb[8:])
        for k, emb in enumerate(self.embs):
            with torch.no_grad():
                emb.weight[:512] *= 0.1
            emb.register_forward_hook(lambda module, args, out, k=k: self.add(k, args[0], out))

    def tables(self):
        return [v @ self.p[min(k, 1)] for k, v in enumerate(self.vectors)]

    def listen(self):
        """Once a step, before the model is called."""
        self.now = self.tables()

    def add(self, k, codes, out):
        known = (codes >= 0) & (codes < 512)
        return out + known[..., None] * functional.embedding(codes.clamp(0, 511), self.now[k])

    @torch.no_grad()
    def fold(self, state, sign=1):
        """The model's own tables with P inside (sign -1: taken out again)."""
        for k, table in enumerate(self.tables()):
            name = f"emb.{8 + k}.weight"
            state[name] = state[name].clone()
            state[name][:512] += sign * table
        return state


class Losses(nn.Module):
    """What the language model is taught with, and the two heads that are thrown away: phonemes, and which reply it is."""

    def __init__(self, lm, dropout):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(lm.dim, 256), nn.GELU(), nn.Linear(256, SUB * (len(PHONEMES) + 1)))
        self.intents = Intents()
        self.intent = nn.Linear(lm.dim, self.intents.count)
        lm.transformer.layers[2].register_forward_hook(self.keep)
        if dropout:

            def drop(module, args, out):
                return functional.dropout(out, dropout, module.training)

            for layer in lm.transformer.layers:
                layer.self_attn.register_forward_hook(drop)
                layer.gating.register_forward_hook(drop)

    def keep(self, module, args, out):
        self.middle = out

    def forward(self, lm, codes, phones, labels, amount, speak=True):
        """A batch of sessions -> the losses by name; those that cost most time only with `speak`.

        text; intent: the number of the reply; ce: the phonemes where their moments are known; ctc: where they are not;
        cb0 and cb: the reply's codebooks.
        """
        b, _, t = codes.shape
        initial = lm._get_initial_token().expand(b, -1, -1)
        full = torch.cat([initial, _delay_sequence(lm.delays, codes, initial)], 2)
        target = full[:, :, 1:]
        text, heard = target[:, 0], corrupt(full[:, :, :-1], lm.card, amount)
        # A reply once begun is finished, whatever the ears say: some rows hear another row's user, and learn only that.
        wrong = (torch.rand(b) < WRONG_EARS)[:, None]
        heard[:, 9:] = torch.where(wrong[..., None], heard[:, 9:].roll(1, 0), heard[:, 9:])
        labels = torch.where(wrong, labels.roll(1, 0), labels)
        phones = [phones[i - bool(w)] for i, w in enumerate(wrong)]
        learnt = ~wrong | continuing(text)
        with torch.autocast("cpu", torch.bfloat16):
            hidden, text_logits = lm.forward_text(heard)
            phone_logits = self.head(self.middle).float()
            intent_logits = self.intent(hidden).float()
        found = {"text": text_loss(text_logits.float().reshape(b * t, -1), text.reshape(-1), learnt.reshape(-1))}
        # One word shows which reply was chosen; this asks for it in every frame, so that it is known before and kept to the end.
        which = torch.where(learnt, self.intents(text), -1)
        found["intent"] = functional.cross_entropy(intent_logits.reshape(b * t, -1), which.reshape(-1), ignore_index=-1)
        log_p = phone_logits.reshape(b, t * SUB, -1).log_softmax(-1)
        # A frame is heard one step after it was spoken, its upper codebooks two.
        late = functional.pad(labels, (6, 0), value=-1)[:, : t * SUB]
        found["ce"] = functional.nll_loss(log_p.reshape(b * t * SUB, -1), late.reshape(-1), ignore_index=-1)
        if speak:
            # The depth transformer learns on the frames of the replies and a few silent ones.
            near = functional.max_pool1d((text != TEXT_PAD).float()[:, None], 17, 1, 8)[:, 0] > 0
            pick = (near & (torch.rand(b, t) < 0.4)) | (torch.rand(b, t) < 0.04)
            pick &= learnt
            pick[:, 0] = False  # delayed books are still initial there
            found["cb0"], found["cb"] = audio_losses(lm, hidden[pick], target.transpose(1, 2)[pick])
            found["ctc"] = ctc_loss(log_p, phones)
        return found


def text_loss(logits, text, learnt):
    """Padding is most of the frames, and counts less."""
    weight = torch.where(text == TEXT_PAD, 0.25, 1.0)
    weight = torch.where(text == TEXT_EPAD, 0.6, weight) * learnt
    return (functional.cross_entropy(logits, text, reduction="none") * weight).sum() / weight.sum()


def audio_losses(lm, hidden, frames):
    """Cross entropy of the first codebook, and the mean of the others, on frames [N,17] after hidden [N,D]."""
    frames = frames.T[None]
    with torch.autocast("cpu", torch.bfloat16):
        logits = lm.forward_depformer_training(frames, hidden[None])
    each = functional.cross_entropy(logits.float()[0].reshape(-1, lm.card), frames[0, 1:9].reshape(-1), reduction="none")
    each = each.view(8, -1).mean(1)
    return each[0], each[1:].mean()


def ctc_loss(log_p, phones):
    """log_p [B,4T,classes] against the phonemes of each row, by phoneme."""
    lengths = torch.tensor([len(p) for p in phones])
    wanted, steps = torch.tensor(np.concatenate(phones)).long(), torch.full((len(phones),), log_p.shape[1])
    each = functional.ctc_loss(log_p.transpose(0, 1), wanted, steps, lengths, reduction="none", zero_infinity=True)
    return each.sum() / max(1, lengths.sum())
