"""Model files: which there are, what they hold, and whether they fit their configuration."""

from clearline.checkpoint.folder import Checkpoint, mimi_hash, open_checkpoint, read_mimi
from clearline.checkpoint.hub import model_path
from clearline.checkpoint.names import is_linear, linear_bits
from clearline.checkpoint.rounding import BITS, Quantize, read_weights

__all__ = [
    "BITS",
    "Checkpoint",
    "Quantize",
    "is_linear",
    "linear_bits",
    "mimi_hash",
    "model_path",
    "open_checkpoint",
    "read_mimi",
    "read_weights",
]
