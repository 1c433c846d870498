"""What a model folder, or a lone weight file, is: everything `clearline inspect` tells."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clearline.checkpoint import fit
from clearline.checkpoint.files import open_tensors, shards
from clearline.checkpoint.folder import Checkpoint, open_checkpoint, read_tokenizer
from clearline.checkpoint.hub import MODEL_CARDS, licence_of
from clearline.checkpoint.infer import configured, differences, inferred
from clearline.checkpoint.lazy import Lazy
from clearline.checkpoint.names import is_linear, lm_naming
from clearline.checkpoint.quantised import fold
from clearline.config import LMConfig
from clearline.config.checkpoint import CheckpointConfig
from clearline.config.kyutai import MOSHI_7B, parse_checkpoint
from clearline.errors import CheckpointError, ClearlineError
from clearline.model import lm_weights, mimi_weights

FRAME_SECONDS = 0.08
KYUTAI = "Kyutai publishes its weights under CC-BY 4.0"
# Bytes a weight takes in memory on the onnx backend: codes, and one float32 scale for 32 of them.
BYTES_PER_WEIGHT = {"f32": 4.0, "q8": 1.125, "q4": 0.625}


@dataclass
class Inspection:
    """The findings; `contradictions` between configuration, weights, codec and tokenizer, and `missing` files, one line each."""

    path: str
    facts: dict[str, Any] = field(default_factory=dict)
    dimensions: dict[str, Any] = field(default_factory=dict)
    stored: dict[str, dict[str, int]] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    speed: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)


def inspect(path: Path) -> Inspection:
    """Look at a model folder, or at one file of weights. Raises ClearlineError for what cannot be read at all."""
    if path.is_file():
        return _inspect_file(path)
    checkpoint = open_checkpoint(path)
    config = checkpoint.config
    if not checkpoint.lm_path.is_file() and not (path / "config.json").is_file():
        raise CheckpointError(f"{path} holds no model: neither a config.json nor weights that are known by their name")
    out = Inspection(str(path))
    out.facts = {
        "model type": config.model_type,
        "configuration": checkpoint.source,
        "can be run": "yes" if not config.cannot_run else f"no: {'; '.join(config.cannot_run)}",
        "streams": _streams(config),
        "delays": list(config.lm.delays),
        "context": f"{config.lm.transformer.context} frames ({config.lm.transformer.context * FRAME_SECONDS:g} s)",
        "licence": _licence(path, config.model_type),
    }
    if config.conditioners:
        out.facts["conditioners"] = list(config.conditioners)
    if config.lora is not None:
        out.facts["LoRA"] = f"{config.lora.name}, rank {config.lora.rank}, scaling {config.lora.scaling:g}"
    _look_at_weights(out, checkpoint)
    _look_at_codec(out, checkpoint)
    _look_at_tokenizer(out, checkpoint)
    if out.missing and not config.cannot_run:
        out.facts["can be run"] = "not as it is: files are missing"
    out.memory |= {f"keys and values, {label}": _cache_bytes(config.lm, frames) for label, frames in _spans(config.lm)}
    return out


def step_bytes(cfg: LMConfig) -> tuple[int, int]:
    """Weights of the matrices that every 80 ms step reads, and the bytes of keys and values at full context."""
    linear = sum(math.prod(shape) for name, shape in lm_weights(cfg).items() if is_linear(name))
    return linear, _cache_bytes(cfg, cfg.transformer.context)


def expected_speed(cfg: LMConfig, bytes_per_second: float) -> dict[str, dict[str, float]]:
    """How many times real time the language model can run at most, by quantisation, when memory is the limit."""
    linear, cache = step_bytes(cfg)
    cache_30 = _cache_bytes(cfg, min(cfg.transformer.context, round(30 / FRAME_SECONDS)))
    return {
        kind: {
            "at 30 s": bytes_per_second * FRAME_SECONDS / (linear * size + cache_30),
            "at full context": bytes_per_second * FRAME_SECONDS / (linear * size + cache),
        }
        for kind, size in BYTES_PER_WEIGHT.items()
    }


def _inspect_file(path: Path) -> Inspection:
    tensors = fold(path, open_tensors(path))
    out = Inspection(str(path), facts={"naming": lm_naming(tensors)})
    # Only names are taken from this configuration; shapes are what is to be found out.
    named = fit.lm_tensors(path, tensors, parse_checkpoint(MOSHI_7B).lm)
    _count(out, named)
    if "text_emb.weight" in named:
        out.dimensions = dict(inferred(named))
    elif any("quantizer" in name for name in tensors):
        out.facts["naming"] = "a Mimi codec"
    return out


def _look_at_weights(out: Inspection, checkpoint: Checkpoint) -> None:
    cfg = checkpoint.config.stored_lm
    wanted = configured(cfg)
    if not checkpoint.lm_path.is_file():
        out.missing.append(f"weights of the language model: {checkpoint.lm_path.name}")
        out.dimensions = dict(wanted)
        return
    raw = fold(checkpoint.lm_path, open_tensors(checkpoint.lm_path))
    files = shards(checkpoint.lm_path)
    out.facts["weights"] = ", ".join(file.name for file in files[:4]) + (f" and {len(files) - 4} more" if len(files) > 4 else "")
    out.facts["naming"] = lm_naming(raw)
    tensors = {n: t for n, t in checkpoint.lm_tensors().items() if not n.startswith("condition_provider.")}
    _count(out, tensors)
    found = inferred(tensors)
    out.dimensions = dict(found)
    lines = differences(found, wanted)
    # Parts that cannot be run have tensors that nothing here can check.
    problems = [] if checkpoint.config.cannot_run else fit.contradictions(tensors, lm_weights(cfg))
    # Dimensions that differ explain many tensors at once; only where they agree does every tensor get its own line.
    out.contradictions += lines or problems[:50]
    if lines and len(problems) > len(lines):
        out.contradictions.append(f"{len(problems)} tensors are not as the configuration needs them")
    out.memory["weights as stored"] = sum(tensor.nbytes for tensor in raw.values())


def _look_at_codec(out: Inspection, checkpoint: Checkpoint) -> None:
    mimi = checkpoint.mimi_config
    out.facts["codec"] = f"{mimi.n_q} codebooks of {mimi.bins}, {mimi.sample_rate} Hz, {mimi.frame_rate:g} frames a second"
    if not checkpoint.mimi_path.is_file():
        out.missing.append(f"weights of the codec: {checkpoint.mimi_path.name}")
        return
    try:
        tensors = fit.mimi_tensors(open_tensors(checkpoint.mimi_path), mimi)
        found = fit.contradictions(tensors, mimi_weights(mimi))
        out.contradictions += [f"codec: {line}" for line in found[:10]]
        if len(found) > 10:
            out.contradictions.append(f"codec: and {len(found) - 10} more tensors")
    except ClearlineError as error:
        out.contradictions.append(f"codec: {error}")


def _look_at_tokenizer(out: Inspection, checkpoint: Checkpoint) -> None:
    if not checkpoint.tokenizer_path.is_file():
        out.missing.append(f"text tokenizer: {checkpoint.tokenizer_path.name}")
        return
    try:
        pieces = read_tokenizer(checkpoint.tokenizer_path).vocab_size()
    except ClearlineError as error:
        out.contradictions.append(f"tokenizer: {error}")
        return
    out.facts["tokenizer"] = f"{checkpoint.tokenizer_path.name}, {pieces} pieces"
    expected = checkpoint.config.lm.text_card
    if pieces != expected:
        out.contradictions.append(
            f"tokenizer: {pieces} pieces, but the model's text vocabulary has {expected}: it is another model's"
        )


def _count(out: Inspection, tensors: Mapping[str, Lazy]) -> None:
    parts = {"depformer": r"depformer|linears\.", "embeddings": r"(text_)?emb\.", "transformer": r".*"}
    for name, tensor in tensors.items():
        row = out.stored.setdefault(tensor.kind, {"tensors": 0, "parameters": 0, "bytes": 0})
        size = math.prod(tensor.shape)
        for key, value in (("tensors", 1), ("parameters", size), ("bytes", tensor.nbytes)):
            row[key] += value
        part = next(label for label, pattern in parts.items() if re.match(pattern, name))
        out.parameters[part] = out.parameters.get(part, 0) + size
    out.parameters["all"] = sum(row["parameters"] for row in out.stored.values())


def _spans(cfg: LMConfig) -> list[tuple[str, int]]:
    context = cfg.transformer.context
    return [("30 s", min(context, round(30 / FRAME_SECONDS))), ("full context", context)]


def _cache_bytes(cfg: LMConfig, frames: int) -> int:
    """Float32 keys and values of the temporal transformer."""
    main = cfg.transformer
    return 2 * 4 * main.num_layers * main.num_kv_heads * main.head_dim * frames


def _streams(config: CheckpointConfig) -> str:
    line = f"text, {config.lm.dep_q} codebooks generated, {config.lm.user_streams} of the user"
    more = config.stored_lm.dep_q - config.lm.dep_q
    return line + (f"; {more} more depformer steps are stored, which predict the user and need not be run" if more else "")


def _licence(folder: Path, model_type: str) -> str:
    if not any((folder / name).is_file() for name in MODEL_CARDS):
        publisher = "NVIDIA publishes PersonaPlex under its Open Model License" if model_type == "personaplex" else KYUTAI
        return f"no model card here; {publisher}, check the source of yours"
    return licence_of(folder) or "the model card names none"
