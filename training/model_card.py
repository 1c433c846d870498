"""Writes MODEL_CARD.md into a nano folder from reports of evaluate.py: the first whole, others with other seeds in a sentence.

python model_card.py FOLDER REPORT.json [REPORT.json ...]
"""

import json
import pathlib
import sys

from common import exchanges

TEXT = """---
license: mit
---

# nano

A Moshi in Kyutai's file format, small enough to live in a package: {parameters}.
It is a test pattern with a voice, not a conversationalist. It listens, waits
for the end of what you say, answers one of the prompts below with its one
fixed reply, and says "{fallback}" to anything else. It knows no other English,
holds no conversation and cannot be talked into anything.

- Codec: `mimi.safetensors` (24 kHz, 12.5 frames a second, 8 codebooks of 512).
  The decoder only knows the voice of the replies.
- Language model: `model.safetensors` (bfloat16), 16 audio streams and one text
  stream, delays as in Moshi. `tokenizer.model`: SentencePiece, 400 pieces,
  padding 3, end of padding 0.
- Kyutai's `moshi` package loads the folder unmodified.

## Training data and licences

Everything it heard is synthetic; no recording of a person was used.

| source | used for | licence |
|---|---|---|
| hibari-tts 0.2.1, voice heart | the replies, part of the users | Apache-2.0 |
| Kokoro-82M, 23 English voices and mixes of them | users | Apache-2.0 |
| espeak-ng | users | GPL-3.0 (the program) |
| flite voices kal, kal16, awb, slt | users | BSD style (CMU) |
| festival voices kallpc16k, slt | users | free, festvox terms |
| the same voices with another pitch, melody, vocal tract and breath (WORLD vocoder) | users | as above |

Sentences were written for this purpose (`training/exchanges.json`,
`training/sentences.py`). Noise and rooms are computed. The weights carry the
licence of this repository.

## Measured

Voices and kinds of noise that never occurred in training (Kokoro af_nova,
am_eric, am_puck, bf_lily, bm_lewis; flite rms; festival kdlpc16k; four espeak-ng
variants; blue noise, clicks, surf), greedy decoding in float32 with Kyutai's
package, files in and files out. {bars}

{table}

"Right" means: exactly the wanted words, once, beginning within a second of the
end of the speech. Signal to noise ratios are counted from the power of the speech.
The word error rate is that of a small recogniser (Whisper tiny.en) and includes
its own mistakes; it and DistillMOS are taken on replies from recordings without
any mistake. These voices and noises were never trained on, but an early look at
results on them led to two more kinds of training noise (swelling noise, knocks).

Read these figures with care.{others} The mistakes of earlier versions in the first
two samples decided what training changed. "Right" ignores a second reply that comes more than about a second late (the row
"recordings without any mistake" does not). Where the question starts within the recording can change the answer.
`training/README.md` says what these weights went through.

## Prompts

{prompts}
"""


def main(folder, report, *others):
    from check_official import load

    mimi, lm, _ = load(folder)

    def size(m):
        return f"{sum(p.numel() for p in m.parameters()) / 1e6:.1f}"

    known = exchanges()
    r = json.loads(pathlib.Path(report).read_text())
    bars = {
        "right replies 90 %": r["right"] >= 0.9,
        "word error rate 10 %": r["wer"] <= 0.1,
        "DistillMOS 3.0": r["mos"]["mean"] >= 3,
        "25 MB": r["folder_mb"] <= 25,
    }
    bars = "The bars were: " + ", ".join(f"{k} ({'reached' if ok else 'not reached'})" for k, ok in bars.items()) + "."

    def pct(x):
        return f"{100 * x:.1f} %"

    more = []
    for name, r in zip(
        ("second", "third", "fourth"), map(json.loads, (pathlib.Path(other).read_text() for other in others)), strict=False
    ):
        judged = f", word errors {pct(r['wer'])} and DistillMOS {r['mos']['mean']:.2f}" if r["rated"] else ""
        more.append(
            f" A {name} sample of {r['turns']} turns, with another seed,\ngave {pct(r['right'])} right replies "
            f"({pct(r['right_known'])} of the known prompts, {pct(r['right_unknown'])} of the unknown sentences){judged}."
        )
    rows = ["| say | it answers |", "|---|---|"]
    rows += [f"| {' / '.join(e['prompts'])} | {e['reply']} |" for e in known["exchanges"]]
    rows.append(f"| anything else | {known['fallback']} |")
    pathlib.Path(folder, "MODEL_CARD.md").write_text(
        TEXT.format(
            parameters=f"{size(lm)} million parameters and a codec of {size(mimi)} million",
            fallback=known["fallback"],
            bars=bars,
            others="".join(more),
            table=pathlib.Path(report).with_suffix(".md").read_text().strip(),
            prompts="\n".join(rows),
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
