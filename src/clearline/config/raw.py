"""Writing a configuration as Kyutai's config.json."""

from typing import Any

from clearline.config.lm import LMConfig
from clearline.config.transformer import TransformerConfig


def to_raw(cfg: LMConfig) -> dict[str, Any]:
    """A config.json that says what `cfg` says, for models whose configuration came from elsewhere."""
    main, dep = cfg.transformer, cfg.depformer
    raw: dict[str, Any] = {
        "dim": main.dim, "text_card": cfg.text_card, "text_card_out": cfg.text_card_out, "n_q": cfg.n_q, "dep_q": cfg.dep_q,
        "card": cfg.card, "num_heads": main.num_heads, "num_layers": main.num_layers, "context": main.context,
        "max_period": main.max_period, "gating": main.gating or "none", "norm": main.norm, "positional_embedding": main.position,
        "hidden_scale": _feed_forward(main, main.ffn_hidden[0]) / main.dim, "delays": list(cfg.delays), "causal": True,
        "existing_text_padding_id": cfg.text_padding, "existing_text_end_padding_id": cfg.text_end_padding,
        "layer_scale": 0.01 if main.layer_scale else None, "kv_repeat": main.num_heads // main.num_kv_heads,
        "extra_heads_num_heads": cfg.extra_heads, "extra_heads_dim": cfg.extra_heads_dim,
    }  # fmt: skip
    if dep is not None:
        inner = dep.transformer
        raw |= {
            "depformer_dim": inner.dim, "depformer_num_heads": inner.num_heads, "depformer_num_layers": inner.num_layers,
            "depformer_dim_feedforward": _feed_forward(inner, inner.ffn_hidden[0]), "depformer_multi_linear": dep.multi_linear,
            "depformer_pos_emb": inner.position, "depformer_weights_per_step": bool(inner.steps),
            "depformer_gating": inner.gating or "none", "depformer_max_period": inner.max_period,
            "depformer_low_rank_embeddings": dep.low_rank, "depformer_norm": dep.norm, "depformer_context": cfg.dep_q,
        }  # fmt: skip
    return raw


def _feed_forward(cfg: TransformerConfig, hidden: int) -> int:
    """A dim_feedforward from which the hidden size follows."""
    return hidden if cfg.gating is None else -(-3 * hidden // 2)
