"""From the tensors of files to the weights a configuration needs: renamed, cut, joined, fused, and checked one by one."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from clearline.checkpoint.lazy import Lazy, LazyWeights, join
from clearline.checkpoint.names import (
    codebook_alias,
    is_transformers_mimi,
    lm_name,
    lm_naming,
    moshi_cpp_name,
    stacked_target,
    transformers_mimi_name,
)
from clearline.config import LMConfig, MimiConfig
from clearline.errors import CheckpointError
from clearline.model import lm_weights, mimi_weights
from clearline.ops import Weight

Shapes = Mapping[str, tuple[int, ...]]


def lm_tensors(path: Path, tensors: Mapping[str, Lazy], cfg: LMConfig) -> dict[str, Lazy]:
    """Tensors of a file (quantised ones folded) under Kyutai's names, not yet checked; the codec's own are left out."""
    expected = lm_weights(cfg)
    naming = lm_naming(tensors)
    # Kyutai's class makes, and saves, the depformer's input projection even for models that have no depformer.
    foreign = ("audio_encoder.", "mimi.") if cfg.dep_q else ("audio_encoder.", "mimi.", "depformer_in.")
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(foreign)}
    renamed: dict[str, Lazy] = {}
    for name, tensor in own.items():
        for target, part in _spread(lm_name(name, naming, cfg), tensor, expected):
            if target in renamed and not _same(renamed[target], part):
                raise CheckpointError(f"{path}: {name} differs from an earlier tensor that is also {target}")
            renamed[target] = part
    # transformers rotates split halves, but its depth decoder does not rotate at all and is stored unchanged.
    joined = _joined(renamed, lambda name: cfg.transformer.num_heads if name.startswith("transformer.") else 0)
    return _norms(joined, expected)


def mimi_tensors(tensors: Mapping[str, Lazy], cfg: MimiConfig) -> dict[str, Lazy]:
    """The codec's tensors under Kyutai's names, each codebook as embedding_sum / max(cluster_usage, 1e-5)."""
    expected = mimi_weights(cfg)
    if any(name.startswith("mimi.") for name in tensors):
        tensors = _from_moshi_cpp(tensors, expected)
    prefix = "audio_encoder." if any(name.startswith("audio_encoder.") for name in tensors) else ""
    named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if is_transformers_mimi(named):
        named = {transformers_mimi_name(name, expected): tensor for name, tensor in named.items()}
        heads = cfg.transformer.num_heads if cfg.transformer is not None else 1
        named = _joined(named, lambda _: heads)
    named = {codebook_alias(name): tensor for name, tensor in named.items()}
    spread = {target: part for name, tensor in named.items() for target, part in _spread(name, tensor, expected)}
    return _codebooks(spread)


def _from_moshi_cpp(tensors: Mapping[str, Lazy], expected: Shapes) -> dict[str, Lazy]:
    """moshi.cpp's GGUF of the codec: long names hashed, biases of convolutions as columns, conv weights in F16."""
    ours = {moshi_cpp_name(name): name for name in expected}
    out: dict[str, Lazy] = {}
    for found, tensor in tensors.items():
        name = ours.get(found, found)
        shape = expected.get(name, tensor.shape)
        same = [n for n in shape if n > 1] == [n for n in tensor.shape if n > 1]
        out[name] = tensor.reshaped(shape) if same and not tensor.quantised else tensor
    return out


def checked(path: Path, tensors: Mapping[str, Lazy], expected: Shapes) -> LazyWeights:
    """The expected weights, lazily; raises CheckpointError listing every tensor that is missing, unknown or of another shape."""
    problems = contradictions(tensors, expected)
    if problems:
        raise CheckpointError(
            f"{path} contradicts its configuration in {len(problems)} tensor{'s' * (len(problems) > 1)}:\n  "
            + "\n  ".join(problems)
        )
    return LazyWeights({name: tensors[name] for name in expected})


def contradictions(tensors: Mapping[str, Lazy], expected: Shapes) -> list[str]:
    """One line for every tensor that is not as the configuration needs it."""
    problems: list[str] = []
    for name, shape in expected.items():
        if name not in tensors:
            problems.append(f"{name}: expected {list(shape)}, not in the file")
        elif tensors[name].shape != shape:
            problems.append(f"{name}: expected {list(shape)}, found {list(tensors[name].shape)}")
        elif not tensors[name].floating:
            problems.append(f"{name}: expected floating point, found {tensors[name].kind}")
    return problems + [f"{name}: in the file {list(t.shape)}, not expected" for name, t in tensors.items() if name not in expected]


