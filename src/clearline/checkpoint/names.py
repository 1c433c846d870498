"""The only renaming table: every published tensor naming, mapped to Kyutai's newest PyTorch names.

A rename may carry a note behind "#": `#q`, `#k`, `#v` mark thirds of a joined projection, `#each` a tensor whose first
axis runs over depformer steps (`{}` in the name is the step).
"""

import re
import zlib
from collections.abc import Collection
from typing import Literal

from clearline.config import LMConfig

Naming = Literal["kyutai", "mlx", "candle", "transformers"]

# Older Kyutai files keep the depformer's per-step projections stacked in one tensor, and Mimi's under nn.MultiheadAttention's
# names; newer ones split them: `in_projs.{step}.weight`.
_STACKED = {
    "self_attn.in_proj_weight": "self_attn.in_projs.{}.weight",
    "self_attn.in_proj.weight": "self_attn.in_projs.{}.weight",
    "self_attn.out_proj.weight": "self_attn.out_projs.{}.weight",
    "self_attn.in_proj.lora_A.weight": "self_attn.in_projs.{}.lora_A.weight",
    "self_attn.in_proj.lora_B.weight": "self_attn.in_projs.{}.lora_B.weight",
    "self_attn.out_proj.lora_A.weight": "self_attn.out_projs.{}.lora_A.weight",
    "self_attn.out_proj.lora_B.weight": "self_attn.out_projs.{}.lora_B.weight",
}

_LINEARS = ("in_projs", "out_projs", "linear_in", "linear_out", "linear1", "linear2", "linears", "text_linear", "depformer_in")

_CODEBOOK_ALIASES = {
    "inited": "_initialized",
    "cluster_size": "cluster_usage",
    "embed_avg": "embedding_sum",
    "embed_sum": "embedding_sum",
}


def stacked_target(name: str) -> str | None:
    """The per-step name pattern when `name` is a stacked projection, else None."""
    for old, new in _STACKED.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return None


def codebook_alias(name: str) -> str:
    """Older codebook buffer names in today's."""
    head, _, last = name.rpartition(".")
    return f"{head}.{_CODEBOOK_ALIASES[last]}" if head.endswith("_codebook") and last in _CODEBOOK_ALIASES else name


def is_linear(name: str) -> bool:
    """Whether a tensor of the language model (Kyutai's name) is a matrix that activations are multiplied with."""
    return name.endswith(".weight") and not {*_LINEARS}.isdisjoint(name.split("."))


def linear_bits(name: str, bits: int) -> int:
    """Bits of a linear weight's codes in a model that is rounded to `bits`, 8 or 4.

    All that the depformer knows of a frame comes in by `depformer_in`, all it says leaves by `linears`, and the text by
    `text_linear`: 2 to 8% of the weights, and a third to a half of what rounding them to 4 bits costs. They keep 8.
    """
    return 8 if name.partition(".")[0] in ("depformer_in", "linears", "text_linear") else bits


# -- the language model -------------------------------------------------------------------------------------------------


def lm_naming(names: Collection[str]) -> Naming:
    """Whose names a file of language model weights uses."""
    if any(name.startswith(("depth_decoder.", "decoder.model.")) for name in names):
        return "transformers"
    if any(name.startswith(("audio_embs.", "depformer.slices.")) for name in names):
        return "mlx"
    # A speech-to-text model has no depformer: then Candle's names and Kyutai's are the same.
    return "candle" if any(re.match(r"depformer\.\d+\.", name) for name in names) else "kyutai"


def lm_name(name: str, naming: Naming, cfg: LMConfig) -> str:
    """A tensor's name in Kyutai's naming; unknown names stay as they are, and are reported as not expected."""
    name = name.removeprefix("lm.") if naming == "kyutai" else name  # moshi.cpp's GGUF files
    if naming == "kyutai":
        return name.replace(".frozen_W.", ".")
    if naming == "transformers":
        return _first(_TRANSFORMERS_LM, name)
    slice_ = re.match(r"depformer\.(?:slices\.)?(\d+)\.(.*)", name)
    if slice_:
        return _depformer_slice(int(slice_[1]), slice_[2], cfg)
    return re.sub(r"^audio_embs\.", "emb.", name) if naming == "mlx" else name


