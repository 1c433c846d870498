"""Shapes, paths and small helpers shared by every training step of nano."""

import json
import os
import pathlib

os.environ.setdefault("NO_TORCH_COMPILE", "1")

HERE = pathlib.Path(__file__).resolve().parent
WORK = pathlib.Path(os.environ.get("NANO_WORK", "/root/nano"))  # everything big lives here
RATE = 24000
FRAME = 1920  # samples in one 12.5 Hz frame
LEAD = 14  # silent frames before a reply: its codes depend on them
TEXT_EPAD, TEXT_PAD = 0, 3  # as in Moshi's tokenizer
TEXT_CARD = 400

MIMI = {
    "channels": 1,
    "sample_rate": RATE,
    "frame_rate": 12.5,
    "seanet": {
        "channels": 1,
        "dimension": 128,
        "causal": True,
        "n_filters": 16,
        "n_residual_layers": 1,
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
    "transformer": {
        # 32 steps of 40 ms: what a code means never depends on more than 1.3 s
        # per layer, which is also about the length of the training crops.
        "d_model": 128,
        "num_heads": 4,
        "num_layers": 4,
        "causal": True,
        "layer_scale": 0.01,
        "context": 32,
        "conv_layout": True,
        "max_period": 10000,
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "rope",
        "dim_feedforward": 512,
        "input_dimension": 128,
        "output_dimensions": [128],
    },
    "quantizer": {
        "dimension": 64,
        "n_q": 8,
        "bins": 512,
        "input_dimension": 128,
        "output_dimension": 128,
    },
}

LM = {
    "dim": 256,
    "text_card": TEXT_CARD,
    "existing_text_padding_id": TEXT_PAD,
    "n_q": 16,
    "dep_q": 8,
    "card": 512,
    "num_heads": 4,
    "num_layers": 5,
    "hidden_scale": 3,
    "causal": True,
    "layer_scale": None,
    "context": 125,
    "max_period": 10000,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "depformer_dim": 96,
    "depformer_dim_feedforward": 288,
    "depformer_num_heads": 4,
    "depformer_num_layers": 2,
    "depformer_layer_scale": None,
    "depformer_multi_linear": True,
    "depformer_context": 8,
    "depformer_max_period": 10000,
    "depformer_gating": "silu",
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
    "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
}

FILES = {
    "moshi_name": "model.safetensors",
    "mimi_name": "mimi.safetensors",
    "mimi_config_name": "mimi_config.json",
    "tokenizer_name": "tokenizer.model",
}


def config():
    """The contents of config.json."""
    return dict(LM, model_type="moshi", **FILES, lm_gen_config={"temp": 0.8, "temp_text": 0.7, "top_k": 250, "top_k_text": 25})


def exchanges():
    return json.loads((HERE / "exchanges.json").read_text())


def build_mimi():
    from moshi.models.loaders import get_mimi

    return get_mimi(None, MIMI, num_codebooks=8)


def build_lm():
    import torch
    from moshi.models.loaders import get_moshi_lm

    return get_moshi_lm(None, LM, device="cpu", dtype=torch.float32)


# ---------------------------------------------------------------- phonemes

# The misaki alphabet without stress and length marks, one symbol per class.
PHONEMES = list("AIOQSTWYᵊabdfhijklmnoprstuvwzɑɐɒæɔðʤəɚɛɜɡɪŋθɹɾʃʧʊʌʒ")
PHONE_ID = {p: i + 1 for i, p in enumerate(PHONEMES)}  # 0 is the CTC blank


def phone_ids(phonemes):
    """Phoneme string -> class numbers for the auxiliary CTC heads."""
    fold = {"r": "ɹ", "ɒ": "ɑ", "a": "æ", "e": "ɛ", "ᵻ": "ɪ", "o": "O", "Q": "O"}
    out = (PHONE_ID.get(fold.get(c, c)) for c in phonemes)
    return [i for i in out if i]
