"""The language model of Kyutai's `moshi_mlx` on the CPU in float32, greedy, on given codes; also on Linux.

With `layers` in the job, every layer's output at that frame too.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from job import Recording, main
from mlx_layers import Layers
from mlx_names import stacked
from moshi_mlx import models
from moshi_mlx.models.generate import LmGen


class Greedy:
    """A sampler in moshi_mlx's sense that takes the best token and keeps the logits it saw."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def __call__(self, logits: Any) -> tuple[Any, Any]:
        self.seen.append(np.array(logits.astype(mx.float32)).reshape(-1))
        return mx.argmax(logits, axis=-1).astype(mx.int32), logits

    def taken(self) -> list[np.ndarray]:
        seen, self.seen = self.seen, []
        return seen


def language_model(job: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    raw = json.loads(Path(job["config"]).read_text())
    config = models.LmConfig.from_config_dict(raw)
    tensors = mx.load(job["lm"])
    # Its own reading of the config assumes a hidden_scale of 4; the tensors say what the size is. (It takes 11/4 of a
    # model whose feed-forward is 4 times its width, and 2/3 otherwise.)
    gated = {name: value.shape[0] // 2 for name, value in tensors.items() if name == "transformer.layers.0.gating.linear_in.weight"}
    if gated and next(iter(gated.values())) != 11 * raw["dim"] // 4:
        config.transformer.dim_feedforward = -(-3 * next(iter(gated.values())) // 2)
    model = models.Lm(config)
    model.set_dtype(mx.float32)
    path = str(folder / "lm.safetensors")
    mx.save_safetensors(path, stacked(tensors))
    model.load_pytorch_weights(path, config)
    model.set_dtype(mx.float32)
    return model, config


def run(job: dict[str, Any], frames: np.ndarray) -> dict[str, np.ndarray]:
    mx.set_default_device(mx.cpu)
    with tempfile.TemporaryDirectory() as temporary:
        model, config = language_model(job, Path(temporary))
    users = np.load(job["codes"])[:, : config.other_codebooks]
    text, audio = Greedy(), Greedy()
    generator = LmGen(model, len(users) + 1, text_sampler=text, audio_sampler=audio)
    fed: dict[str, Any] = {}
    sample = model._sample

    def listening(text_ids: Any, audio_ids: Any, *rest: Any, **named: Any) -> Any:
        fed["row"] = np.concatenate([np.array(text_ids).reshape(-1), *(np.array(ids).reshape(-1) for ids in audio_ids)])
        token, tokens, hidden = sample(text_ids, audio_ids, *rest, **named)
        fed.update(text_token=np.array(token).reshape(-1)[0], hidden=np.array(hidden).reshape(-1))
        fed["audio_tokens"] = None if tokens is None else np.array(tokens).reshape(-1)
        return token, tokens, hidden

    model._sample = listening
    record = Recording()
    layers = Layers(model) if "layers" in job else None
    for t, (frame, codes) in enumerate(zip(frames, users, strict=True)):
        if layers is not None:
            layers.on = t == job["layers"]
        generator.step(mx.array(codes)[None])
        own = generator.last_audio_tokens()
        out = None if own is None else np.array(own).reshape(-1)
        logits = audio.taken()
        record.add(
            pcm_in=frame, codes_in=codes, text_logits=text.taken()[0], audio_logits=np.stack(logits) if logits else None,
            codes_out=out, **fed,
        )  # fmt: skip
    seen = {} if layers is None else layers.taken()
    return record.columns() | {f"layer {name}": value for name, value in seen.items()}


if __name__ == "__main__":
    main(run)