def _depformer_slice(k: int, rest: str, cfg: LMConfig) -> str:
    """MLX and Candle keep a whole small model per step; Kyutai keeps one with weights per step, or per schedule entry."""
    transformer = cfg.depformer.transformer if cfg.depformer is not None else None
    index = transformer.weight_index(k) if transformer is not None and k < max(1, transformer.steps or cfg.dep_q) else k
    multi_linear = cfg.depformer is not None and cfg.depformer.multi_linear
    if rest.startswith("linear_in."):
        return f"depformer_in.{index if multi_linear else 0}.{rest.removeprefix('linear_in.')}"
    if rest.startswith("linear_out."):
        return f"linears.{k}.{rest.removeprefix('linear_out.')}"
    if rest.startswith("emb."):
        return f"{'depformer_text_emb' if k == 0 else f'depformer_emb.{k - 1}'}.{rest.removeprefix('emb.')}"
    rest = rest.removeprefix("transformer.")
    rest = re.sub(r"self_attn\.(in|out)_proj(\.|_)weight$", rf"self_attn.\1_projs.{index}.weight", rest)
    if transformer is not None and transformer.steps:
        rest = re.sub(r"\.gating\.linear_(in|out)\.", rf".gating.{index}.linear_\1.", rest)
    return f"depformer.{rest}"


_DEC, _DEPTH = r"^decoder\.model\.layers\.(\d+)\.", r"^depth_decoder\.layers\.(\d+)\."
_OURS, _DEP = r"transformer.layers.\1.", r"depformer.layers.\1."
# transformers' MoshiForConditionalGeneration.
_TRANSFORMERS_LM: list[tuple[str, str]] = [
    (r"^decoder\.model\.embed_tokens\.weight$", "text_emb.weight"),
    (r"^decoder\.lm_head\.weight$", "text_linear.weight"),
    (r"^decoder\.model\.norm\.weight$", "out_norm.alpha"),
    (r"^embed_tokens\.(\d+)\.weight$", r"emb.\1.weight"),
    (_DEC + r"self_attn\.([qkv])_proj\.linear\.weight$", _OURS + r"self_attn.in_projs.0.weight#\2"),
    (_DEC + r"self_attn\.o_proj\.linear\.weight$", _OURS + r"self_attn.out_projs.0.weight"),
    (_DEC + r"mlp\.fc1\.weight$", _OURS + "gating.linear_in.weight"),
    (_DEC + r"mlp\.fc2\.weight$", _OURS + "gating.linear_out.weight"),
    (_DEC + r"input_layernorm\.weight$", _OURS + "norm1.alpha"),
    (_DEC + r"post_attention_layernorm\.weight$", _OURS + "norm2.alpha"),
    (r"^depth_decoder\.text_embed_tokens\.weight$", "depformer_text_emb.weight"),
    (r"^depth_decoder\.embed_tokens\.(\d+)\.weight$", r"depformer_emb.\1.weight"),
    (r"^depth_decoder\.input_projections\.weight$", "depformer_in.{}.weight#each"),
    (r"^depth_decoder\.lm_heads\.weight$", "linears.{}.weight#each"),
    (_DEPTH + r"self_attn\.([qkv])_proj\.linear\.weight$", _DEP + r"self_attn.in_projs.{}.weight#each#\2"),
    (_DEPTH + r"self_attn\.o_proj\.linear\.weight$", _DEP + "self_attn.out_projs.{}.weight#each"),
    (_DEPTH + r"mlp\.fc1\.weight$", _DEP + "gating.{}.linear_in.weight#each"),
    (_DEPTH + r"mlp\.fc2\.weight$", _DEP + "gating.{}.linear_out.weight#each"),
    (_DEPTH + r"input_layernorm\.weight$", _DEP + "norm1.alpha"),
    (_DEPTH + r"post_attention_layernorm\.weight$", _DEP + "norm2.alpha"),
]

# -- the codec ----------------------------------------------------------------------------------------------------------

