"""Writes MLX checkpoints with `moshi_mlx` and `mlx.nn.quantize`, and what MLX computes from them in float32.

Command line:  python oracle/make_formats_mlx.py [--out tests/golden/data/formats]
Runs where moshi_mlx 0.3.0 and mlx[cpu] 0.26.5 are installed, after make_formats.py, on whose bfloat16 files it builds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from moshi_mlx import models
from moshi_mlx.models.lm import DepFormerConfig, LmConfig
from moshi_mlx.modules.transformer import TransformerConfig
from safetensors.numpy import load_file, save_file


def transformer(dim: int, heads: int, layers: int, feed_forward: int, context: int, position: str) -> TransformerConfig:
    return TransformerConfig(
        d_model=dim, num_heads=heads, num_layers=layers, dim_feedforward=feed_forward, causal=True, norm_first=True,
        bias_ff=False, bias_attn=False, layer_scale=None, context=context, max_period=10000, use_conv_block=False,
        use_conv_bias=True, cross_attention=False, gating=True, norm="rms_norm", positional_embedding=position,
        conv_layout=False, conv_kernel_size=3, kv_repeat=1, max_seq_len=4096,
    )  # fmt: skip


def lm_config(raw: dict) -> LmConfig:
    """moshi_mlx's config, as its own from_config_dict makes it but with the file's hidden_scale instead of 4."""
    main = transformer(
        raw["dim"], raw["num_heads"], raw["num_layers"], int(raw["hidden_scale"] * raw["dim"]), raw["context"], "rope"
    )
    depth = transformer(
        raw["depformer_dim"], raw["depformer_num_heads"], raw["depformer_num_layers"], raw["depformer_dim_feedforward"],
        raw["dep_q"], "none",
    )  # fmt: skip
    return LmConfig(
        transformer=main,
        depformer=DepFormerConfig(
            depth, raw["dep_q"], raw.get("depformer_weights_per_step_schedule"), raw.get("depformer_low_rank_embeddings")
        ),
        text_in_vocab_size=raw["text_card"] + 1,
        text_out_vocab_size=raw["text_card"],
        audio_vocab_size=raw["card"] + 1,
        audio_codebooks=raw["n_q"],
        audio_delays=raw["delays"][1:],
        conditioners={},
    )


def outputs(model: models.Lm, rows: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
    hidden, text, audio = [], [], []
    for row, depth in zip(rows, tokens, strict=True):
        x = model.text_emb(mx.array([[int(row[0])]]))
        for k, table in enumerate(model.audio_embs):
            x = x + table(mx.array([[int(row[k + 1])]]))
        h = model.out_norm(model.transformer(x, cache=model.transformer_cache))
        hidden.append(np.array(h)[0, 0])
        text.append(np.array(model.text_linear(h))[0, 0])
        for cache in model.depformer_cache:
            cache.reset()
        logits = []
        for part, token in zip(model.depformer.slices, depth, strict=True):
            y = part.linear_in(h) + part.emb(mx.array([[int(token)]]))
            logits.append(np.array(part.linear_out(part.transformer(y, cache=model.depformer_cache)))[0, 0])
        audio.append(np.stack(logits))
    return {"hidden": np.stack(hidden), "text_logits": np.stack(text), "audio_logits": np.stack(audio)}


def make(source: Path, folder: Path, bits: int | None) -> None:
    """Kyutai's file through moshi_mlx's own loader, quantised as its scripts do, saved by MLX; run in float32."""
    raw = json.loads((source / "config.json").read_text())
    config = lm_config(raw)
    model = models.Lm(config)
    model.set_dtype(mx.bfloat16)
    model.load_pytorch_weights(str(source / "base.safetensors"), config)
    name = "model.safetensors"
    if bits is not None:
        nn.quantize(model, bits=bits, group_size=32 if bits == 4 else 64)
        name = f"model.q{bits}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    model.save_weights(str(folder / name))
    model.set_dtype(mx.float32)
    given = load_file(source / "golden.safetensors")
    golden = outputs(model, given["rows"], given["tokens"])
    save_file({"rows": given["rows"], "tokens": given["tokens"]} | golden, folder / "golden.safetensors")
    (folder / "config.json").write_text(json.dumps(raw | {"moshi_name": name}, indent=1) + "\n")
    (folder / "mimi_config.json").write_text((source / "mimi_config.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "tests/golden/data/formats")
    out = parser.parse_args().out
    mx.set_default_device(mx.cpu)
    make(out / "mlx_schedule", out / "mlx_bf16", None)
    make(out / "mlx_wide", out / "mlx_q8", 8)
    make(out / "mlx_wide", out / "mlx_q4", 4)


if __name__ == "__main__":
    main()
