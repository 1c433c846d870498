"""Compares Clearline with the official `moshi` package, live, where both are installed.

Command line:
    python oracle/compare_live.py                          random checkpoints, every case, one seed each
    python oracle/compare_live.py --seeds 3 --cases odd stt --backend numpy64
    python oracle/compare_live.py FOLDER                   one checkpoint folder
    python oracle/compare_live.py --nano [--wav FILE]      the packaged small model, the whole pipeline over audio
It prints largest relative errors and the first differing frame, and exits with 1 on a mismatch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import CASES
from make_checkpoint import load_checkpoint, make_checkpoint
from make_golden import Recorder, codec_margin, codec_streams, official_pipeline, relative
from philox_mimi import test_pcm

import clearline

FRAME = 1920
TIE = 2e-5  # a greedy choice whose two best logits lie closer than this may fall either way


class Check:
    """Collects verdicts and prints them."""

    def __init__(self) -> None:
        self.failed = False

    def line(self, label: str, good: bool, text: str) -> None:
        self.failed |= not good
        print(f"  {'ok  ' if good else 'FAIL'} {label:<22} {text}", flush=True)

    def close(self, label: str, got: Any, want: Any, limit: float) -> None:
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        if got.shape != want.shape:
            self.line(label, False, f"shape {got.shape}, official {want.shape}")
            return
        error = relative(got, want)
        self.line(label, error <= limit, f"largest relative error {error:.2e}")

    def equal(self, label: str, got: Any, want: Any, note: str = "") -> int | None:
        """Compares along the first axis; returns the first differing index."""
        got, want = np.asarray(got), np.asarray(want)
        if got.shape != want.shape:
            self.line(label, False, f"shape {got.shape}, official {want.shape}")
            return 0
        different = np.flatnonzero((got != want).reshape(len(got), -1).any(1))
        if len(different) == 0:
            self.line(label, True, f"all {got.size} equal")
            return None
        at = int(different[0])
        text = f"first differing frame {at} of {len(got)}: {got[at].tolist()}, official {want[at].tolist()} {note}"
        self.line(label, False, text)
        return at


def step_codes(out: Any, rows: int) -> np.ndarray:
    """The un-delayed output row of one Clearline step, -2 where there is none yet."""
    return np.full(rows, -2, np.int64) if out.codes is None else np.asarray(out.codes, np.int64)


def generator(model: Any) -> Any:
    """A greedy Clearline generator."""
    return model.generator(text=clearline.Sampling.greedy(), audio=clearline.Sampling.greedy())


def first_tie(rows: list[np.ndarray]) -> int | None:
    """The first frame where some official greedy choice was nearly a tie."""
    top = np.sort(np.stack(rows).astype(np.float64), axis=-1)
    gap = (top[..., -1] - top[..., -2]).reshape(len(rows), -1).min(1)
    found = np.flatnonzero(gap < TIE)
    return int(found[0]) if len(found) else None


def compare_lm(check: Check, info: Any, ours: Any, steps: int, seed: int, limit: float) -> None:
    """Greedy and forced steps on random user codes."""
    theirs = info.get_moshi(device="cpu", dtype=torch.float32)
    rng = np.random.Generator(np.random.Philox(key=[seed, 7]))
    kwargs: dict[str, Any] = {"condition_tensors": {}} if theirs.fuser is not None else {}
    dep_q = theirs.dep_q
    users = rng.integers(0, theirs.card, (steps, theirs.n_q - dep_q))
    users[rng.random(users.shape) < 0.03] = -1
    users[rng.random(users.shape) < 0.03] = theirs.card
    texts = rng.integers(0, theirs.text_linear.out_features, steps)
    audios = rng.integers(0, theirs.card, (steps, dep_q))
    for mode in ("greedy", "forced", "mixed"):
        if mode == "mixed" and dep_q == 0:
            continue
        run, outs, gen = Recorder(theirs, kwargs), [], generator(ours)
        for t in range(steps):
            text, audio = (None, None) if mode == "greedy" else (int(texts[t]), audios[t] if dep_q else None)
            if mode == "mixed":
                # The last codebook is sampled, so every depth step runs; the official model then follows our choice.
                audio = np.concatenate([audio[:-1], [-2]])
            outs.append(gen.step(users[t], force_text=text, force_audio=audio))
            run.step(users[t], text, np.asarray(outs[-1].audio_tokens) if mode == "mixed" else audio)
        run.close()
        until = steps
        if mode == "greedy":
            ties = [first_tie(run.text_logits), first_tie(run.audio_logits) if dep_q else None]
            found = [t for t in ties if t is not None]
            if found:
                until = min(found)
                print(f"       a near tie at frame {until}: comparing the frames before it")
            if until == 0:
                continue
            differing = [check.equal("greedy text", [o.text_token for o in outs[:until]], run.text[:until])]
            if dep_q:
                got = [np.asarray(o.audio_tokens) for o in outs[:until]]
                differing.append(check.equal("greedy audio", got, run.audio[:until]))
            found = [d for d in differing if d is not None]
            until = min(found) + 1 if found else until
        elif mode == "mixed":
            last = [int(o.audio_tokens[-1]) for o in outs]
            check.equal("mixed last codebook", last, [int(row[-1].argmax()) for row in run.audio_logits])
        got = [step_codes(o, 1 + dep_q) for o in outs[:until]]
        check.equal(f"{mode} output rows", got, run.outputs[:until])
        check.close(f"{mode} text logits", [o.text_logits for o in outs[:until]], run.text_logits[:until], limit)
        if dep_q and mode != "forced":
            # With every token forced, Clearline need not run the depth transformer.
            check.close(f"{mode} audio logits", [o.audio_logits for o in outs[:until]], run.audio_logits[:until], limit)
        hidden = np.stack(run.hidden[:until])
        check.close(f"{mode} hidden", [np.asarray(o.hidden).reshape(-1) for o in outs[:until]], hidden, limit)
        if len(theirs.extra_heads):
            with torch.no_grad():
                heads = [torch.softmax(head(torch.from_numpy(hidden)), -1) for head in theirs.extra_heads]
            want = torch.stack(heads, 1).numpy()
            check.close(f"{mode} extra heads", [o.extra_heads for o in outs[:until]], want, limit)


def compare_codec(check: Check, info: Any, ours: Any, frames: int, seed: int, limit: float) -> None:
    """Codes and audio: Clearline's default against official streaming, its sliding window against the whole-file call."""
    theirs = info.get_mimi()
    theirs.set_num_codebooks(ours.mimi.cfg.n_q)
    pcm = test_pcm(frames, seed, theirs.frame_size, theirs.sample_rate)
    official = codec_streams(theirs, pcm)
    note = f"(closest official decision: relative gap {codec_margin(theirs, official['latent']):.1e})"
    for window, kind in (("frame", "stream"), ("sliding", "whole")):
        codes = np.asarray(ours.mimi.encode(pcm, window=window))
        check.equal(f"codes ({kind})", codes.T, official[f"codes_{kind}"].T, note)
        heard = np.asarray(ours.mimi.decode(official["codes_stream"], window=window)).reshape(-1)
        check.close(f"audio ({kind})", heard, official[f"pcm_{kind}"], limit)


