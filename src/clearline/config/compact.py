"""Language model configurations in the few numbers in which official implementations differ from one another."""

from clearline.config.lm import DepformerConfig, LMConfig
from clearline.config.transformer import Norm, Position, TransformerConfig


def acoustic_delays(speakers: tuple[int, ...], delay: int) -> tuple[int, ...]:
    """Text 0, then for each speaker of so many codebooks: 0 for the first, `delay` for the rest."""
    return (0, *(0 if k == 0 else delay for count in speakers for k in range(count)))


def gated(dim: int, dim_feedforward: int) -> int:
    """The gated hidden size where MLX and Candle compute it: 11/4 dim when dim_feedforward is 4 dim, else 2/3 of it.

    PyTorch has 21/8 dim in the first case; its released models say hidden_scale 4.125, whose 2/3 is 11/4 again.
    """
    return 11 * dim // 4 if dim_feedforward == 4 * dim else 2 * dim_feedforward // 3


def depformer(steps: int, *, dim: int = 1024, heads: int = 16, layers: int = 6, hidden: int = 2816) -> DepformerConfig | None:
    """The released depformer: weights per step, one projection per step, no positions."""
    if steps == 0:
        return None
    transformer = TransformerConfig(
        dim, heads, layers, (hidden,) * steps, steps, gating="silu", norm="rms_norm_f32", position="none", steps=steps
    )
    return DepformerConfig(transformer, multi_linear=True)


def moshi(
    dim: int,
    heads: int,
    layers: int,
    *,
    text: int,
    n_q: int,
    dep_q: int,
    delays: tuple[int, ...],
    context: int = 3000,
    period: float = 10_000,
    hidden: int = 0,
    norm: Norm = "rms_norm_f32",
    position: Position = "rope",
    text_out: int = 0,
    card: int = 2048,
    dep: DepformerConfig | None = None,
) -> LMConfig:
    """A model of the released kind: gated SiLU of 11/4 dim unless `hidden` says otherwise."""
    transformer = TransformerConfig(
        dim, heads, layers, (hidden or 11 * dim // 4,), context, gating="silu", norm=norm, position=position, max_period=period
    )
    return LMConfig(
        transformer, dep or depformer(dep_q), n_q, dep_q, card=card, text_card=text, text_card_out=text_out or text, delays=delays
    )
