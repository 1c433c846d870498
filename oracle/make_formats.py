"""Writes small random checkpoints in every published format, with what official code computes from each.

Command line:  python oracle/make_formats.py KYUTAI_MOSHI_GIT [--out tests/golden/data/formats]
Then, in an environment with `moshi_mlx`:  python oracle/make_formats_mlx.py

Each case folder holds config.json, mimi_config.json, the weights as the official tool wrote them, and golden.safetensors:
`rows` [T, 1 + n_q] fed to the temporal transformer, `tokens` [T, dep_q] the previous tokens fed to the depformer, and the
float32 `hidden`, `text_logits`, `audio_logits` that come out. KYUTAI_MOSHI_GIT is a git directory of kyutai-labs/moshi,
whose own conversion script writes the Candle file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_TORCH_COMPILE", "1")

import gguf
import numpy as np
import torch
from cases import lm, mimi
from make_checkpoint import random_lm, stack_attention
from moshi.models import LMModel, loaders
from philox_mimi import spread
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch

STEPS = 20
DELAYS = [0, 0, 1, 0]


def wide(**changes: Any) -> dict[str, Any]:
    """Every linear's input is a multiple of 64, as MLX's 8-bit groups need."""
    base = {
        "dim": 64, "text_card": 32, "card": 16, "num_layers": 1, "hidden_scale": 1.5, "depformer_dim": 64,
        "depformer_dim_feedforward": 96, "depformer_num_layers": 1,
    }  # fmt: skip
    return lm(DELAYS, 2, **(base | changes))


def small(**changes: Any) -> dict[str, Any]:
    return wide(**({"dim": 32, "hidden_scale": 3, "depformer_dim": 32, "depformer_dim_feedforward": 48} | changes))


def inputs(config: dict[str, Any], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and depformer tokens, with the initial tokens first and some zero tokens (-1) among the user's."""
    rng = np.random.default_rng(seed)
    n_q, dep_q = config["n_q"], config["dep_q"]
    rows = rng.integers(0, config["card"], (STEPS, 1 + n_q))
    rows[:, 0] = rng.integers(0, config["text_card"], STEPS)
    rows[0] = [config["text_card"], *([config["card"]] * n_q)]
    tokens = rng.integers(0, config["card"], (STEPS, dep_q))
    tokens[:, 0] = rng.integers(0, config["text_card"], STEPS)
    return rows.astype(np.int64), tokens.astype(np.int64)


