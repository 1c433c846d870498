"""Trains the language model (Kyutai's LMModel) on the sessions of build_sessions.py.

    python train_lm.py [--minutes 60] [--batch 20] [--resume]
    torchrun --nproc-per-node 2 train_lm.py ...          a process on each of two cores, with the mean of their gradients

The minutes are of CPU time, so a busy machine changes nothing. Writes lm.pt every two minutes. Shards SESSIONS*.npz that appear while it runs
are read as they come.
"""
import argparse
import math
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common import PHONEMES, TEXT_EPAD, TEXT_PAD, WORK, build_lm, exchanges
from together import agree, join, mean_gradients, rank

SUB = 4                                                          # CTC steps in one frame
WRONG_EARS = .15
OUT = "lm"


class Sessions:
    def __init__(self, pattern):
        self.pattern, self.seen = pattern, {}
        self.reload()

    def reload(self):
        files = {f: f.stat().st_mtime for f in sorted(WORK.glob(self.pattern)) if ".tmp." not in f.name}
        if files == self.seen or not files:
            return
        self.seen, parts, self.phones, labels = files, [], [], []
        for f in files:
            d = np.load(f)
            parts.append(np.concatenate([d["text"][:, None], d["reply"], d["user"]], 1))
            labels.append(d["labels"])
            self.phones += np.split(d["phones"], np.cumsum(d["lengths"])[:-1])
        self.codes, self.labels = torch.tensor(np.concatenate(parts)), torch.tensor(np.concatenate(labels))

    def batch(self, n, rng):
        i = rng.integers(len(self.codes), size=n)
        return self.codes[i].long(), [self.phones[j] for j in i], self.labels[i].long()


def corrupt(x, card, amount):
    """What the ears and the memory hear in training is never quite what was said; less so towards the end."""
    x = x.clone()
    b, _, t = x.shape
    user, own = x[:, 9:], x[:, 1:9]
    noise = torch.randint(card, user.shape)
    swap = amount * torch.rand(b, 1, 1) * torch.tensor([.03] + [.06] * 7)[:, None]
    user[:] = torch.where(torch.rand(user.shape) < swap, noise, user)
    drop = amount * torch.rand(b, 1, 1) * torch.tensor([.05] + [.2] * 7)[:, None]
    user[:] = torch.where(torch.rand(user.shape) < drop, -1, user)
    deaf = torch.where(torch.rand(b) < .15 * amount, torch.randint(2, 9, (b,)), 8)     # upper codebooks missing
    user[:] = torch.where(torch.arange(8)[None, :, None] >= deaf[:, None, None], -1, user)
    own[:] = torch.where(torch.rand(own.shape) < .03, torch.randint(card, own.shape), own)
    return x


class Intents:
    """Which reply is being given: text [B,T] -> its number [B,T] from three frames before its first word
    to its last word, -1 elsewhere."""
    def __init__(self):
        from build_sessions import load_tokenizer
        tokenizer, known = load_tokenizer(), exchanges()
        replies = [e["reply"] for e in known["exchanges"]] + [known["fallback"]]
        self.number = {tuple(t for w in r.split() for t in tokenizer.encode(w)): i for i, r in enumerate(replies)}
        self.count = len(replies)

    def __call__(self, text):
        out = torch.full(text.shape, -1)
        for row, numbers in zip(text.tolist(), out):
            words = [t for t, x in enumerate(row) if x not in (TEXT_PAD, TEXT_EPAD)]
            starts = [i for i, t in enumerate(words) if i == 0 or t - words[i - 1] > 12]
            for a, b in zip(starts, starts[1:] + [len(words)]):
                numbers[max(0, words[a] - 3):words[b - 1] + 1] = self.number[tuple(row[t] for t in words[a:b])]
        return out