_MIMI_LAYER, _MIMI_OURS = r"^(\w+coder_transformer)\.layers\.(\d+)", r"\1.transformer.layers.\2"
_CODEBOOK, _CODEBOOK_OURS = r"^(quantizer\.rvq_\w+)\.layers\.(\d+)\.codebook\.", r"\1.vq.layers.\2._codebook."
# Hugging Face `kyutai/mimi`, read from transformers' MimiModel. Whether a `conv` is a transposed one is not in its name.
_TRANSFORMERS_MIMI: list[tuple[str, str]] = [
    (r"^(encoder|decoder)\.layers\.(\d+)\.block\.(\d+)\.conv\.(weight|bias)$", r"\1.model.\2.block.\3.conv.conv.\4"),
    (r"^(encoder|decoder)\.layers\.(\d+)\.shortcut\.conv\.(weight|bias)$", r"\1.model.\2.shortcut.conv.conv.\3"),
    (r"^(encoder|decoder)\.layers\.(\d+)\.conv\.(weight|bias)$", r"\1.model.\2.conv.conv.\3"),
    (r"^downsample\.conv\.weight$", r"downsample.conv.conv.conv.weight"),
    (r"^upsample\.conv\.weight$", r"upsample.convtr.convtr.convtr.weight"),
    (_MIMI_LAYER + r"\.self_attn\.o_proj\.weight$", _MIMI_OURS + r".self_attn.out_projs.0.weight"),
    (_MIMI_LAYER + r"\.self_attn\.([qkv])_proj\.weight$", _MIMI_OURS + r".self_attn.in_projs.0.weight#\3"),
    (_MIMI_LAYER + r"\.input_layernorm\.(weight|bias)$", _MIMI_OURS + r".norm1.\3"),
    (_MIMI_LAYER + r"\.post_attention_layernorm\.(weight|bias)$", _MIMI_OURS + r".norm2.\3"),
    (_MIMI_LAYER + r"\.mlp\.fc([12])\.weight$", _MIMI_OURS + r".linear\3.weight"),
    (_MIMI_LAYER + r"\.self_attn_layer_scale\.scale$", _MIMI_OURS + r".layer_scale_1.scale"),
    (_MIMI_LAYER + r"\.mlp_layer_scale\.scale$", _MIMI_OURS + r".layer_scale_2.scale"),
    (_CODEBOOK + r"embed_sum$", _CODEBOOK_OURS + "embedding_sum"),
    (_CODEBOOK + r"cluster_usage$", _CODEBOOK_OURS + "cluster_usage"),
    (_CODEBOOK + r"initialized$", _CODEBOOK_OURS + "_initialized"),
]


def moshi_cpp_name(name: str) -> str:
    """What a tensor of the codec is called in moshi.cpp's GGUF files.

    ggml holds names of 63 bytes; a longer one becomes the low half of each byte of its CRC-32 and four zeros.
    """
    name = f"mimi.{name}"
    if len(name) < 64:
        return name
    crc = zlib.crc32(name.encode())
    return "".join("0123456789abcdef"[crc >> shift & 15] for shift in (0, 8, 16, 24)) + "0000"


def is_transformers_mimi(names: Collection[str]) -> bool:
    """Whether a codec file uses transformers' names."""
    return any(name.startswith("quantizer.semantic_residual_vector_quantizer.") for name in names)


def transformers_mimi_name(name: str, expected: Collection[str]) -> str:
    """transformers' name in Kyutai's; `expected` says which convolutions are transposed."""
    name = name.replace("quantizer.semantic_residual_vector_quantizer.", "quantizer.rvq_first.")
    name = name.replace("quantizer.acoustic_residual_vector_quantizer.", "quantizer.rvq_rest.")
    target = _first(_TRANSFORMERS_MIMI, name)
    transposed = target.replace(".conv.conv.", ".convtr.convtr.")
    return transposed if transposed in expected else target


def _first(table: list[tuple[str, str]], name: str) -> str:
    for pattern, replacement in table:
        target, hits = re.subn(pattern, replacement, name)
        if hits:
            return target
    return name