def compare_pipeline(check: Check, info: Any, ours: Any, pcm: np.ndarray, limit: float) -> None:
    """Audio in, tokens and audio out, as the official command line does it (the first frame stepped twice)."""
    pcm = pcm[: len(pcm) // FRAME * FRAME]
    inputs, tokens, heard = official_pipeline(info, pcm, len(pcm) // FRAME + 1)
    codes = np.asarray(ours.mimi.encode(pcm))[: inputs.shape[1]].T
    check.equal("pipeline codes", np.concatenate([codes[:1], codes]), inputs)
    gen = generator(ours)
    rows = [step_codes(gen.step(row), tokens.shape[1]) for row in np.concatenate([codes[:1], codes])]
    differing = check.equal("pipeline tokens", rows, tokens)
    if heard is not None and differing is None:
        # The official loop throws away what the first of the two steps of frame 0 returned.
        spoken = np.stack([row for row in rows[1:] if row[0] >= 0])[:, 1:].T
        check.close("pipeline audio", np.asarray(ours.mimi.decode(spoken)).reshape(-1), heard, limit)


def read_wav(path: Path) -> np.ndarray:
    """The first channel of a 16-bit 24 kHz WAV file as float32."""
    with wave.open(str(path)) as file:
        assert file.getsampwidth() == 2 and file.getframerate() == 24000, "expects 16-bit samples at 24 kHz"
        data = np.frombuffer(file.readframes(file.getnframes()), "<i2")[:: file.getnchannels()]
    return (data / 32768).astype(np.float32)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seeds", type=int, default=1, help="random checkpoints per case")
    parser.add_argument("--first-seed", type=int, default=500)
    parser.add_argument("--backend", default="onnx", help="any that is installed, as torch or torch/compiled")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--limit", type=float, default=3e-4, help="largest relative error let pass")
    parser.add_argument("--nano", action="store_true", help="use clearline's packaged small model, whole pipeline")
    parser.add_argument("--wav", type=Path, help="16-bit 24 kHz file for the pipeline")
    args = parser.parse_args()
    torch.set_num_threads(1)
    check = Check()

    def compare(folder: Path, label: str, seed: int, pipeline: bool) -> None:
        print(label, flush=True)
        info, ours = load_checkpoint(folder), clearline.load(folder, backend=args.backend)
        compare_lm(check, info, ours, args.steps, seed, args.limit)
        compare_codec(check, info, ours, args.frames, seed, args.limit)
        if pipeline and info.model_type == "moshi":
            pcm = read_wav(args.wav) if args.wav else test_pcm(2 * args.frames, seed)
            compare_pipeline(check, info, ours, pcm, args.limit)

    if args.nano or args.folder:
        folder = Path(clearline.__file__).parent / "nano" if args.nano else args.folder
        compare(folder, str(folder), args.first_seed, pipeline=True)
    else:
        for name in args.cases:
            for seed in range(args.first_seed, args.first_seed + args.seeds):
                with tempfile.TemporaryDirectory() as temporary:
                    folder = make_checkpoint(CASES[name], Path(temporary), seed)
                    compare(folder, f"{name} seed {seed}", seed, pipeline=True)
    print("MISMATCH" if check.failed else "all agree")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
