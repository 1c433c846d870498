"""The oracle's small model shapes: one entry per golden case."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One checkpoint shape and how its goldens are recorded."""

    seed: int
    description: str
    lm: dict[str, Any]
    mimi: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    stacked: bool = False
    bfloat16: bool = False
    huggingface_mimi: bool = False
    byte_fallback: bool = False
    steps: int = 300
    frames: int = 16
    odd_user_codes: bool = False


def lm(delays: list[int], dep_q: int, **changes: Any) -> dict[str, Any]:
    """LM keywords in the style of the released 7B model, at a tiny size."""
    base: dict[str, Any] = {
        "dim": 32,
        "text_card": 48,
        "existing_text_padding_id": 3,
        "n_q": len(delays) - 1,
        "dep_q": dep_q,
        "card": 32,
        "num_heads": 4,
        "num_layers": 2,
        "hidden_scale": 4.125,
        "causal": True,
        "layer_scale": None,
        "context": 12,
        "max_period": 10000,
        "gating": "silu",
        "norm": "rms_norm_f32",
        "positional_embedding": "rope",
        "depformer_dim": 16,
        "depformer_dim_feedforward": 66,
        "depformer_num_heads": 2,
        "depformer_num_layers": 2,
        "depformer_layer_scale": None,
        "depformer_multi_linear": True,
        "depformer_context": 8,
        "depformer_max_period": 10000,
        "depformer_gating": "silu",
        "depformer_pos_emb": "none",
        "depformer_weights_per_step": True,
        "delays": delays,
    }
    return base | changes


def mimi(
    n_q: int,
    *,
    bins: int = 32,
    filters: int = 2,
    dimension: int = 16,
    d_model: int = 16,
    layers: int = 1,
    heads: int = 2,
    context: int = 10,
    residual_layers: int = 1,
    vq_dimension: int = 8,
    max_period: int = 10000,
) -> dict[str, Any]:
    """A Mimi configuration in the form of `moshi.models.loaders._mimi_config`, at a tiny size."""
    return {
        "sample_rate": 24000,
        "channels": 1,
        "frame_rate": 12.5,
        "seanet": {
            "channels": 1,
            "dimension": dimension,
            "causal": True,
            "n_filters": filters,
            "n_residual_layers": residual_layers,
            "activation": "ELU",
            "compress": 2,
            "dilation_base": 2,
            "disable_norm_outer_blocks": 0,
            "kernel_size": 7,
            "residual_kernel_size": 3,
            "last_kernel_size": 3,
            "norm": "none",
            "pad_mode": "constant",
            "ratios": [8, 6, 5, 4],
            "true_skip": True,
        },
        "quantizer": {
            "dimension": vq_dimension,
            "n_q": n_q,
            "bins": bins,
            "input_dimension": dimension,
            "output_dimension": dimension,
        },
        "transformer": {
            "d_model": d_model,
            "num_heads": heads,
            "num_layers": layers,
            "causal": True,
            "layer_scale": 0.01,
            "context": context,
            "conv_layout": True,
            "max_period": max_period,
            "gating": "none",
            "norm": "layer_norm",
            "positional_embedding": "rope",
            "dim_feedforward": 2 * d_model,
            "input_dimension": dimension,
            "output_dimensions": [dimension],
        },
    }


_DELAYED = [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1]

