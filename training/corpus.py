"""Reads what synthesise.py wrote, and makes the reply waveforms."""

import functools
import json

import numpy as np
from common import FRAME, RATE, WORK, exchanges, phone_ids


@functools.lru_cache(None)
def phonemizer():
    from hibari import Hibari

    return Hibari()


@functools.lru_cache(None)
def phones(text):
    return phone_ids("".join(phonemizer().phonemize(text)))


class Corpus:
    """Utterances of one split; wav(i) gives float32 samples with a peak of 0.9."""

    def __init__(self, split):
        self.items, self.data = [], []
        for index in sorted((WORK / "audio").glob(f"*-{split}-*.jsonl")):
            try:
                self.data.append(np.memmap(index.with_suffix(".i16"), np.int16, "r"))
            except ValueError:  # still empty
                continue
            for line in index.read_text().splitlines(keepends=True):
                if not line.endswith("\n"):
                    break
                self.items.append(dict(json.loads(line), file=len(self.data) - 1))

    def __len__(self):
        return len(self.items)

    def wav(self, i):
        it = self.items[i]
        pcm = self.data[it["file"]][it["start"] : it["start"] + it["length"]]
        return pcm.astype(np.float32) / 32768

    def phones(self, i):
        return phones(self.items[i]["text"])

    def labels(self, i, seconds, step=0.02, lag=0.02):
        """Phoneme class of every 20 ms (0: none), a little late as a causal encoder needs;
        None where the engine does not tell. A last phoneme ends with the sound."""
        rows = self.items[i].get("aligned")
        if rows is None:
            return None
        out, t0 = np.zeros(round(seconds / step), np.int64), 0
        stop = self.items[i]["length"] / RATE
        for number, t in rows:
            out[max(0, int((t0 + lag) / step)) : max(0, int((min(t, stop) + lag) / step))] = number
            t0 = t
        return out

    def weights(self):
        """Sampling weights: real-sounding engines more often than their count says."""
        share = {"kokoro": 5.0, "hibari": 1.2, "espeak": 1.8, "flite": 1.0, "festival": 0.8, "warped": 4.0}
        count = {e: max(1, sum(it["engine"] == e for it in self.items)) for e in share}
        w = np.array([share[it["engine"]] / count[it["engine"]] for it in self.items])
        return w / w.sum()


@functools.lru_cache(None)
def replies():
    """All replies, as (text, samples, [(word, start in seconds)]); the last is the fallback.

    The noise part of the voice is seeded, so a reply is always the same
    waveform, starting at a frame boundary.
    """
    import onnx
    import onnxruntime as ort
    from hibari import dsp
    from hibari.tts import ASSETS

    tts = phonemizer()
    model = onnx.load(ASSETS + "/hibari.onnx")
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("/Round_output_0"))  # durations
    session = ort.InferenceSession(model.SerializeToString())
    known = exchanges()
    out = []
    for text in [e["reply"] for e in known["exchanges"]] + [known["fallback"]]:
        wav, onsets = [np.zeros(0, np.float32)], []
        for sentence in tts.split_sentences(text):
            ps = tts.phonemize(sentence)[0]
            ids = tts.ids(ps)
            speed = np.array([1.1], np.float32)
            *parts, dur = session.run(None, {"ids": np.array([ids], np.int64), "speed": speed})
            part = dsp.synth(*(p[0] for p in parts), np.random.default_rng(1))
            # phoneme positions of the model's frames -> seconds; pads are on both ends
            ends = np.cumsum(dur.reshape(-1)[: len(ids)])
            starts = np.concatenate([[0], ends])[1:] * (len(part) / ends[-1] / RATE)
            words = sentence.split()
            heads = [j for j, c in enumerate(ps) if c not in " .,!?;:—" and (j == 0 or ps[j - 1] == " ")]
            assert len(words) == len(heads), (words, ps)
            t0 = sum(map(len, wav)) / RATE
            onsets += [(w, t0 + starts[h]) for w, h in zip(words, heads, strict=True)]
            loud = np.flatnonzero(np.abs(part) > 0.01 * np.abs(part).max())
            first = len(wav) == 1
            cut = max(0, loud[0] - RATE // 100) if first else 0  # no silence before the first word
            part = part[: loud[-1] + RATE // 25]
            if first:
                part, onsets = part[cut:], [(w, max(0, t - cut / RATE)) for w, t in onsets]
            wav += [part, np.zeros(RATE // 5, np.float32)]
        wav = np.concatenate(wav[:-1])
        fade = np.linspace(1, 0, RATE // 50, dtype=np.float32)
        wav[-len(fade) :] *= fade
        wav = wav * (0.6 / np.abs(wav).max())
        out.append((text, np.pad(wav, (0, -len(wav) % FRAME)), onsets))
    return out


if __name__ == "__main__":
    import soundfile

    for i, (_text, wav, onsets) in enumerate(replies()):
        (WORK / "replies").mkdir(exist_ok=True)
        soundfile.write(WORK / f"replies/{i:02d}.wav", wav, RATE)
        print(f"{len(wav) / RATE:.2f}s", " ".join(f"{w}@{t:.2f}" for w, t in onsets))
