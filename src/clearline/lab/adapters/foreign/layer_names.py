"""Names of layers of moshi_mlx as Kyutai's PyTorch files have them."""

import re


def pytorch_name(name: str) -> str:
    """moshi_mlx has one depformer slice for every codebook where PyTorch has one weight for every codebook in each layer."""
    sliced = re.match(r"depformer\.slices\.(\d+)\.(.+)", name)
    if sliced is None:
        return re.sub(r"\.self_attn\.(in|out)_proj$", r".self_attn.\1_projs.0", re.sub(r"^audio_embs\.", "emb.", name))
    k, rest = int(sliced[1]), sliced[2]
    rest = re.sub(r"\.self_attn\.(in|out)_proj$", rf".self_attn.\1_projs.{k}", rest)
    rest = re.sub(r"\.gating\.", f".gating.{k}.", rest)
    rest = re.sub(r"^transformer\.", "depformer.", rest)
    plain = {
        "linear_in": f"depformer_in.{k}",
        "linear_out": f"linears.{k}",
        "emb": f"depformer_emb.{k - 1}" if k else "depformer_text_emb",
    }
    return f"codebook {k}: {plain.get(rest, rest)}"
