"""Writing: which tensor goes into a file under which name, in the naming of each official implementation."""

from collections.abc import Iterator, Mapping
from typing import Literal

from clearline.config import LMConfig
from clearline.errors import ConfigError

Layout = Literal["kyutai", "mlx", "candle", "moshi.cpp"]
LAYOUTS: tuple[Layout, ...] = ("kyutai", "mlx", "candle", "moshi.cpp")


def file_names(cfg: LMConfig, shapes: Mapping[str, tuple[int, ...]], layout: Layout) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(name in the file, Kyutai's name, shape in the file) of every tensor to write.

    Raises ConfigError when the implementation has no place for something this model has.
    """
    if layout in ("kyutai", "moshi.cpp"):
        prefix = "lm." if layout == "moshi.cpp" else ""
        yield from ((prefix + name, name, shape) for name, shape in shapes.items())
        return
    _check(cfg, layout)
    for name, shape in shapes.items():
        if name.startswith(("depformer", "linears.")):
            continue
        target = name.replace("in_projs.0.weight", "in_proj.weight" if layout == "mlx" else "in_proj_weight")
        target = target.replace("out_projs.0.", "out_proj.")
        if layout == "mlx":
            target = f"audio_embs.{target.removeprefix('emb.')}" if target.startswith("emb.") else target
        yield _norm(target, name, shape, layout)
    for k in range(cfg.dep_q):
        prefix = f"depformer.slices.{k}." if layout == "mlx" else f"depformer.{k}."
        for target, name in _slice(cfg, shapes, k, layout):
            yield _norm(prefix + target, name, shapes[name], layout)


def _norm(target: str, name: str, shape: tuple[int, ...], layout: Layout) -> tuple[str, str, tuple[int, ...]]:
    if layout == "mlx" and target.endswith(".alpha"):
        return target.removesuffix("alpha") + "weight", name, shape[-1:]
    return target, name, shape


def _slice(cfg: LMConfig, shapes: Mapping[str, tuple[int, ...]], k: int, layout: Layout) -> Iterator[tuple[str, str]]:
    """One depformer step as the small model of its own that MLX and Candle keep for it."""
    assert cfg.depformer is not None
    inner = cfg.depformer.transformer
    index = inner.weight_index(k)
    yield "linear_in.weight", f"depformer_in.{index if cfg.depformer.multi_linear else 0}.weight"
    yield "linear_out.weight", f"linears.{k}.weight"
    embedding = "depformer_text_emb" if k == 0 else f"depformer_emb.{k - 1}"
    yield "emb.weight", f"{embedding}.weight"
    if cfg.depformer.low_rank is not None:
        yield "emb.low_rank.weight", f"{embedding}.low_rank.weight"
    in_proj = "in_proj.weight" if layout == "mlx" else "in_proj_weight"
    gate = f"gating.{index}" if inner.steps else "gating"
    for i in range(inner.num_layers):
        ours, theirs = f"depformer.layers.{i}.", f"transformer.layers.{i}."
        yield f"{theirs}self_attn.{in_proj}", f"{ours}self_attn.in_projs.{index}.weight"
        yield f"{theirs}self_attn.out_proj.weight", f"{ours}self_attn.out_projs.{index}.weight"
        yield f"{theirs}gating.linear_in.weight", f"{ours}{gate}.linear_in.weight"
        yield f"{theirs}gating.linear_out.weight", f"{ours}{gate}.linear_out.weight"
        yield f"{theirs}norm1.alpha", f"{ours}norm1.alpha"
        yield f"{theirs}norm2.alpha", f"{ours}norm2.alpha"


def _check(cfg: LMConfig, layout: Layout) -> None:
    main, dep = cfg.transformer, cfg.depformer
    stages = [main] if dep is None else [main, dep.transformer]
    problems = {
        "norm_emb": cfg.norm_emb,
        "bias_proj": cfg.bias_proj,
        "depformer_norm": dep is not None and dep.norm is not None,
        "kv_repeat": any(stage.num_kv_heads != stage.num_heads for stage in stages),
        "layer_scale": any(stage.layer_scale for stage in stages),
        "norm other than rms_norm_f32": any(stage.norm != "rms_norm_f32" for stage in stages),
        "gating other than silu": any(stage.gating != "silu" for stage in stages),
        "positions other than rope": main.position != "rope",
        "depformer positions": dep is not None and dep.transformer.position != "none",
        "text_card_out": layout == "mlx" and cfg.text_card_out != cfg.text_card,
    }
    found = [what for what, there in problems.items() if there]
    if found:
        raise ConfigError(f"the {layout} layout has no place for {', '.join(found)} of this model; --names kyutai has")
