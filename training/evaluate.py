"""Measures a nano folder end to end on voices and noises it has never met.

    python evaluate.py FOLDER [--count 300] [--seed 5] [--out REPORT]

The recordings of `heldout` (WORK/eval/*.wav) are played to the model frame by frame through Kyutai's own package
(greedy, float32), and what comes back is judged:
  right        per turn: exactly the wanted reply, once, begins within a second of the
               end of the speech; per recording: all turns are right and nothing else is said
  delay        when the reply's sound starts after the end of the speech
  WER, MOS     of the reply's sound, see `judge`
Writes REPORT.json and REPORT.md.
"""

import argparse
import json
import pathlib

import numpy as np
import soundfile
import torch
from check_official import load
from common import FRAME, RATE, TEXT_EPAD, TEXT_PAD, WORK, exchanges
from heldout import KINDS, recordings
from judge import Judge, errors, plain

TOGETHER = 32


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
            silent = tokens is None
            text.append(torch.full((len(wavs),), TEXT_PAD) if silent else tokens[:, 0, 0])
            sound.append(torch.zeros(len(wavs), FRAME) if silent else mimi.decode(tokens[:, 1:])[:, 0])
    return torch.stack(text, 1).numpy(), torch.cat(sound, 1).numpy()


def play_all(mimi, lm, found):
    """Adds `text` [frames] and `sound` [samples] to every recording; those of like length go together."""
    order = sorted(found, key=lambda r: len(r["wav"]))
    for s in range(0, len(order), TOGETHER):
        group = order[s : s + TOGETHER]
        longest = max(len(r["wav"]) for r in group)
        text, sound = play(mimi, lm, [np.pad(r["wav"], (0, longest - len(r["wav"]))) for r in group])
        for r, t, y in zip(group, text, sound, strict=True):
            n = len(r["wav"])
            r["text"], r["sound"] = t[: n // FRAME], y[:n]


def reply_spans(tokens):
    """Frame ranges of the spoken replies: from one token before the words to 12 frames after."""
    at = np.flatnonzero((tokens != TEXT_PAD) & (tokens != TEXT_EPAD))
    if not len(at):
        return []
    cuts = np.flatnonzero(np.diff(at) > 14)
    return [(max(0, a - 1), b + 12) for a, b in zip(at[np.r_[0, cuts + 1]], at[np.r_[cuts, len(at) - 1]], strict=True)]


def judged(recording, tokenizer):
    """What was said when, against what was wanted; `spoken`: the text and the sound of every reply."""
    spans = reply_spans(recording["text"])
    heard = [tokenizer.decode([int(t) for t in recording["text"][u:v] if t not in (TEXT_PAD, TEXT_EPAD)]) for u, v in spans]
    delays, turns = [], []
    for end, want in zip(recording["ends"], recording["wanted"], strict=True):
        first = end // FRAME
        said = [plain(h) for (u, _), h in zip(spans, heard, strict=True) if first <= u <= first + 12]
        turns.append(said == [plain(want)])
        loud = np.flatnonzero(np.abs(recording["sound"][end:]) > 0.02)
        delays.append(float(loud[0]) / RATE if len(loud) else None)
    right = [plain(h) for h in heard] == [plain(w) for w in recording["wanted"]]
    spoken = [(h, recording["sound"][u * FRAME : v * FRAME]) for (u, v), h in zip(spans, heard, strict=True)]
    case = {key: recording[key] for key in ("kind", "said", "voice", "wanted")}
    return case | {"heard": heard, "turns": turns, "right": right, "delays": delays}, spoken


def rated(spoken, most):
    """The recogniser's and DistillMOS' word on up to `most` replies {text: sounds}, every text in turn."""
    judge, found = Judge(), []
    while len(found) < most and any(spoken.values()):
        for reply, sounds in spoken.items():
            if sounds and len(found) < most:
                text, mos = judge(sounds.pop(0))
                wrong = errors(plain(reply), plain(text))
                found.append({"reply": reply, "recognised": text, "errors": wrong, "words": len(plain(reply)), "mos": mos})
    return found


def report(folder, cases, replies):
    sorry = exchanges()["fallback"]
    talk = [c for c in cases if c["wanted"]]
    turns = [turn for c in talk for turn in zip(c["turns"], c["wanted"], c["voice"], [c["kind"]] * len(c["turns"]), strict=True)]
    delays = [d for c in talk if c["right"] for d in c["delays"] if d is not None]

    def share(keep):
        kept = [right for right, *turn in turns if keep(*turn)]
        return sum(kept) / max(1, len(kept))

    def whole(some):
        return sum(c["right"] for c in some) / max(1, len(some))

    voices = sorted({voice for _, _, voice, _ in turns})
    return {
        "folder_mb": sum(f.stat().st_size for f in pathlib.Path(folder).iterdir()) / 1e6,
        "recordings": len(cases),
        "turns": len(turns),
        "right": share(lambda wanted, voice, kind: True),
        "right_recordings": whole(talk),
        "right_known": share(lambda wanted, voice, kind: wanted != sorry),
        "right_unknown": share(lambda wanted, voice, kind: wanted == sorry),
        "right_nobody": whole([c for c in cases if not c["wanted"]]),
        "by_condition": {k: share(lambda wanted, voice, kind, k=k: kind == k) for k in KINDS},
        "by_voice": {
            v: [share(lambda wanted, voice, kind, v=v: voice == v), sum(voice == v for _, _, voice, _ in turns)] for v in voices
        },
        "delay_s": {
            "median": float(np.median(delays)) if delays else None,
            "p95": float(np.percentile(delays, 95)) if delays else None,
        },
        "wer": sum(x["errors"] for x in replies) / max(1, sum(x["words"] for x in replies)),
        "mos": {
            "mean": float(np.mean([x["mos"] for x in replies])) if replies else None,
            "worst": min((x["mos"] for x in replies), default=None),
        },
        "rated": replies,
        "wrong": [c for c in cases if not c["right"]],
    }


def table(r, talks):
    """The report in Markdown; `talks` of its recordings have somebody speaking in them."""

    def pct(x):
        return f"{100 * x:.1f} %"

    delay, mos = r["delay_s"], r["mos"]
    rows = [
        ("measured on held-out voices and noise", ""),
        ("---", "---"),
        (f"right reply, all turns ({r['turns']})", pct(r["right"])),
        ("known prompts", pct(r["right_known"])),
        ("unknown sentences answered as not understood", pct(r["right_unknown"])),
        (f"recordings without any mistake (one to three turns, {talks})", pct(r["right_recordings"])),
        ("stays silent when nobody speaks", pct(r["right_nobody"])),
        *((f"condition: {kind}", pct(share)) for kind, share in r["by_condition"].items()),
        *((f"voice: {voice} ({n})", pct(share)) for voice, (share, n) in r["by_voice"].items()),
        ("reply starts after the end of the speech, median / 95th percentile", f"{delay['median']:.2f} / {delay['p95']:.2f} s"),
        (f"word error rate of the spoken replies ({len(r['rated'])} replies)", pct(r["wer"])),
        ("DistillMOS of the spoken replies, mean / worst", f"{mos['mean']:.2f} / {mos['worst']:.2f}"),
        ("size of the folder", f"{r['folder_mb']:.1f} MB"),
    ]
    return "".join(f"| {what} | {value} |\n" for what, value in rows)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("folder")
    ap.add_argument("--count", type=int, default=300)
    ap.add_argument("--seed", type=int, default=5)
    ap.add_argument("--out", default=str(WORK / "report"))
    ap.add_argument("--judge", type=int, default=80, help="how many replies to transcribe and rate; 0: no table either")
    a = ap.parse_args()
    torch.set_num_threads(1)
    mimi, lm, tokenizer = load(a.folder)
    found = recordings(a.count, a.seed)
    play_all(mimi, lm, found)
    (WORK / "eval").mkdir(exist_ok=True)
    cases, spoken = [], {}
    for n, recording in enumerate(found):
        case, replies = judged(recording, tokenizer)
        cases.append(case)
        for text, sound in replies if case["right"] else []:
            spoken.setdefault(text, []).append(sound)
        soundfile.write(WORK / f"eval/{n:03d}-in.wav", recording["wav"], RATE)
        soundfile.write(WORK / f"eval/{n:03d}-out.wav", recording["sound"], RATE)
    r = report(a.folder, cases, rated(spoken, a.judge))
    pathlib.Path(a.out + ".json").write_text(json.dumps(r, indent=1) + "\n")
    if not r["rated"]:
        print(json.dumps({k: v for k, v in r.items() if k not in ("rated", "wrong")}, indent=1))
        return
    text = table(r, sum(bool(c["wanted"]) for c in cases))
    pathlib.Path(a.out + ".md").write_text(text)
    print(text)
    for c in r["wrong"][:25]:
        print(c["kind"], c["voice"], c["said"], "->", c["heard"])


if __name__ == "__main__":
    main()
