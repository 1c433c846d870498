"""Model files: which there are, what they hold, and whether they fit their configuration."""

from clearline.checkpoint.folder import Checkpoint, open_checkpoint, read_mimi

__all__ = ["Checkpoint", "open_checkpoint", "read_mimi"]
