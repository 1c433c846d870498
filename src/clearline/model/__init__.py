"""The one model definition: Mimi, the temporal transformer and the depformer, written against `clearline.ops`.

A layer is a frozen value that knows its weights, its streaming state and its step; a whole model is a tree of them.
"""

from clearline.model.depformer import Depformer
from clearline.model.mimi import MimiDecoder, MimiEncoder, mimi_weights
from clearline.model.moshi import Moshi, lm_weights

__all__ = ["Depformer", "MimiDecoder", "MimiEncoder", "Moshi", "lm_weights", "mimi_weights"]
