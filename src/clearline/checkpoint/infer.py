"""The dimensions of a language model as the shapes of its tensors tell them, against what its configuration says."""

import re
from collections.abc import Mapping

from clearline.checkpoint.lazy import Lazy
from clearline.config import LMConfig

Dimensions = dict[str, int | str]


def inferred(tensors: Mapping[str, Lazy]) -> Dimensions:
    """What the shapes say, tensors being under Kyutai's names. Heads, context and positions are not in any shape."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    out: Dimensions = {}

    def first(pattern: str) -> tuple[int, ...] | None:
        return next((shape for name, shape in shapes.items() if re.fullmatch(pattern, name) and len(shape) > 1), None)

    def count(pattern: str) -> int:
        found = [int(match[1]) for name in shapes if (match := re.match(pattern, name))]
        return max(found) + 1 if found else 0

    text, head = first(r"text_emb\.weight"), first(r"text_linear\.weight")
    if text is not None:
        out |= {"width": text[1], "text vocabulary in": text[0]}
    if head is not None:
        out |= {"width": head[1], "text vocabulary out": head[0]}
    audio = first(r"emb\.0\.weight")
    out |= {"audio codebooks": count(r"emb\.(\d+)\."), "generated codebooks": count(r"linears\.(\d+)\.weight")}
    if audio is not None:
        out["audio vocabulary"] = audio[0]
    out["layers"] = count(r"transformer\.layers\.(\d+)\.")
    ffn = first(r"transformer\.layers\.0\.(gating\.linear_out|linear2)\.weight")
    if ffn is not None:
        out["feed-forward hidden size"] = ffn[1]
    out["extra heads"] = count(r"extra_heads\.(\d+)\.")
    if out["generated codebooks"]:
        width = first(r"depformer_in\.0\.weight")
        dep_ffn = first(r"depformer\.layers\.0\.(gating\.(0\.)?linear_out|linear2)\.weight")
        low_rank = first(r"depformer_text_emb\.low_rank\.weight")
        out["depformer layers"] = count(r"depformer\.layers\.(\d+)\.")
        out["depformer sets of weights"] = count(r"depformer\.layers\.0\.self_attn\.in_projs\.(\d+)\.weight")
        out["depformer width"] = width[0] if width else 0
        out["depformer feed-forward hidden size"] = dep_ffn[1] if dep_ffn else 0
        out["depformer low-rank embeddings"] = low_rank[1] if low_rank else 0
    return out


def configured(cfg: LMConfig) -> Dimensions:
    """The same entries as the configuration has them."""
    main, dep = cfg.transformer, cfg.depformer
    out: Dimensions = {
        "width": main.dim,
        "text vocabulary in": cfg.text_card + 1,
        "text vocabulary out": cfg.text_card_out,
        "audio codebooks": cfg.n_q,
        "generated codebooks": cfg.dep_q,
        "audio vocabulary": cfg.card + 1,
        "layers": main.num_layers,
        "feed-forward hidden size": main.ffn_hidden[0],
        "extra heads": cfg.extra_heads,
    }
    if dep is not None:
        inner = dep.transformer
        out |= {
            "depformer layers": inner.num_layers,
            "depformer sets of weights": inner.num_weights,
            "depformer width": inner.dim,
            "depformer feed-forward hidden size": inner.ffn_hidden[0],
            "depformer low-rank embeddings": dep.low_rank or 0,
        }
    return out


def differences(weights: Dimensions, config: Dimensions) -> list[str]:
    """A line for every dimension in which the weights contradict the configuration."""
    keys = list(dict.fromkeys([*config, *weights]))
    return [
        f"{key}: the weights have {weights.get(key, 'none')}, the configuration says {config.get(key, 'none')}"
        for key in keys
        if weights.get(key, 0) != config.get(key, 0)
    ]
