"""The only renaming table: every published tensor naming, mapped to Kyutai's newest PyTorch names."""

import re
from collections.abc import Iterable

# Older Kyutai files keep the depformer's per-step projections stacked in one tensor, and Mimi's under nn.MultiheadAttention's
# names; newer ones split them: `in_projs.{step}.weight`.
STACKED = {
    "self_attn.in_proj_weight": "self_attn.in_projs.{}.weight",
    "self_attn.in_proj.weight": "self_attn.in_projs.{}.weight",
    "self_attn.out_proj.weight": "self_attn.out_projs.{}.weight",
}

CODEBOOK_ALIASES = {
    "inited": "_initialized",
    "cluster_size": "cluster_usage",
    "embed_avg": "embedding_sum",
    "embed_sum": "embedding_sum",
}


def stacked_target(name: str) -> str | None:
    """The per-step name pattern when `name` is a stacked projection, else None."""
    for old, new in STACKED.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return None


def codebook_alias(name: str) -> str:
    """Older codebook buffer names in today's."""
    head, _, last = name.rpartition(".")
    return f"{head}.{CODEBOOK_ALIASES[last]}" if head.endswith("_codebook") and last in CODEBOOK_ALIASES else name


_OURS = r"\1.transformer.layers.\2"
_LAYER = r"(\w+coder_transformer)\.layers\.(\d+)"

# Hugging Face `kyutai/mimi`, read from transformers' MimiModel: (pattern, replacement); q, k and v are joined after.
_HF_MIMI: list[tuple[str, str]] = [
    (r"^(encoder|decoder)\.layers\.(\d+)\.block\.(\d+)\.conv\.(weight|bias)$", r"\1.model.\2.block.\3.conv.conv.\4"),
    (r"^(encoder|decoder)\.layers\.(\d+)\.shortcut\.conv\.(weight|bias)$", r"\1.model.\2.shortcut.conv.conv.\3"),
    (r"^(encoder|decoder)\.layers\.(\d+)\.conv\.(weight|bias)$", r"\1.model.\2.conv.conv.\3"),
    (r"^downsample\.conv\.weight$", r"downsample.conv.conv.conv.weight"),
    (r"^upsample\.conv\.weight$", r"upsample.convtr.convtr.convtr.weight"),
    (rf"^{_LAYER}\.self_attn\.o_proj\.weight$", _OURS + r".self_attn.out_projs.0.weight"),
    (rf"^{_LAYER}\.self_attn\.([qkv])_proj\.weight$", _OURS + r".self_attn.in_projs.0.weight#\3"),
    (rf"^{_LAYER}\.input_layernorm\.(weight|bias)$", _OURS + r".norm1.\3"),
    (rf"^{_LAYER}\.post_attention_layernorm\.(weight|bias)$", _OURS + r".norm2.\3"),
    (rf"^{_LAYER}\.mlp\.fc([12])\.weight$", _OURS + r".linear\3.weight"),
    (rf"^{_LAYER}\.self_attn_layer_scale\.scale$", _OURS + r".layer_scale_1.scale"),
    (rf"^{_LAYER}\.mlp_layer_scale\.scale$", _OURS + r".layer_scale_2.scale"),
    (r"^quantizer\.semantic_residual_vector_quantizer\.", r"quantizer.rvq_first."),
    (r"^quantizer\.acoustic_residual_vector_quantizer\.", r"quantizer.rvq_rest."),
    (r"^(quantizer\.rvq_\w+)\.layers\.(\d+)\.codebook\.embed_sum$", r"\1.vq.layers.\2._codebook.embedding_sum"),
    (r"^(quantizer\.rvq_\w+)\.layers\.(\d+)\.codebook\.cluster_usage$", r"\1.vq.layers.\2._codebook.cluster_usage"),
    (r"^(quantizer\.rvq_\w+)\.layers\.(\d+)\.codebook\.initialized$", r"\1.vq.layers.\2._codebook._initialized"),
]  # fmt: skip


def is_hf_mimi(names: Iterable[str]) -> bool:
    """Whether a codec file uses Hugging Face's names."""
    return any(name.startswith("quantizer.semantic_residual_vector_quantizer.") for name in names)


def hf_mimi_name(name: str) -> str:
    """Hugging Face's name in Kyutai's; a `#q`, `#k` or `#v` suffix marks a third of a joined projection."""
    for pattern, replacement in _HF_MIMI:
        name = re.sub(pattern, replacement, name)
    return name