@torch.no_grad()
def outputs(model: LMModel, rows: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """The official model, stepped as in streaming, on given tokens."""
    model = model.float().eval()
    hidden, text, audio = [], [], []
    with model.streaming(1):
        model.depformer.set_streaming_detached(True)
        for row, depth in zip(rows, tokens, strict=True):
            h, t = model.forward_text(torch.from_numpy(row)[None, :, None])
            hidden.append(h[0, 0].numpy())
            text.append(t.flatten().numpy())
            with model.depformer.streaming(1):
                steps = [
                    model.forward_depformer(k, torch.tensor([[[int(token)]]]), h).flatten().numpy() for k, token in enumerate(depth)
                ]
            audio.append(np.stack(steps))
    return {"hidden": np.stack(hidden), "text_logits": np.stack(text), "audio_logits": np.stack(audio)}


def official(config: dict[str, Any], state: dict[str, torch.Tensor]) -> LMModel:
    """The official LM with these weights (any tensor naming its own loader understands)."""
    model = loaders.get_moshi_lm(None, lm_kwargs=dict(config), device="cpu", dtype=torch.float32)
    model.load_state_dict({name: value.float() for name, value in state.items()})
    return model


def finish(folder: Path, config: dict[str, Any], golden: dict[str, np.ndarray], seed: int, **extra: Any) -> None:
    """Configuration and goldens of one case."""
    rows, tokens = inputs(config, seed)
    text = config | {"model_type": "moshi", "mimi_config_name": "mimi_config.json"} | extra
    (folder / "config.json").write_text(json.dumps(text, indent=1) + "\n")
    (folder / "mimi_config.json").write_text(json.dumps(mimi(4, bins=config["card"]), indent=1) + "\n")
    save_file({"rows": rows, "tokens": tokens} | golden, folder / "golden.safetensors")


def bfloat16(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.to(torch.bfloat16).contiguous().clone() for name, value in state.items()}


def make_base(out: Path, name: str, config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """A bfloat16 file in Kyutai's older, stacked naming, which MLX's loader wants too; written for make_formats_mlx.py."""
    state = bfloat16(random_lm(config, seed).state_dict())
    stacked = stack_attention({key: value.float().numpy() for key, value in state.items()})
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    save_torch({key: torch.from_numpy(value).to(torch.bfloat16) for key, value in stacked.items()}, folder / "base.safetensors")
    finish(folder, config, outputs(official(config, state), *inputs(config, seed)), seed)
    return state


def make_lora(out: Path, seed: int = 21) -> None:
    """Base and LoRA apart; the golden is the official loader with fuse_lora, in float32."""
    folder = out / "lora"
    folder.mkdir(parents=True, exist_ok=True)
    config = small()
    base = random_lm(config, seed)
    save_torch(bfloat16(base.state_dict()), folder / "model.safetensors")
    with_lora = loaders.get_lora_moshi(base, None, lora_rank=3, lora_scaling=1.5, dtype=torch.float32, fuse_lora=False)
    lora = {name: value for name, value in with_lora.state_dict().items() if ".lora_" in name}
    lora = {name: torch.from_numpy(spread(seed, name, tuple(value.shape), 0.3).astype(np.float32)) for name, value in lora.items()}
    save_torch(lora, folder / "lora.safetensors")
    model = loaders.get_moshi_lm(
        folder / "model.safetensors", config | {"lora": True, "lora_rank": 3, "lora_scaling": 1.5}, dtype=torch.float32,
        lora_weights=folder / "lora.safetensors", fuse_lora=True,
    )  # fmt: skip
    extra = {"lora": True, "lora_rank": 3, "lora_scaling": 1.5, "lora_name": "lora.safetensors"}
    finish(folder, config, outputs(model, *inputs(config, seed)), seed, **extra)


def make_bitsandbytes(out: Path, seed: int = 22) -> None:
    """Kyutai's own replace_linear_with_qlinear; the golden uses the weights those codes stand for, in float32."""
    from moshi.utils.quantize import replace_linear_with_qlinear

    folder = out / "bitsandbytes_q8"
    folder.mkdir(parents=True, exist_ok=True)
    config = wide()
    model = random_lm(config, seed)
    replace_linear_with_qlinear(model)
    state = model.state_dict()
    half = {
        name: value.to(torch.bfloat16) if value.dtype == torch.float32 and "_scb" not in name else value
        for name, value in state.items()
    }
    save_torch({name: value.contiguous().clone() for name, value in half.items()}, folder / "model.q8.safetensors")
    dense = {name: value.float() for name, value in half.items() if not name.endswith("_scb")}
    for name in [name for name in half if name.endswith("_scb")]:
        dense[name.removesuffix("_scb")] *= half[name][:, None] / 127
    finish(
        folder,
        config,
        outputs(official(config, dense), *inputs(config, seed)),
        seed,
        moshi_name="model.q8.safetensors",
        quantize=True,
    )


def make_candle(out: Path, git: Path, seed: int = 23) -> dict[str, torch.Tensor]:
    """Through Kyutai's scripts/import_rust_lora.py."""
    folder = out / "candle"
    folder.mkdir(parents=True, exist_ok=True)
    config = small()
    state = bfloat16(random_lm(config, seed).state_dict())
    with tempfile.TemporaryDirectory() as scripts:
        command = ["git", "--git-dir", str(git), "show", "HEAD:scripts/import_rust_lora.py"]
        (Path(scripts) / "kyutai_import_rust.py").write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
        sys.path.insert(0, scripts)
        import kyutai_import_rust

        kyutai_import_rust.import_model(state, max_out_n_q=None, out_path=folder / "model.safetensors")
        sys.path.remove(scripts)
    found = load_file(folder / "model.safetensors")
    # That script writes `in_proj.weight` in the main transformer, where moshi-core's loader wants `in_proj_weight`.
    save_torch({n.replace("in_proj.weight", "in_proj_weight"): v for n, v in found.items()}, folder / "model.safetensors")
    finish(folder, config, outputs(official(config, state), *inputs(config, seed)), seed)
    return load_file(folder / "model.safetensors")


def q4_k_blocks(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random Q4_K blocks with sane scales: the gguf package reads this type but does not write it."""
    rng = np.random.default_rng([seed, len(name), *name.encode()])
    rows, count = shape[0], shape[1] // 256
    blocks = rng.integers(0, 256, (rows, count, 144), dtype=np.uint8)
    spread_ = rng.uniform(0.5, 1.5, (rows, count, 2)) * np.array([1e-4, 7e-4])
    blocks[..., :4] = spread_.astype(np.float16).view(np.uint8).reshape(rows, count, 4)
    return blocks.reshape(rows, -1)


def make_gguf(out: Path, name: str, config: dict[str, Any], kind: str, names: str, seed: int) -> None:
    """GGUF through the gguf package: candle's or moshi.cpp's tensor names; the golden uses gguf's own dequantisation."""
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.float().numpy() for key, value in random_lm(config, seed).state_dict().items()}
    writer = gguf.GGUFWriter(folder / "model.gguf", "moshi")
    dense: dict[str, torch.Tensor] = {}
    types = gguf.GGMLQuantizationType
    for key, value in state.items():
        width = value.shape[-1]
        if value.ndim != 2:
            quant, raw = types.F32, value.astype(np.float32)
        elif kind == "Q4_K" and width % 256 == 0:
            quant, raw = types.Q4_K, q4_k_blocks(seed, key, value.shape)
        elif width % 32 == 0:
            quant = types.Q8_0 if kind == "Q8_0" else types.Q4_0
            raw = gguf.quants.quantize(value.astype(np.float32), quant)
        else:
            quant, raw = types.BF16, gguf.quants.quantize(value.astype(np.float32), types.BF16)
        read = value if quant == types.F32 else gguf.quants.dequantize(raw, quant)
        dense[key] = torch.from_numpy(np.array(read, np.float32).reshape(value.shape))
        target = f"lm.{key}" if names == "moshi.cpp" else candle_name(key)
        writer.add_tensor(target, raw, raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    finish(folder, config, outputs(official(config, dense), *inputs(config, seed)), seed, moshi_name="model.gguf")


def candle_name(key: str) -> str:
    """Kyutai's name of a per-step tensor in candle's naming, as moshi-core's loader spells it."""
    parts = key.split(".")
    if key.startswith("depformer.layers."):
        rest = ".".join(parts[1:])
        for step in range(8):
            for old, new in (
                (f"self_attn.in_projs.{step}.weight", "self_attn.in_proj_weight"),
                (f"self_attn.out_projs.{step}.weight", "self_attn.out_proj.weight"),
                (f"gating.{step}.linear_in.weight", "gating.linear_in.weight"),
                (f"gating.{step}.linear_out.weight", "gating.linear_out.weight"),
            ):
                if rest.endswith(old):
                    return f"depformer.{step}.transformer." + rest.replace(old, new)
        return f"depformer.0.transformer.{rest}"  # norms: the same in every step, one copy is enough for this test
    for old, new in (("depformer_in", "linear_in"), ("linears", "linear_out")):
        if parts[0] == old:
            return f"depformer.{parts[1]}.{new}.weight"
    if parts[0] == "depformer_text_emb":
        return "depformer.0.emb.weight"
    if parts[0] == "depformer_emb":
        return f"depformer.{int(parts[1]) + 1}.emb.weight"
    return key.replace("in_projs.0.weight", "in_proj_weight").replace("out_projs.0.weight", "out_proj.weight")


def make_transformers(out: Path, seed: int = 26) -> None:
    """transformers' MoshiForConditionalGeneration with random weights, saved and run by transformers itself."""
    from transformers import MimiConfig, MoshiConfig, MoshiForConditionalGeneration

    folder = out / "transformers"
    folder.mkdir(parents=True, exist_ok=True)
    codec = MimiConfig(
        hidden_size=16, num_filters=2, codebook_size=16, codebook_dim=8, vector_quantization_hidden_dimension=8, num_quantizers=4,
        num_hidden_layers=1, intermediate_size=32, num_attention_heads=2, num_key_value_heads=2, head_dim=8, sliding_window=10,
        upsample_groups=16,
    )  # fmt: skip
    config = MoshiConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64, num_codebooks=2,
        max_position_embeddings=64, sliding_window=64, audio_encoder_config=codec.to_dict(), attn_implementation="eager",
        depth_decoder_config={
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 48, "max_position_embeddings": 3,
        },
    )  # fmt: skip
    torch.manual_seed(seed)
    model = MoshiForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.startswith("audio_encoder"):
                parameter.copy_(torch.from_numpy(spread(seed, name, tuple(parameter.shape), 1.5 / parameter.shape[-1] ** 0.5)))
            elif "norm" in name and not name.startswith("audio_encoder"):
                parameter.copy_(torch.from_numpy(1 + spread(seed, name, tuple(parameter.shape), 0.3)))
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    rows, tokens = inputs({"n_q": 4, "dep_q": 2, "card": 16, "text_card": 32}, seed)
    ids = torch.from_numpy(rows)[None]
    with torch.no_grad():
        embedded = model.decoder.model.embed_tokens(ids[:, :, 0])
        for k in range(4):
            embedded = embedded + model.embed_tokens[k](ids[:, :, k + 1])
        hidden = model.decoder.model(inputs_embeds=embedded).last_hidden_state[0]
        text = model.decoder.lm_head(hidden)
        audio = model.depth_decoder(
            input_ids=torch.from_numpy(tokens), last_hidden_state=hidden[:, None], use_cache=False,
            attention_mask=torch.ones(tokens.shape),  # without a mask nothing is causal
        ).logits  # fmt: skip
    golden = {"hidden": hidden.numpy(), "text_logits": text.numpy(), "audio_logits": audio.numpy()}
    save_file({"rows": rows, "tokens": tokens} | golden, folder / "golden.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kyutai_git", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "tests/golden/data/formats")
    args = parser.parse_args()
    torch.set_num_threads(1)
    make_base(args.out, "mlx_wide", wide(), 24)
    schedule = {"depformer_weights_per_step_schedule": [0, 1, 1], "depformer_low_rank_embeddings": 8}
    make_base(args.out, "mlx_schedule", small() | {"n_q": 4, "dep_q": 3, "delays": [0, 0, 1, 1, 0]} | schedule, 25)
    make_lora(args.out)
    make_bitsandbytes(args.out)
    make_candle(args.out, args.kyutai_git)
    make_gguf(args.out, "gguf_q8_0_candle", small(), "Q8_0", "candle", 27)
    q4_k = small(dim=256, hidden_scale=0.375)
    make_gguf(args.out, "gguf_q4_k_moshi_cpp", q4_k, "Q4_K", "moshi.cpp", 28)
    make_transformers(args.out)


if __name__ == "__main__":
    main()
