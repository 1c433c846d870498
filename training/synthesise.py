"""Speech for the user's side (and the varied speech of the reply voice).

    python synthesise.py ENGINE SPLIT [--minutes M] [--count N] [--shard I] [--salad]

ENGINE is kokoro, hibari, espeak, flite or festival; SPLIT is train or heldout.
Writes WORK/audio/ENGINE-SPLIT-I.i16 (24 kHz samples, one utterance after the
other) and .jsonl (one line per utterance: text, voice, exchange, place and,
from the neural engines, which phoneme lasts until when).
Voices of the held-out split never occur in the training split.
"""

import argparse
import json
import random
import subprocess
import tempfile
import time
import warnings

import numpy as np
from common import RATE, WORK, exchanges, phone_ids
from sentences import other, salad

warnings.filterwarnings("ignore")

KOKORO_TRAIN = [
    "af_alloy",
    "af_aoede",
    "af_bella",
    "af_heart",
    "af_jessica",
    "af_kore",
    "af_nicole",
    "af_river",
    "af_sarah",
    "af_sky",
    "am_adam",
    "am_echo",
    "am_fenrir",
    "am_liam",
    "am_michael",
    "am_onyx",
    "am_santa",
    "bf_alice",
    "bf_emma",
    "bf_isabella",
    "bm_daniel",
    "bm_fable",
    "bm_george",
]
KOKORO_HELD = ["af_nova", "am_eric", "bf_lily", "bm_lewis", "am_puck"]
ESPEAK_ACCENTS = ["en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029"]
ESPEAK_TRAIN = [
    f"{a}+{v}"
    for a in ESPEAK_ACCENTS
    for v in ["m1", "m2", "m3", "m4", "m6", "m7", "f1", "f2", "f4", "f5", "croak", "klatt", "klatt3", "klatt4"]
]
ESPEAK_HELD = ["en-us+m5", "en-gb+f3", "en-gb-scotland+klatt2", "en-us+m8"]
FLITE_TRAIN, FLITE_HELD = ["kal", "kal16", "awb", "slt"], ["rms"]
FESTIVAL_TRAIN, FESTIVAL_HELD = ["kal_diphone", "cmu_us_slt_arctic_hts"], ["ked_diphone"]


def resample(wav, rate):
    import soxr

    return wav if rate == RATE else soxr.resample(wav, rate, RATE)


def run_to_wav(*command, text=None):
    """Runs a speech program that writes a wav file; returns its samples at 24 kHz."""
    import soundfile

    with tempfile.NamedTemporaryFile(suffix=".wav") as f:
        subprocess.run([c.replace("OUT", f.name) for c in command], check=True, input=text and text.encode(), capture_output=True)
        wav, rate = soundfile.read(f.name, dtype="float32")
    return resample(wav if wav.ndim == 1 else wav[:, 0], rate)


def open_with_durations(path, tensor):
    """An ONNX session of one thread which also returns the predicted durations."""
    import onnx
    import onnxruntime as ort

    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
    so = ort.SessionOptions()
    so.intra_op_num_threads = so.inter_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), so)


def alignment(phonemes, durations, seconds):
    """[[phoneme class, end in seconds]]: marks and spaces go with what follows, pauses are 0."""
    ends = np.cumsum(durations) * (seconds / np.sum(durations))
    rows = [[0, float(ends[0])]]
    for c, end in zip(phonemes, ends[1:], strict=False):
        number = (phone_ids(c) or [None])[0]
        if number is None and c in ".,!?;:—":
            number = 0
        if number is not None:
            rows.append([number, round(float(end), 3)])
    return rows


class Kokoro:
    def __init__(self):
        from hibari import Hibari

        self.session = open_with_durations(str(WORK / "kokoro/kokoro.onnx"), "/encoder/Round_output_0")
        self.hibari = Hibari()
        self.styles = {
            v: np.fromfile(WORK / f"kokoro/package/voices/{v}.bin", np.float32).reshape(-1, 1, 256)
            for v in KOKORO_TRAIN + KOKORO_HELD
        }

    def __call__(self, text, voice, rng):
        """voice may be 'a' or 'a*0.4+b*0.6': styles are mixed linearly to make new voices."""
        phonemes = "".join(self.hibari.phonemize(text))
        ids = self.hibari.ids(phonemes)
        style = 0
        for part in voice.split("+"):
            name, _, weight = part.partition("*")
            style = style + self.styles[name][len(ids) - 2] * float(weight or 1)
        speed = np.array([rng.uniform(0.8, 1.25)], np.float32)
        wav, dur = self.session.run(
            None, {"input_ids": np.array([ids], np.int64), "style": style.astype(np.float32), "speed": speed}
        )
        self.aligned = alignment(phonemes, dur.reshape(-1), wav.size / RATE)
        return wav.reshape(-1)

    def voice(self, split, rng):
        if split == "heldout":
            return rng.choice(KOKORO_HELD)
        if rng.random() < 0.5:
            return rng.choice(KOKORO_TRAIN)
        a, b = rng.sample(KOKORO_TRAIN, 2)
        w = round(rng.uniform(0.3, 0.7), 2)
        return f"{a}*{w}+{b}*{round(1 - w, 2)}"


