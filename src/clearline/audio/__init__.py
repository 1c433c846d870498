"""Audio files in and out, and resampling."""

from clearline.audio.frame import checked_frame
from clearline.audio.loudness import to_loudness
from clearline.audio.read import Recording, read_audio
from clearline.audio.resample import to_mono
from clearline.audio.write import check_writable, clipped_samples, wav_bytes, write_atomically

__all__ = [
    "Recording",
    "check_writable",
    "checked_frame",
    "clipped_samples",
    "read_audio",
    "to_loudness",
    "to_mono",
    "wav_bytes",
    "write_atomically",
]
