"""Kyutai's `moshi` (PyTorch) on the CPU in float32, greedy, stepped as its run_inference does: the first frame twice.

With `layers` in the job, every layer's output at that frame too.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from job import Recording, main
from moshi.models import LMGen, loaders


class Layers:
    """Every layer's output at one frame, under the name of its weight without the last part, as `lab.probes` has them."""

    def __init__(self, *models: Any) -> None:
        self.on, self.prefix = False, ""
        self.seen: dict[str, Any] = {}
        for model in models:
            for name, module in model.named_modules():
                kind = type(module).__name__
                # A gate computes from its linears' weights without calling them; a transposed convolution's overlap is
                # added outside of it.
                special = {"ActivationGating": f"{name}.linear_out", "StreamingConvTranspose1d": f"{name}.convtr.convtr"}
                if kind in special or (any(True for _ in module.parameters(recurse=False)) and not name.endswith("convtr.convtr")):
                    module.register_forward_hook(partial(self._keep, special.get(kind, name), "Conv" in kind))

    def _keep(self, name: str, channels_first: bool, module: Any, inputs: Any, output: Any) -> None:
        if self.on and isinstance(output, torch.Tensor) and output.is_floating_point():
            value = output.detach().transpose(1, 2) if channels_first and output.dim() == 3 else output.detach()
            self.seen.setdefault(f"{self.prefix}{name}", value.float().reshape(-1).numpy().copy())


class Listener:
    """Catches what LMGen does not return: the row it fed, hidden states and logits."""

    def __init__(self, model: Any, layers: Layers) -> None:
        self.values: dict[str, Any] = {}
        self._layers = layers
        self._text, self._depth = model.forward_text, model.forward_depformer
        model.forward_text, model.forward_depformer = self.text, self.depth

    def text(self, row: Any, *rest: Any) -> Any:
        hidden, logits = self._text(row, *rest)
        self.values = {"row": row[0, :, 0], "hidden": hidden[0, 0], "text_logits": logits[0, 0, 0], "audio_logits": []}
        return hidden, logits

    def depth(self, index: int, *arguments: Any) -> Any:
        self._layers.prefix = f"codebook {index}: "
        logits = self._depth(index, *arguments)
        self._layers.prefix = ""
        self.values["audio_logits"].append(logits[0, 0, 0])
        return logits

    def token(self, token: Any) -> None:
        self.values["text_token"] = token[0].clone()

    def audio(self, tokens: Any) -> None:
        self.values["audio_tokens"] = tokens[0].clone()

    def taken(self) -> dict[str, Any]:
        logits = self.values.pop("audio_logits")
        out = {name: value.float().numpy() if value.is_floating_point() else value.numpy() for name, value in self.values.items()}
        return out | ({"audio_logits": torch.stack(logits).float().numpy()} if logits else {})


@torch.no_grad()
def run(job: dict[str, Any], frames: np.ndarray) -> dict[str, np.ndarray]:
    raw = json.loads(Path(job["config"]).read_text()) if Path(job["config"]).is_file() else None
    info = loaders.CheckpointInfo.from_hf_repo(
        "local/folder",
        moshi_weights=job["lm"],
        mimi_weights=job["mimi"],
        tokenizer=job["tokenizer"],
        config_path=None if raw is None else job["config"],
        mimi_config_path=job["mimi_config"],
    )
    mimi, model = info.get_mimi(device="cpu"), info.get_moshi(device="cpu", dtype=torch.float32)
    layers = Layers(mimi, model)
    listener = Listener(model, layers)
    generator = LMGen(
        model, use_sampling=False, on_text_hook=listener.token, on_audio_hook=listener.audio if model.dep_q else None
    )  # fmt: skip
    users = model.n_q - model.dep_q
    record = Recording()
    with mimi.streaming(1), generator.streaming(1):
        for t, frame in enumerate(frames):
            probed = t == job.get("layers")
            layers.on = probed
            codes = mimi.encode(torch.from_numpy(frame)[None, None])[:, :users]
            if t == 0:
                layers.on = False  # of the two steps of the first frame the second is recorded
                generator.step(codes)
                layers.on = probed
            out = generator.step(codes)
            own = None if out is None or not model.dep_q else out[:, 1:]
            heard = None if own is None else mimi.decode(own)[0, 0].numpy()
            record.add(
                pcm_in=frame, codes_in=codes[0, :, 0].numpy(), codes_out=None if own is None else own[0, :, 0].numpy(),
                pcm_out=heard, **listener.taken(),
            )  # fmt: skip
    return record.columns() | {f"layer {name}": value for name, value in layers.seen.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(run)
