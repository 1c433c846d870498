"""Configuration of a streaming transformer: Moshi's temporal one, the depformer, and Mimi's two."""

from dataclasses import dataclass
from typing import Literal, get_args

from clearline.errors import ConfigError

Norm = Literal["layer_norm", "layer_norm_f32", "rms_norm", "rms_norm_f32"]
Position = Literal["rope", "rope_concat", "sin", "sin_rope", "none"]
Activation = Literal["silu", "gelu", "elu", "sigmoid", "tanh", "relu"]

# layer_norm runs in the weights' dtype and layer_norm_f32 in f32: the same here, where activations are never
# narrower than f32. Their epsilons differ all the same.
NORM_EPS: dict[str, float] = {"layer_norm": 1e-5, "layer_norm_f32": 1e-8, "rms_norm": 1e-5, "rms_norm_f32": 1e-8}


@dataclass(frozen=True)
class TransformerConfig:
    """Shape and flavour of one causal transformer.

    `ffn_hidden` has one entry per set of weights: one for an ordinary transformer, one per depformer step (or per
    schedule entry) when `steps` is not 0. `frame_rows` is the number of rows that arrive together in one 80 ms frame.
    `sliding` gives every row exactly `context` keys; without it, the default, the first rows of a frame see fewer, as in
    Kyutai's streaming; see `Ops.ring_attend`.
    """

    dim: int
    num_heads: int
    num_layers: int
    ffn_hidden: tuple[int, ...]
    context: int
    num_kv_heads: int = 0
    gating: Activation | None = None
    norm: Norm = "layer_norm"
    position: Position = "rope"
    max_period: float = 10_000.0
    layer_scale: bool = False
    steps: int = 0
    schedule: tuple[int, ...] | None = None
    frame_rows: int = 1
    sliding: bool = False

    def __post_init__(self) -> None:
        for name in ("dim", "num_heads", "num_layers", "context", "frame_rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"transformer {name} is {getattr(self, name)}; it must be at least 1")
        if self.context < self.window_rows:
            raise ConfigError(
                f"transformer context is {self.context}, less than the {self.window_rows} rows that arrive together in a frame: "
                "the first of them would see nothing, not even themselves"
            )
        if self.dim % self.num_heads:
            raise ConfigError(f"transformer dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        if self.num_kv_heads == 0:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(f"num_heads {self.num_heads} is not a multiple of the key/value heads {self.num_kv_heads}")
        _one_of("norm", self.norm, get_args(Norm))
        _one_of("positional embedding", self.position, get_args(Position))
        if self.gating is not None:
            _one_of("gating", self.gating, get_args(Activation))
        if self.position in ("rope", "rope_concat", "sin_rope") and self.head_dim % 2:
            raise ConfigError(f"RoPE needs an even head dimension, got {self.head_dim}")
        if self.schedule is not None and len(self.schedule) != self.steps:
            raise ConfigError(f"the weight schedule has {len(self.schedule)} entries for {self.steps} steps")
        if len(self.ffn_hidden) != self.num_weights:
            raise ConfigError(f"{len(self.ffn_hidden)} feed-forward sizes were given for {self.num_weights} sets of weights")
        if self.steps and self.gating is None:
            raise ConfigError("weights per step need a gated feed-forward: Kyutai's format has no names for the other")

    @property
    def window_rows(self) -> int:
        """Rows that leave the attention window together."""
        return 1 if self.sliding else self.frame_rows

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def num_weights(self) -> int:
        """Sets of weights: 1, or one per step, or as many as the schedule names."""
        if not self.steps:
            return 1
        return max(self.schedule) + 1 if self.schedule else self.steps

    def weight_index(self, step: int) -> int:
        """Which set of weights serves a depformer step."""
        if self.num_weights == 1:
            return 0
        return self.schedule[step] if self.schedule else step


def gated_hidden(dim: int, dim_feedforward: int) -> int:
    """Hidden size of Kyutai's gated feed-forward: 21/8 dim when dim_feedforward is 4 dim, else 2/3 dim_feedforward."""
    return 21 * dim // 8 if dim_feedforward == 4 * dim else 2 * dim_feedforward // 3


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{what} {value!r} is not supported; known: {', '.join(allowed)}")