def continuing(text):
    """Frames of a reply after its first word, up to its last: text [B,T] -> bool [B,T]."""
    inside = torch.zeros(text.shape, dtype=torch.bool)
    for row, mask in zip(text.tolist(), inside):
        words = [t for t, x in enumerate(row) if x not in (TEXT_PAD, TEXT_EPAD)]
        for a, b in zip(words, words[1:]):
            if b - a <= 12:
                mask[a + 1:b + 1] = True
    return inside


class Ears(nn.Module):
    """The user's codes are heard as what they stand for: embedding of code c of codebook k =
    free table[k][c] + P . (its vector in the codec), so neighbours in the codec are neighbours here
    from the first step. P is shared by the codebooks of one delay, and folded into the tables when saved."""

    def __init__(self, lm, codec):
        super().__init__()
        from build_sessions import load_codec
        mimi = load_codec(codec)
        with torch.no_grad():
            vectors = [rvq.output_proj(layer.embedding.T[None])[0].T
                       for rvq in (mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest) for layer in rvq.vq.layers]
            vectors = [v - v.mean(0) for v in vectors]
            power = sum(v.var(0).mean() for v in vectors)
        self.register_buffer("vectors", torch.stack(vectors) / power.sqrt())
        self.p = nn.ParameterList(nn.Parameter(torch.randn(self.vectors.shape[2], lm.dim) / self.vectors.shape[2] ** .5) for _ in range(2))
        self.embs = list(lm.emb[8:])
        for k, emb in enumerate(self.embs):
            with torch.no_grad():
                emb.weight[:512] *= .1
            emb.register_forward_hook(lambda module, args, out, k=k: self.add(k, args[0], out))

    def tables(self):
        return [v @ self.p[min(k, 1)] for k, v in enumerate(self.vectors)]

    def listen(self):
        """Once a step, before the model is called."""
        self.now = self.tables()

    def add(self, k, codes, out):
        known = (codes >= 0) & (codes < 512)
        return out + known[..., None] * F.embedding(codes.clamp(0, 511), self.now[k])

    @torch.no_grad()
    def fold(self, state, sign=1):
        """The model's own tables with P inside (sign -1: taken out again)."""
        for k, table in enumerate(self.tables()):
            name = f"emb.{8 + k}.weight"
            state[name] = state[name].clone()
            state[name][:512] += sign * table
        return state


class Trainer:
    def __init__(self, lm, dropout):
        self.lm = lm
        n = SUB * (len(PHONEMES) + 1)
        self.head = nn.Sequential(nn.Linear(lm.dim, 256), nn.GELU(), nn.Linear(256, n))
        self.intents = Intents()
        self.intent = nn.Linear(lm.dim, self.intents.count)
        lm.transformer.layers[2].register_forward_hook(self.keep)
        if dropout:
            drop = lambda module, args, out: F.dropout(out, dropout, module.training)
            for layer in lm.transformer.layers:
                layer.self_attn.register_forward_hook(drop)
                layer.gating.register_forward_hook(drop)

    def keep(self, module, args, out):
        self.middle = out

    def losses(self, codes, phones, labels, amount, speak=True):
        from moshi.models.lm_utils import _delay_sequence
        lm = self.lm
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
            ctc_logits = self.head(self.middle).float()
            intent_logits = self.intent(hidden).float()
        weight = torch.where(text == TEXT_PAD, .25, 1.)
        weight = (torch.where(text == TEXT_EPAD, .6, weight) * learnt).reshape(-1)
        lt = F.cross_entropy(text_logits.float().reshape(b * t, -1), text.reshape(-1), reduction="none")
        lt = (lt * weight).sum() / weight.sum()
        # One word shows which reply was chosen; this asks for it in every frame, so that it is known before and kept to the end.
        which = torch.where(learnt, self.intents(text), -1)
        li = F.cross_entropy(intent_logits.reshape(b * t, -1), which.reshape(-1), ignore_index=-1)
        # CTC is worth its time only where the moments are not known.
        logp = ctc_logits.reshape(b, t * SUB, -1).log_softmax(-1).transpose(0, 1)
        # A frame is heard one step after it was spoken, its upper codebooks two.
        late = F.pad(labels, (6, 0), value=-1)[:, :t * SUB]
        le = F.nll_loss(logp.transpose(0, 1).reshape(b * t * SUB, -1), late.reshape(-1), ignore_index=-1)
        if not speak:
            return lt, li, torch.zeros(8), torch.zeros(()), le
        # The depth transformer learns on the frames of the replies and a few silent ones.
        near = F.max_pool1d((text != TEXT_PAD).float()[:, None], 17, 1, 8)[:, 0] > 0
        pick = (near & (torch.rand(b, t) < .4)) | (torch.rand(b, t) < .04)
        pick &= learnt
        pick[:, 0] = False                                       # delayed books are still initial there
        seq, hid = target.transpose(1, 2)[pick].T[None], hidden[pick][None]
        with torch.autocast("cpu", torch.bfloat16):
            logits = lm.forward_depformer_training(seq, hid)
        la = F.cross_entropy(logits.float()[0].reshape(-1, lm.card), seq[0, 1:9].reshape(-1), reduction="none").view(8, -1).mean(1)
        lengths = torch.tensor([len(p) for p in phones])
        lc = F.ctc_loss(logp, torch.tensor(np.concatenate(phones)).long(), torch.full((b,), t * SUB), lengths,
                        reduction="none", zero_infinity=True).sum() / max(1, lengths.sum())
        return lt, li, la, lc, le


