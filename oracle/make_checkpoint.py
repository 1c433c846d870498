"""Makes a small random checkpoint folder in Kyutai's file layout, using the official package's own objects.

Command line:  python oracle/make_checkpoint.py CASE FOLDER [--seed N]
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import re
from pathlib import Path

os.environ.setdefault("NO_TORCH_COMPILE", "1")

import numpy as np
import sentencepiece
import torch
from cases import CASES, Case
from moshi.models import LMModel, MimiModel, loaders
from philox_mimi import mimi_state, spread, stack_attention, uniform
from safetensors.torch import save_file

MOSHI_NAME = "model.safetensors"
MIMI_NAME = "mimi.safetensors"
MIMI_CONFIG_NAME = "mimi_config.json"
TOKENIZER_NAME = "tokenizer.model"


def lm_tensor(name: str, shape: tuple[int, ...], seed: int, embeddings: int, head_gain: float) -> np.ndarray:
    """One LM weight: logits get a spread of about 3 and every part matters."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "alpha" or (leaf == "weight" and len(shape) == 1):
        value = 1.0 + 0.4 * uniform(seed, name, shape)
    elif leaf == "bias":
        value = spread(seed, name, shape, 0.4 if "linear" in name else 0.15)
    elif leaf == "scale":
        value = 0.6 + 0.3 * uniform(seed, name, shape)
    elif name.startswith("depformer_") and "emb" in name:
        value = spread(seed, name, shape, 1.0 if "low_rank" not in name else 1.0 / math.sqrt(shape[1]))
    elif "emb." in name:
        value = spread(seed, name, shape, 1.5 / math.sqrt(embeddings))
    else:
        gain = 1.0
        if "in_projs" in name or re.search(r"linear(1|_in)\.", name):
            gain = 1.5
        elif re.match(r"(text_linear|extra_heads)", name):
            gain = 3.0
        elif name.startswith("linears."):
            gain = head_gain
        value = spread(seed, name, shape, gain / math.sqrt(shape[1]))
    return np.asarray(value, dtype=np.float32)


def random_lm(config: dict, seed: int) -> LMModel:
    """The official LM with random weights."""
    model = loaders.get_moshi_lm(None, lm_kwargs=dict(config), device="cpu", dtype=torch.float32)
    state = model.state_dict()
    # Without a norm before the last linear maps, their input is already larger than one.
    rest = (seed, config["n_q"] + 1, 2.8 if config.get("depformer_norm") else 1.2)
    fresh = {k: torch.from_numpy(lm_tensor(k, tuple(v.shape), *rest)) for k, v in state.items()}
    model.load_state_dict(fresh)
    return model


def random_mimi(config: dict, seed: int) -> MimiModel:
    """The official Mimi with random weights, all codebooks active."""
    model = loaders.get_mimi(None, config, num_codebooks=config["quantizer"]["n_q"])
    shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
    model.load_state_dict({k: torch.from_numpy(v) for k, v in mimi_state(shapes, seed).items()})
    return model


