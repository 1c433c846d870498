"""A small random PersonaPlex (16 depformer steps, voice and text prompt) and what NVIDIA's own code makes of it.

Command line:  python oracle/make_personaplex.py NVIDIA [--out tests/golden/data/formats/personaplex]

NVIDIA is a checkout of https://github.com/NVIDIA/personaplex (3428dfd was used; with pyloudnorm 0.2.0 and tqdm installed). Its
package is called `moshi` too, so the checkpoint is made by Kyutai's in a process of its own. Constants of NVIDIA's modules
that only fit the released model are replaced: the network's shape, and the codes of silence and of a sine, taken modulo `card`.

The folder holds a checkpoint in Kyutai's layout, `voice.wav` [T at 24 kHz] and `voice.safetensors`, which is the .pt file that
NVIDIA saves for it, and in `prompted.safetensors`: `pcm` of the user; `voice_pcm` as loaded and normalised; `voice_codes`;
`text_prompt` tokens; for V in `wav` (prompted by the recording), `saved` (by the .pt file) and `none` (by silence and text):
`tokens_V` [T, 17] as `LMGen.step` returned them for the user's frames, `text_logits_V`, `audio_logits_V` [T, 8, card] of its
own codebooks.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_TORCH_COMPILE", "1")

import numpy as np

SEED, FRAMES, VOICE_SAMPLES = 41, 20, 26_000
TEXT = "banba kerst lomin"
DELAYED = [0, *([0, 1, 1, 1, 1, 1, 1, 1] * 2)]


def make(folder: Path, seed: int) -> None:
    """The checkpoint, by Kyutai's package."""
    from cases import Case, lm, mimi
    from make_checkpoint import make_checkpoint

    config = lm(DELAYED, 16, context=64, depformer_causal=True, depformer_context=16)
    extra = {"model_type": "personaplex", "version": "tiny"}
    make_checkpoint(Case(seed, "PersonaPlex", config, mimi(8), extra, stacked=True), folder, seed)


def recordings(folder: Path, seed: int) -> np.ndarray:
    """The voice, quiet at its end so that the gate of the loudness matters, into a file; the user's samples."""
    import sphn
    from philox_mimi import test_pcm

    voice = test_pcm(14, seed + 1)[:VOICE_SAMPLES].copy()
    voice[-9000:] *= 0.003
    sphn.write_wav(str(folder / "voice.wav"), voice, 24_000)
    return test_pcm(FRAMES, seed)


def prepare(folder: Path) -> tuple[Any, Any]:
    """NVIDIA's language model and codec in the checkpoint's shape."""
    import json

    import torch
    from moshi.models import lm, loaders

    config = json.loads((folder / "config.json").read_text())
    codec = json.loads((folder / "mimi_config.json").read_text())
    loaders._lm_kwargs = {name: config[name] for name in config if name in loaders._lm_kwargs}
    loaders._seanet_kwargs, loaders._quantizer_kwargs = codec["seanet"], codec["quantizer"]
    loaders._transformer_kwargs = codec["transformer"]
    lm.SILENCE_TOKENS, lm.SINE_TOKENS = lm.SILENCE_TOKENS % config["card"], lm.SINE_TOKENS % config["card"]
    model = loaders.get_moshi_lm(str(folder / "model.safetensors"), device="cpu", dtype=torch.float32)
    return model.eval(), loaders.get_mimi(str(folder / "mimi.safetensors"))


