"""Frozen configurations; every quirk of an official implementation is a field here."""

from clearline.config.lm import DepformerConfig, LMConfig
from clearline.config.mimi import MimiConfig
from clearline.config.presets import PRESETS, GenerationConfig, preset
from clearline.config.sampling import Sampling
from clearline.config.transformer import TransformerConfig

__all__ = [
    "PRESETS",
    "DepformerConfig",
    "GenerationConfig",
    "LMConfig",
    "MimiConfig",
    "Sampling",
    "TransformerConfig",
    "preset",
]