@torch.no_grad()
def greedy(lm, user):
    """Plays user codes [B,8,T] to the model; -> text [B,T'], audio [B,8,T'], both greedy."""
    from moshi.models import LMGen
    gen = LMGen(lm, use_sampling=False)
    text, audio = [], []
    with gen.streaming(len(user)):
        for i in range(user.shape[2]):
            for _ in range(2 if i == 0 else 1):
                out = gen.step(user[:, :, i:i + 1])
            if out is not None:
                text.append(out[:, 0, 0]), audio.append(out[:, 1:, 0])
    return torch.stack(text, 1), torch.stack(audio, 2)


def right(texts, wanted):
    """Share of sessions in which exactly the wanted words were said, none more."""
    words = lambda row: [int(x) for x in row if x not in (TEXT_PAD, TEXT_EPAD)]
    return float(np.mean([words(a) == words(b) for a, b in zip(texts, wanted)]))


def save(lm, trainer, opt, ears, spent):
    torch.save({"lm": ears.fold(lm.state_dict()), "ears": ears.state_dict(), "head": trainer.head.state_dict(), "intent": trainer.intent.state_dict(), "opt": opt.state_dict(), "spent": spent},
               WORK / f"{OUT}.tmp")
    (WORK / f"{OUT}.tmp").rename(WORK / f"{OUT}.pt")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--minutes", type=float, default=60)
    ap.add_argument("--batch", type=int, default=20)
    ap.add_argument("--lr", type=float, default=1.2e-3)
    ap.add_argument("--dropout", type=float, default=.1)
    ap.add_argument("--resume", action="store_true")
    ap.add_argument("--pattern", default="sessions*.npz")
    ap.add_argument("--codec", default=str(WORK / "codec_frozen.pt"))
    ap.add_argument("--out", default="lm")
    ap.add_argument("--again", action="store_true", help="from the weights of --out, with a new optimiser and the whole schedule")
    ap.add_argument("--relearn", action="store_true", help="replies with new codes: the depth transformer above all")
    ap.add_argument("--speak", type=float, default=.5, help="share of the time in which every step learns the replies' sound; later every fourth")
    ap.add_argument("--threads", type=int, default=1)
    a = ap.parse_args()
    global OUT
    OUT = a.out
    torch.manual_seed(0), random.seed(0)
    torch.set_num_threads(a.threads)
    join()
    rng = np.random.default_rng(rank())
    lm = build_lm()
    trainer, ears = Trainer(lm, a.dropout), Ears(lm, a.codec)
    params = [*lm.parameters(), *trainer.head.parameters(), *trainer.intent.parameters(), *ears.parameters()]
    slow = {id(p) for name, p in lm.named_parameters() if not name.startswith(("depformer", "linears"))} if a.relearn else set()
    opt = torch.optim.AdamW([{"params": [p for p in params if p.dim() > 1 and p.shape[0] > 1], "weight_decay": .08},
                             {"params": [p for p in params if p.dim() <= 1 or p.shape[0] == 1], "weight_decay": 0}],
                            lr=a.lr, betas=(.9, .97))
    if a.relearn:
        opt = torch.optim.AdamW([{"params": [p for p in params if id(p) not in slow]},
                                 {"params": [p for p in params if id(p) in slow], "scale": .05}], lr=a.lr, betas=(.9, .97), weight_decay=.02)
    spent = 0
    if a.resume or a.again or a.relearn:
        d = torch.load(WORK / f"{a.out}.pt")
        vectors = ears.vectors.clone()                           # of this codec, maybe a newer one
        ears.load_state_dict(d["ears"])
        lm.load_state_dict(ears.fold(d["lm"], -1)), trainer.head.load_state_dict(d["head"])
        ears.vectors.copy_(vectors)
        if "intent" in d:
            trainer.intent.load_state_dict(d["intent"])
        if a.resume:
            opt.load_state_dict(d["opt"])
            spent = d["spent"]
    train, held = Sessions(a.pattern), Sessions(a.pattern.replace("sessions", "heldout"))
    torch.manual_seed(rank())                                      # the models are alike, what they see is not
    start, step, saved, tested, sums = time.process_time() - spent, 0, time.process_time(), time.process_time(), {}
    while (done := agree((time.process_time() - start) / (60 * a.minutes))) < 1:
        lr = a.lr * min(1, (step + 1) / (20 if spent else 150)) * (.02 + .98 * (.5 + .5 * math.cos(math.pi * done)))
        for g in opt.param_groups:
            g["lr"] = lr * g.get("scale", 1)
        lm.train(), ears.listen()
        lt, li, la, lc, le = trainer.losses(*train.batch(a.batch, rng), 0 if a.relearn else max(0, 1 - done),
                                            speak=a.relearn or done < a.speak or step % 4 == 0)   # the replies are known by heart early
        phonetic = .3 * (1 - done) + .03
        loss = 10 * lt + .5 * li + (4 if a.relearn else 1) * (.25 * la[0] + .12 * la[1:].mean()) + phonetic * (.5 * lc + 2 * le)
        opt.zero_grad()
        loss.backward()
        mean_gradients(params)
        nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        step += 1
        for k, v in dict(text=lt, intent=li, cb0=la[0], cb=la[1:].mean(), ctc=lc, ce=le).items():
            sums.setdefault(k, []).append(float(v.detach())) if float(v.detach()) else None
        if time.process_time() - saved > 120:
            saved = time.process_time()
            if not rank():
                save(lm, trainer, opt, ears, time.process_time() - start)
            train.reload(), held.reload()
        if rank():
            continue
        if step % 50 == 0:
            print(step, f"{(time.process_time() - start) / 60:.1f}min", *(f"{k} {np.mean(v):.3f}" for k, v in sums.items()),
                  len(train.codes), flush=True)
            sums = {}
        if time.process_time() - tested > 420 and done > .08:
            lm.eval(), ears.listen()
            for name, s in (("train", train), ("heldout", held)):
                if s.seen:
                    c = s.codes[-48:].long()
                    text, audio = greedy(lm, c[:, 9:])
                    print(f"  {name}: sessions right {right(text.tolist(), c[:, 0].tolist()):.2f}", flush=True)
            tested = time.process_time()
    lm.eval()
    if not rank():
        save(lm, trainer, opt, ears, time.process_time() - start)


if __name__ == "__main__":
    main()
