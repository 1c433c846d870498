"""Audio files in and out, and resampling."""

from clearline.audio.files import Recording, read_audio, wav_bytes, write_atomically
from clearline.audio.resample import to_mono

__all__ = ["Recording", "read_audio", "to_mono", "wav_bytes", "write_atomically"]
