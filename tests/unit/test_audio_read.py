"""Reading audio files: every format comes back as it was written, and every bad file says what is wrong with it."""

import os
import struct

import numpy as np
import pytest
import soundfile

from clearline.audio import read_audio
from clearline.errors import AudioError

RATE = 16_000
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / RATE)).astype(np.float32)

# Format, subtype, and how far a sample may be off: half a step of its quantiser, or what a lossy codec does to a tone.
EXACT = 2.0**-15
FORMATS = [
    ("WAV", "PCM_16", EXACT), ("WAV", "PCM_24", 2.0**-23), ("WAV", "PCM_32", 2.0**-24), ("WAV", "PCM_U8", 2.0**-7),
    ("WAV", "FLOAT", 0.0), ("WAV", "DOUBLE", 0.0), ("WAV", "ULAW", 0.02), ("WAVEX", "PCM_16", EXACT), ("RF64", "PCM_16", EXACT),
    ("W64", "PCM_16", EXACT), ("FLAC", "PCM_16", EXACT), ("FLAC", "PCM_24", 2.0**-23), ("AIFF", "PCM_16", EXACT),
    ("CAF", "PCM_16", EXACT), ("AU", "PCM_16", EXACT), ("OGG", "VORBIS", 0.1), ("OGG", "OPUS", 0.1), ("MP3", "MPEG_LAYER_III", 0.1),
]  # fmt: skip


@pytest.mark.parametrize(("container", "subtype", "tolerance"), FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_comes_back(tmp_path, container, subtype, tolerance, channels):
    path = tmp_path / f"tone.{container.lower()}"
    samples = np.stack([TONE, -TONE][:channels], 1)
    soundfile.write(path, samples, RATE, subtype, format=container)
    found = read_audio(path)
    assert (found.rate, found.samples.dtype, found.samples.shape) == (RATE, np.float32, samples.shape)
    middle = slice(2000, 6000)  # lossy codecs smear the ends
    assert np.abs(found.samples[middle] - samples[middle]).max() <= tolerance


@pytest.fixture
def wav(tmp_path):
    path = tmp_path / "tone.wav"
    soundfile.write(path, TONE, RATE, "PCM_16")
    return path


def refuses(path, *words: str, **keywords) -> None:
    """read_audio raises AudioError; its message names the file and contains every word."""
    with pytest.raises(AudioError) as caught:
        read_audio(path, **keywords)
    for word in (path.name, *words):
        assert word in str(caught.value)


def test_missing(tmp_path):
    refuses(tmp_path / "no.wav", "does not exist")


def test_empty(tmp_path):
    (tmp_path / "empty.wav").touch()
    refuses(tmp_path / "empty.wav", "empty")


def test_folder(tmp_path):
    refuses(tmp_path, "is a folder")


def test_a_name_no_file_can_have(tmp_path):
    refuses(tmp_path / ("x" * 300), "cannot be read")
    with pytest.raises(AudioError):
        read_audio(tmp_path / "a\0b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refuses(tmp_path / "pipe", "pipe or a device")


@pytest.mark.parametrize("content", [b"hello, this is text\n" * 50, b"\x89PNG\r\n\x1a\n" + bytes(2000), bytes(5000), b"RIFF"])
@pytest.mark.parametrize("name", ["file.txt", "file.wav", "file.flac"])
def test_not_audio(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refuses(tmp_path / name, "cannot be read as audio", "WAV, FLAC")


def test_raw_samples(tmp_path):
    (tmp_path / "tone.raw").write_bytes(TONE.tobytes())
    refuses(tmp_path / "tone.raw", "without a header")


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "FLAC", "CAF", "OGG"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_cut_short(tmp_path, container, share):
    path = tmp_path / f"cut.{container.lower()}"
    soundfile.write(path, TONE, RATE, format=container)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refuses(path)


def test_cut_short_says_what_was_promised(wav):
    wav.write_bytes(wav.read_bytes()[:10_044])
    refuses(wav, "cut short", "16000 bytes", "10000")


def test_only_a_header(wav):
    wav.write_bytes(wav.read_bytes()[:44])
    refuses(wav, "cut short")


def test_a_header_that_promises_nothing(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), RATE)
    refuses(tmp_path / "none.wav", "no samples")


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_written_to_a_pipe_has_no_size_and_is_read_to_its_end(wav, size):
    data = bytearray(wav.read_bytes())
    data[4:8] = data[40:44] = struct.pack("<I", size)
    wav.write_bytes(data)
    assert len(read_audio(wav).samples) == TONE.size


def test_a_flac_without_a_length(tmp_path):
    path = tmp_path / "piped.flac"
    soundfile.write(path, TONE, RATE)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the 36 bits of STREAMINFO that hold the number of samples
    data[22:26] = bytes(4)
    path.write_bytes(data)
    refuses(path, "how long it is")


def test_no_channels(wav):
    data = bytearray(wav.read_bytes())
    data[22:24] = bytes(2)
    wav.write_bytes(data)
    refuses(wav, "Channel count is zero")


def test_no_sample_rate(wav):
    data = bytearray(wav.read_bytes())
    data[24:28] = bytes(4)
    wav.write_bytes(data)
    refuses(wav, "cannot be read as audio")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_with_their_time(tmp_path, bad):
    samples = TONE.copy()
    samples[4000] = bad
    soundfile.write(tmp_path / "nan.wav", samples, RATE, "FLOAT")
    refuses(tmp_path / "nan.wav", "NaN or infinite", "0.250 s")


def three_hours(path) -> None:
    """A WAV of three hours at 24 kHz, 518 MB of zeros that occupy no disk."""
    size = 3 * 3600 * 24_000 * 2
    with path.open("wb") as file:
        file.write(struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVEfmt ", 16, 1, 1, 24_000, 48_000, 2, 16, b"data", size))
        file.truncate(44 + size)


def test_three_hours_are_refused_before_they_are_decoded(tmp_path):
    path = tmp_path / "long.wav"
    three_hours(path)
    refuses(path, "180.0 minutes", "limit is 60 minutes", max_seconds=3600)


def test_just_within_the_limit(wav):
    assert len(read_audio(wav, max_seconds=0.5).samples) == 8000
    refuses(wav, "limit", max_seconds=0.499)
