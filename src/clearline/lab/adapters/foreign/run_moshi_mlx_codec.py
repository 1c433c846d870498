"""moshi_mlx's own Mimi on the CPU in float32: encodes frame by frame and decodes its own codes."""

import json
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from job import Recording, main
from mlx_names import stacked
from moshi_mlx.models.mimi import Mimi, MimiConfig, mimi_202407
from moshi_mlx.modules import SeanetConfig, TransformerConfig


def mimi_config(path: str | None, codebooks: int) -> Any:
    """moshi_mlx knows one codec by name; others are described to it here."""
    if path is None:
        return mimi_202407(codebooks)
    raw = json.loads(Path(path).read_text())
    sea, tr = raw["seanet"], raw["transformer"]
    seanet = SeanetConfig(
        dimension=sea["dimension"], channels=1, causal=True, nfilters=sea["n_filters"],
        nresidual_layers=sea["n_residual_layers"], ratios=sea["ratios"], ksize=sea["kernel_size"],
        residual_ksize=sea["residual_kernel_size"], last_ksize=sea["last_kernel_size"], dilation_base=sea["dilation_base"],
        pad_mode=sea["pad_mode"], true_skip=sea["true_skip"], compress=sea["compress"],
    )  # fmt: skip
    transformer = TransformerConfig(
        d_model=tr["d_model"], num_heads=tr["num_heads"], num_layers=tr["num_layers"], causal=True, norm_first=True,
        bias_ff=False, bias_attn=False, layer_scale=tr["layer_scale"], positional_embedding="rope", use_conv_bias=True,
        gating=False, norm="layer_norm", context=tr["context"], max_period=tr["max_period"], max_seq_len=8192, kv_repeat=1,
        dim_feedforward=tr["dim_feedforward"], conv_layout=True, use_conv_block=False, cross_attention=False,
        conv_kernel_size=3,
    )  # fmt: skip
    return MimiConfig(
        channels=1, sample_rate=raw["sample_rate"], frame_rate=raw["frame_rate"], renormalize=True, seanet=seanet,
        transformer=transformer, quantizer_nq=codebooks, quantizer_bins=raw["quantizer"]["bins"],
        quantizer_dim=raw["quantizer"]["dimension"],
    )  # fmt: skip


def codebooks_of(path: str) -> int:
    """How many codebooks a codec's file holds: moshi_mlx wants to load them all."""
    return 1 + sum("rvq_rest" in name and name.endswith("embedding_sum") for name in mx.load(path))


def run(job: dict[str, Any], frames: np.ndarray) -> dict[str, np.ndarray]:
    mx.set_default_device(mx.cpu)
    codebooks = codebooks_of(job["mimi"])
    codec = Mimi(mimi_config(job["mimi_config"], codebooks))
    with tempfile.TemporaryDirectory() as temporary:
        path = str(Path(temporary) / "mimi.safetensors")
        mx.save_safetensors(path, stacked(mx.load(job["mimi"])))
        codec.load_pytorch_weights(path)
    record = Recording()
    for frame in frames:
        codes = codec.encode_step(mx.array(frame)[None, None])
        heard = np.array(codec.decode_step(codes)).reshape(-1)
        rows = np.array(codes)[0, :, 0]
        record.add(pcm_in=frame, codes_in=rows, codes_out=rows, pcm_out=heard)
    return record.columns()


if __name__ == "__main__":
    main(run)