class Hibari:
    def __init__(self):
        import hibari

        self.tts = hibari.Hibari()
        self.session = open_with_durations(self.tts.model_path, "/Round_output_0")

    def __call__(self, text, voice, rng):
        from hibari import dsp

        phonemes = "".join(self.tts.phonemize(text))
        speed = np.array([rng.uniform(0.85, 1.2)], np.float32)
        *parts, dur = self.session.run(None, {"ids": np.array([self.tts.ids(phonemes)], np.int64), "speed": speed})
        wav = dsp.synth(*(p[0] for p in parts), np.random.default_rng(rng.randrange(1 << 30)))
        self.aligned = alignment(phonemes, dur.reshape(-1), wav.size / RATE)
        return wav

    def voice(self, split, rng):
        return "heart"


class Espeak:
    def __call__(self, text, voice, rng):
        return run_to_wav(
            "espeak-ng", "-v", voice, "-s", str(rng.randint(120, 200)), "-p", str(rng.randint(20, 80)), "-w", "OUT", text
        )

    def voice(self, split, rng):
        return rng.choice(ESPEAK_TRAIN if split == "train" else ESPEAK_HELD)


class Flite:
    def __call__(self, text, voice, rng):
        return run_to_wav(
            "flite", "-voice", voice, "--setf", f"duration_stretch={rng.uniform(0.85, 1.25):.2f}", "-t", text, "-o", "OUT"
        )

    def voice(self, split, rng):
        return rng.choice(FLITE_TRAIN if split == "train" else FLITE_HELD)


class Festival:
    def __call__(self, text, voice, rng):
        return run_to_wav("text2wave", "-eval", f"(voice_{voice})", "-o", "OUT", text=text)

    def voice(self, split, rng):
        return rng.choice(FESTIVAL_TRAIN if split == "train" else FESTIVAL_HELD)


ENGINES = {c.__name__.lower(): c for c in (Kokoro, Hibari, Espeak, Flite, Festival)}


def trim(wav, margin=0.04):
    """Removes leading and trailing silence (40 dB below the peak), keeping a small margin."""
    loud = np.flatnonzero(np.abs(wav) > 0.01 * np.abs(wav).max())
    m = int(margin * RATE)
    first = max(0, loud[0] - m) if len(loud) else 0
    return (wav[first : loud[-1] + m] if len(loud) else wav[:0]), first / RATE


def passes(split, rng):
    """Endless texts to say, as (text, exchange or -1): prompts, with unknown sentences between."""
    prompts = [(p, e["id"]) for e in exchanges()["exchanges"] for p in (e["prompts"] if split == "train" else e["prompts"][:1])]
    unknown = [(t, -1) for t, _ in other(split)]
    while True:
        rng.shuffle(unknown)
        batch = prompts + unknown[: len(prompts) * 6 // 10 if split == "train" else 10]
        rng.shuffle(batch)
        yield from batch


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("engine", choices=ENGINES)
    ap.add_argument("split", choices=["train", "heldout"])
    ap.add_argument("--minutes", type=float, default=5)
    ap.add_argument("--count", type=int, default=1 << 30)
    ap.add_argument("--shard", default="0")
    ap.add_argument("--salad", action="store_true", help="only sentences that nano does not know")
    a = ap.parse_args()
    rng = random.Random(f"{a.engine} {a.split} {a.shard}")
    engine = ENGINES[a.engine]()
    base = WORK / "audio" / f"{a.engine}-{a.split}-{a.shard}"
    base.parent.mkdir(parents=True, exist_ok=True)
    end, offset, n = time.time() + 60 * a.minutes, 0, 0
    with base.with_suffix(".i16").open("wb") as audio, base.with_suffix(".jsonl").open("w") as index:
        for text, exchange in ((t, -1) for t in salad(rng)) if a.salad else passes(a.split, rng):
            if time.time() > end or n >= a.count:
                break
            voice = engine.voice(a.split, rng)
            say = text[0].upper() + text[1:] + rng.choice(".??!" if exchange >= 0 else ".?")
            wav, cut = trim(np.asarray(engine(say, voice, rng), np.float32))
            if len(wav) < RATE // 5:
                continue
            pcm = np.int16(wav * (29000 / np.abs(wav).max()))
            audio.write(pcm.tobytes())
            audio.flush()
            line = {"text": text, "exchange": exchange, "engine": a.engine, "voice": voice, "start": offset, "length": len(pcm)}
            if hasattr(engine, "aligned"):
                line["aligned"] = [[p, round(t - cut, 3)] for p, t in engine.aligned]
            index.write(json.dumps(line) + "\n")
            index.flush()
            offset, n = offset + len(pcm), n + 1
    print(a.engine, a.split, a.shard, n, "utterances,", round(offset / RATE), "s")


if __name__ == "__main__":
    main()