def prompted(folder: Path, model: Any, codec: Any, voice: Path | None, text: list[int], pcm: np.ndarray, save: bool) -> Any:
    """NVIDIA's offline.py from its step 4 on: tokens, text logits and audio logits of the user's frames."""
    from moshi.models import LMGen
    from moshi.models.lm import _iterate_audio, encode_from_sphn

    gen = LMGen(
        model, "cpu", use_sampling=False, check=True, return_logits=not save, audio_silence_frame_cnt=int(0.5 * codec.frame_rate),
        text_prompt_tokens=text, save_voice_prompt_embeddings=save, sample_rate=codec.sample_rate, frame_rate=codec.frame_rate,
    )  # fmt: skip
    codec.streaming_forever(1)
    gen.streaming_forever(1)
    if voice is not None and voice.suffix == ".pt":
        gen.load_voice_prompt_embeddings(str(voice))
    elif voice is not None:
        gen.load_voice_prompt(str(voice))
    codec.reset_streaming()
    gen.step_system_prompts(codec)
    codec.reset_streaming()
    found: dict[str, list[np.ndarray]] = {"tokens": [], "text_logits": [], "audio_logits": []}
    for codes in encode_from_sphn(codec, _iterate_audio(pcm[None], gen._frame_size, pad=True), max_batch=1):
        out = gen.step(codes)
        if not save:
            tokens, (text_logits, audio_logits) = out
            found["tokens"].append(tokens[0, :, 0].numpy())
            found["text_logits"].append(text_logits.flatten().numpy())
            found["audio_logits"].append(audio_logits[0, :8].numpy())
    return gen, {name: np.stack(values) for name, values in found.items() if values}


def record(folder: Path, seed: int) -> bool:
    """Run and save everything; False when a greedy choice of the model's own streams is nearly a tie."""
    import sentencepiece
    import torch
    from moshi.models.lm import _iterate_audio, encode_from_sphn
    from moshi.offline import wrap_with_system_tags
    from safetensors.numpy import save_file
    from safetensors.torch import save_file as save_tensors

    pcm = recordings(folder, seed)
    text = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model")).encode(wrap_with_system_tags(TEXT))
    golden: dict[str, np.ndarray] = {"pcm": pcm, "text_prompt": np.array(text)}
    wav, saved = folder / "voice.wav", folder / "voice.pt"
    with torch.no_grad():
        for voice, name, save in ((wav, "", True), (wav, "wav", False), (saved, "saved", False), (None, "none", False)):
            model, codec = prepare(folder)
            gen, found = prompted(folder, model, codec, voice, text, pcm, save)
            golden |= {f"{what}_{name}": value for what, value in found.items()}
            if name == "wav":
                golden["voice_pcm"] = gen.voice_prompt_audio[0].astype(np.float32)
                codec.reset_streaming()
                frames = encode_from_sphn(codec, _iterate_audio(gen.voice_prompt_audio, gen._frame_size, pad=True), max_batch=1)
                golden["voice_codes"] = np.concatenate([codes[0].numpy() for codes in frames], 1)
    state = torch.load(saved, weights_only=True)
    save_tensors({name: value.contiguous() for name, value in state.items()}, folder / "voice.safetensors")
    saved.unlink()
    margins = []
    for name in ("wav", "saved", "none"):
        for what in ("text_logits", "audio_logits"):
            best = np.sort(golden[f"{what}_{name}"], -1)
            margins.append((best[..., -1] - best[..., -2]).min())
    if min(margins) < 2e-4 or len(np.unique(golden["tokens_wav"][:, 0])) < 4:
        return False
    save_file({name: np.ascontiguousarray(value) for name, value in golden.items()}, folder / "prompted.safetensors")
    print(f"seed {seed}: {len(golden['tokens_wav'])} steps, {golden['voice_codes'].shape[1]} frames of voice, {len(text)} of text")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nvidia", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "tests/golden/data/formats/personaplex")
    parser.add_argument("--make", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--record", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make is not None:
        make(args.out, args.make)
        return
    if args.record is not None:
        raise SystemExit(0 if record(args.out, args.record) else 3)
    here = [sys.executable, __file__, str(args.nvidia), "--out", str(args.out)]
    theirs = os.environ | {"PYTHONPATH": str(args.nvidia / "moshi")}
    for attempt in range(20):
        seed = SEED + 1000 * attempt
        subprocess.run([*here, "--make", str(seed)], check=True)
        code = subprocess.run([*here, "--record", str(seed)], env=theirs).returncode
        if code == 0:
            return
        if code != 3:
            raise SystemExit(code)
    raise RuntimeError("no seed without a near tie")


if __name__ == "__main__":
    main()