def with_lora(path: Path, base: Mapping[str, Lazy], lora: Mapping[str, Lazy], scaling: float) -> dict[str, Lazy]:
    """W + scaling * B A for every pair in `lora`; other tensors of the LoRA file replace the base's."""
    out = dict(base)
    for name, down in lora.items():
        if name.endswith(".lora_B.weight"):
            continue
        if not name.endswith(".lora_A.weight"):
            out[name] = down
            continue
        target = name.removesuffix(".lora_A.weight") + ".weight"
        up = lora.get(name.replace(".lora_A.", ".lora_B."))
        if target not in base or up is None:
            raise CheckpointError(f"{path}: {name} has no {'partner lora_B' if up is None else f'{target} to be added to'}")
        if base[target].quantised:
            raise CheckpointError(f"{path}: {target} is quantised; a LoRA can only be fused into unquantised weights")
        matrices = len(up.shape) == len(down.shape) == 2 and up.floating and down.floating
        if not matrices or up.shape[1] != down.shape[0] or (up.shape[0], down.shape[1]) != base[target].shape:
            raise CheckpointError(f"{path}: {name} {list(down.shape)} with B {list(up.shape)} does not fit {target}")
        out[target] = _fused(base[target], down, up, scaling)
    return out


def _fused(weight: Lazy, down: Lazy, up: Lazy, scaling: float) -> Lazy:
    def read() -> Weight:
        update = up.read().dense(np.float32) @ down.read().dense(np.float32)
        return Weight("", weight.read().dense(np.float32) + np.float32(scaling) * update)

    return Lazy(weight.shape, weight.kind, weight.nbytes, read)


def _spread(target: str, tensor: Lazy, expected: Shapes) -> list[tuple[str, Lazy]]:
    """A tensor that holds the weights of several depformer steps, as one a step."""
    if "#each" in target:
        target = target.replace("#each", "")
        count = tensor.shape[0]
        return [(target.format(i), tensor.part(i, count).reshaped(tensor.shape[1:])) for i in range(count)]
    pattern = stacked_target(target)
    if pattern is None:
        return [(target, tensor)]
    weight = pattern.replace(".lora_A.", ".").replace(".lora_B.", ".")
    sets = 0
    while weight.format(sets) in expected:
        sets += 1
    if sets == 0 or not tensor.shape or tensor.shape[0] % sets:
        return [(target, tensor)]  # stays under its own name, and is reported as not expected
    return [(pattern.format(i), tensor.part(i, sets)) for i in range(sets)]


def _joined(tensors: Mapping[str, Lazy], heads_of: Callable[[str], int]) -> dict[str, Lazy]:
    """Query, key and value projections, which transformers keeps apart, in one tensor."""
    out = {name: tensor for name, tensor in tensors.items() if "#" not in name}
    for name in dict.fromkeys(name.partition("#")[0] for name in tensors if "#" in name):
        parts = [tensors[f"{name}#{letter}"] for letter in "qkv" if f"{name}#{letter}" in tensors]
        heads = heads_of(name)
        if len(parts) != 3 or any(len(part.shape) != 2 or part.shape[1] != parts[0].shape[1] for part in parts):
            continue  # reported as missing
        if heads:
            # Keys may have fewer heads than queries, but theirs are as wide.
            rows, key_rows = parts[0].shape[0], parts[1].shape[0]
            key_heads = heads * key_rows // rows if rows else 0
            if not key_heads or rows % (2 * heads) or key_rows % (2 * key_heads):
                continue
            parts = [parts[0].unrotated(heads), parts[1].unrotated(key_heads), parts[2]]
        out[name] = join(parts)
    return out


def _norms(tensors: Mapping[str, Lazy], expected: Shapes) -> dict[str, Lazy]:
    """RMS norms, which MLX calls `weight` [C] and Kyutai `alpha` [1, 1, C]; GGUF drops leading ones from the shape."""
    out: dict[str, Lazy] = {}
    for name, tensor in tensors.items():
        alpha = name.removesuffix("weight") + "alpha" if name.endswith("norm.weight") or ".norm" in name else name
        if name not in expected and alpha in expected:
            name = alpha
        wanted = expected.get(name, ())
        if name.endswith(".alpha") and tensor.shape != wanted and tensor.shape == wanted[-1:]:
            tensor = tensor.reshaped(wanted)
        out[name] = tensor
    return out


def _codebooks(tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    out: dict[str, Lazy] = {}
    for name, tensor in tensors.items():
        if name.endswith("._codebook.embedding_sum"):
            usage = tensors.get(name.removesuffix("embedding_sum") + "cluster_usage")
            if usage is not None and usage.shape == tensor.shape[:1]:
                out[name.removesuffix("_sum")] = _centroids(tensor, usage)
        elif not name.endswith(("._codebook.cluster_usage", "._codebook._initialized")):
            out[name] = tensor
    return out


def _centroids(total: Lazy, usage: Lazy) -> Lazy:
    def read() -> Weight:
        floor = np.maximum(usage.read().dense(np.float32), np.float32(1e-5))
        return Weight("", total.read().dense(np.float32) / floor[:, None])

    return Lazy(total.shape, "F32", total.nbytes, read)


def _same(a: Lazy, b: Lazy) -> bool:
    if a.shape != b.shape or a.kind != b.kind:
        return False
    x, y = a.read(), b.read()
    pairs = ((x.data, y.data), (x.scale, y.scale), (x.bias, y.bias))
    return all((u is None and v is None) or (u is not None and v is not None and np.array_equal(u, v)) for u, v in pairs)