def train_tokenizer(path: Path, vocabulary: int, byte_fallback: bool) -> None:
    """Trains a SentencePiece model with the special ids that Kyutai's models rely on."""
    starts = ["ba", "ke", "lo", "mi", "nu", "sa", "te", "ri", "do", "fa", "wu", "ye"]
    ends = ["n", "r", "st", "l", "ne", "ta", "ck", "m"]
    words = [a + b + c for a in starts for b in starts for c in ends]
    lines = [" ".join(words[(7 * i + 31 * j) % len(words)] for j in range(9)) for i in range(600)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=vocabulary,
        model_type="bpe",
        byte_fallback=byte_fallback,
        # The default rule embeds a table of 230 KB; one case keeps it, as a released tokenizer may have it.
        normalization_rule_name="nmt_nfkc" if byte_fallback else "identity",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(str(path))
    assert processor.vocab_size() == vocabulary and processor.eos_id() == 2 and processor.pad_id() == 3


def huggingface_mimi(model: MimiModel, config: dict) -> tuple[dict[str, torch.Tensor], dict]:
    """The same Mimi under the names that transformers' MimiModel uses, and its configuration."""
    heads = config["transformer"]["num_heads"]
    out: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        match = re.match(r"(encoder|decoder)\.model\.(.*)", name)
        if match:
            rest = match.group(2).replace(".conv.conv.", ".conv.").replace(".convtr.convtr.", ".conv.")
            out[f"{match.group(1)}.layers.{rest}"] = value
        elif name.startswith(("downsample.", "upsample.")):
            out[name.split(".")[0] + ".conv.weight"] = value
        elif "_transformer." in name:
            side, layer, rest = re.match(r"(.*)\.transformer\.layers\.(\d+)\.(.*)", name).groups()
            prefix = f"{side}.layers.{layer}."
            if rest.startswith("self_attn.in_projs.0"):
                for key, part in zip("qkv", value.chunk(3), strict=True):
                    if key != "v":
                        # Kyutai rotates neighbouring pairs, transformers rotates the two halves of a head.
                        part = part.view(heads, -1, 2, part.shape[1]).transpose(1, 2).reshape(part.shape)
                    out[f"{prefix}self_attn.{key}_proj.weight"] = part
            else:
                for old, new in (
                    ("self_attn.out_projs.0.", "self_attn.o_proj."),
                    ("norm1.", "input_layernorm."),
                    ("norm2.", "post_attention_layernorm."),
                    ("linear1.", "mlp.fc1."),
                    ("linear2.", "mlp.fc2."),
                    ("layer_scale_1.", "self_attn_layer_scale."),
                    ("layer_scale_2.", "mlp_layer_scale."),
                ):
                    if rest.startswith(old):
                        out[prefix + rest.replace(old, new)] = value
        else:
            rest = name.removeprefix("quantizer.")
            rest = rest.replace("rvq_first.", "semantic_residual_vector_quantizer.")
            rest = rest.replace("rvq_rest.", "acoustic_residual_vector_quantizer.")
            rest = rest.replace("vq.layers", "layers").replace("_codebook._initialized", "codebook.initialized")
            rest = rest.replace("_codebook.embedding_sum", "codebook.embed_sum").replace("_codebook.", "codebook.")
            out[f"quantizer.{rest}"] = value
    seanet, transformer, quantizer = config["seanet"], config["transformer"], config["quantizer"]
    hf_config = {
        "model_type": "mimi",
        "architectures": ["MimiModel"],
        "sampling_rate": config["sample_rate"],
        "frame_rate": config["frame_rate"],
        "audio_channels": config["channels"],
        "hidden_size": seanet["dimension"],
        "num_filters": seanet["n_filters"],
        "num_residual_layers": seanet["n_residual_layers"],
        "upsampling_ratios": seanet["ratios"],
        "kernel_size": seanet["kernel_size"],
        "last_kernel_size": seanet["last_kernel_size"],
        "residual_kernel_size": seanet["residual_kernel_size"],
        "dilation_growth_rate": seanet["dilation_base"],
        "use_causal_conv": True,
        "pad_mode": "constant",
        "compress": seanet["compress"],
        "trim_right_ratio": 1.0,
        "codebook_size": quantizer["bins"],
        "codebook_dim": quantizer["dimension"],
        "vector_quantization_hidden_dimension": quantizer["dimension"],
        "num_quantizers": quantizer["n_q"],
        "num_semantic_quantizers": 1,
        "use_conv_shortcut": False,
        "upsample_groups": seanet["dimension"],
        "num_hidden_layers": transformer["num_layers"],
        "intermediate_size": transformer["dim_feedforward"],
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": transformer["d_model"] // heads,
        "hidden_act": "gelu",
        "max_position_embeddings": 8000,
        "norm_eps": 1e-5,
        "rope_theta": float(transformer["max_period"]),
        "sliding_window": transformer["context"],
        "layer_scale_initial_scale": transformer["layer_scale"],
        "attention_bias": False,
    }
    return {k: v.contiguous().clone() for k, v in out.items()}, hf_config


def _save(path: Path, state: dict[str, torch.Tensor], stacked: bool, dtype: torch.dtype) -> None:
    if stacked:
        state = {k: torch.from_numpy(v) for k, v in stack_attention({k: v.numpy() for k, v in state.items()}).items()}
    save_file({k: v.to(dtype).contiguous().clone() for k, v in sorted(state.items())}, str(path))


def _dump(path: Path, data: dict) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n")


def make_checkpoint(case: Case, folder: Path, seed: int | None = None) -> Path:
    """Writes the checkpoint folder of one case and returns it."""
    seed = case.seed if seed is None else seed
    folder.mkdir(parents=True, exist_ok=True)
    names = {
        "moshi_name": MOSHI_NAME,
        "mimi_name": MIMI_NAME,
        "mimi_config_name": MIMI_CONFIG_NAME,
        "tokenizer_name": TOKENIZER_NAME,
    }
    _dump(folder / "config.json", case.lm | {"model_type": "moshi"} | case.extra | names)
    _dump(folder / MIMI_CONFIG_NAME, case.mimi)
    model = random_lm(case.lm, seed)
    dtype = torch.bfloat16 if case.bfloat16 else torch.float32
    _save(folder / MOSHI_NAME, model.state_dict(), case.stacked, dtype)
    codec = random_mimi(case.mimi, seed)
    _save(folder / MIMI_NAME, codec.state_dict(), case.stacked, torch.float32)
    if case.huggingface_mimi:
        state, config = huggingface_mimi(codec, case.mimi)
        save_file(dict(sorted(state.items())), str(folder / "mimi_hf.safetensors"))
        _dump(folder / "mimi_hf_config.json", config)
    train_tokenizer(folder / TOKENIZER_NAME, case.lm["text_card"], case.byte_fallback)
    return folder


def load_checkpoint(folder: Path) -> loaders.CheckpointInfo:
    """Reads a local checkpoint folder through the official `CheckpointInfo`."""
    config = json.loads((folder / "config.json").read_text())
    mimi_config = config.get("mimi_config_name")
    return loaders.CheckpointInfo.from_hf_repo(
        "local/folder",
        moshi_weights=folder / config["moshi_name"],
        mimi_weights=folder / config["mimi_name"],
        tokenizer=folder / config["tokenizer_name"],
        config_path=folder / "config.json",
        mimi_config_path=folder / mimi_config if mimi_config else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    make_checkpoint(CASES[args.case], args.folder, args.seed)


if __name__ == "__main__":
    main()
