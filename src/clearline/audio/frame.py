"""One frame of a conversation, as a microphone delivers it."""

import numpy as np

from clearline.audio.resample import MAX_PEAK, as_floats
from clearline.errors import AudioError, SessionError


def checked_frame(pcm: np.ndarray, size: int) -> np.ndarray:
    """pcm as an array of `size` floats, nominally in -1..1; int8, int16 and int32 are scaled by their range.

    Raises SessionError for another shape; AudioError for NaN, for other whole numbers, and for floats that nobody scaled: a
    model hears those as noise, and answers with noise.
    """
    pcm = as_floats(np.asarray(pcm))
    if pcm.shape != (size,):
        raise SessionError(f"a frame is {size} samples, got an array of shape {list(pcm.shape)}")
    if pcm.dtype.kind != "f":
        raise AudioError(f"a frame is floats in -1..1, or int8, int16 or int32; got {pcm.dtype}")
    peak = np.abs(pcm).max()
    if not np.isfinite(peak):
        raise AudioError("the frame contains NaN or infinite samples")
    if peak > MAX_PEAK:
        raise AudioError(f"the frame reaches {peak:g}; floats must lie in -1..1 (whole numbers: pass them as int16 or int32)")
    return pcm