CASES: dict[str, Case] = {
    "moshi_d1": Case(
        seed=11,
        description="the released 7B's shape: delay 1 on acoustic codes, stacked attention names, bfloat16 file, "
        "a Mimi with more codebooks than the LM uses, a tokenizer with byte pieces",
        lm=lm(_DELAYED, 8, text_card=320, depformer_causal=True),
        mimi=mimi(10, layers=2, context=10),
        extra={"model_type": "moshi", "lm_gen_config": {"temp": 0.8, "temp_text": 0.7, "top_k": 250, "top_k_text": 25}},
        stacked=True,
        bfloat16=True,
        byte_fallback=True,
        steps=320,
        frames=40,
    ),
    "delay0": Case(
        seed=12,
        description="all delays 0; user codes of -1 (nothing) among the inputs; Mimi transformer wider than its latent",
        lm=lm([0] * 7, 3, context=8, num_heads=2),
        mimi=mimi(5, d_model=24, heads=3, context=7),
        stacked=True,
        odd_user_codes=True,
        steps=300,
    ),
    "delay2": Case(
        seed=13,
        description="Hibiki's delays; user codes of -1 and of `card` (end of input) among the inputs; Mimi also in "
        "Hugging Face naming",
        lm=lm([0] + [0, 2, 2, 2, 2, 2, 2, 2] * 2, 8, context=24),
        mimi=mimi(8, filters=3, dimension=24, d_model=24, heads=3, layers=2, context=12),
        bfloat16=True,
        huggingface_mimi=True,
        odd_user_codes=True,
    ),
    "wide32": Case(
        seed=14,
        description="32 input codebooks, 16 of them in the depth transformer; a 32-codebook Mimi whose context never "
        "runs out here; another RoPE period",
        lm=lm([0] + [0] + [1] * 15 + [0] + [1] * 15, 16, context=10, max_period=100000, depformer_num_layers=1),
        mimi=mimi(32, bins=32, vq_dimension=12, context=250),
        bfloat16=True,
    ),
    "schedule": Case(
        seed=15,
        description="depth weights shared by a schedule, low-rank depth embeddings, depth norms, per-weight feed-forward "
        "sizes; two residual blocks per ratio in Mimi",
        lm=lm(
            _DELAYED,
            8,
            context=16,
            depformer_weights_per_step_schedule=[0, 1, 2, 3, 3, 3, 4, 4],
            depformer_dim_feedforward=[66, 66, 48, 33, 33],
            depformer_low_rank_embeddings=6,
            depformer_norm="rms_norm_f32",
        ),
        mimi=mimi(16, residual_layers=2, context=9),
    ),
    "stt": Case(
        seed=16,
        description="speech to text: no depth transformer, four extra heads of six classes",
        lm=lm(
            [0] * 33,
            0,
            context=20,
            max_period=100000,
            extra_heads_num_heads=4,
            extra_heads_dim=6,
            conditioners={},
            fuser=None,
            cross_attention=False,
        ),
        mimi=mimi(32, context=11),
        extra={
            "model_type": "stt",
            "lm_gen_config": {"temp": 0.0, "temp_text": 0.0, "top_k": 250, "top_k_text": 50},
            "stt_config": {"audio_delay_seconds": 0.5, "audio_silence_prefix_seconds": 0.16},
        },
    ),
    "odd": Case(
        seed=17,
        description="layer norm with biases, plain GELU feed-forward, output biases, normed embeddings, shared key/value "
        "heads, sinusoid plus RoPE positions, layer scales, one depth input projection, separate output text vocabulary",
        lm=lm(
            [0, 0, 1, 1, 0, 1, 1],
            3,
            context=5,
            text_card=64,
            text_card_out=48,
            norm="layer_norm",
            gating="none",
            bias_proj=True,
            norm_emb=True,
            kv_repeat=2,
            positional_embedding="sin_rope",
            layer_scale=0.5,
            depformer_layer_scale=0.5,
            depformer_multi_linear=False,
            depformer_pos_emb="sin",
            depformer_gating="gelu",
            depformer_num_heads=4,
            depformer_norm="layer_norm",
        ),
        mimi=mimi(4, context=2, layers=2),
    ),
    "odd2": Case(
        seed=18,
        description="unequal delays up to 3 and a delayed text stream, rope in halves, layer norm with eps 1e-8, "
        "RoPE in the depth transformer, unshared gating kinds",
        lm=lm(
            [2, 0, 1, 3, 0, 1, 2],
            3,
            context=7,
            norm="layer_norm_f32",
            gating="gelu",
            hidden_scale=4,
            positional_embedding="rope_concat",
            max_period=500,
            depformer_pos_emb="rope",
            depformer_max_period=100,
            depformer_gating="sigmoid",
            depformer_dim_feedforward=64,
        ),
        mimi=mimi(6, layers=1, context=5, max_period=300),
        odd_user_codes=True,
    ),
}
