"""Writing: a WAV that any reader understands, whole or not at all."""

import os
import stat
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from clearline.audio import check_writable, clipped_samples, wav_bytes, write_atomically
from clearline.errors import ClearlineError


def test_wav_is_16_bit_mono(tmp_path):
    """Read by Python's own `wave`: 1.0 is 32767, and louder samples are clipped, not wrapped."""
    (tmp_path / "a.wav").write_bytes(wav_bytes(np.array([0.0, 0.5, -0.5, 1.0, -1.0, 1.7, -300.0], np.float32), 24_000))
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getparams()[:4] == (1, 2, 24_000, 7)
        found = np.frombuffer(file.readframes(7), "<i2").tolist()
    assert found[0] == 0 and found[3] == found[5] == 32767 and found[4] == found[6] and found[4] <= -32767
    assert abs(found[1] - 16384) <= 1 and abs(found[2] + 16384) <= 1


def test_clipped_samples_are_those_outside_full_scale():
    assert clipped_samples(np.array([0.0, 1.0, -1.0, 1.0001, -2.0])) == 2
    assert clipped_samples(np.zeros(0)) == 0


def test_write_and_overwrite(tmp_path):
    path = tmp_path / "a.bin"
    for content in (b"first", b"second, longer", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "ours", b"")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == b"new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_written_and_stays_a_pipe(tmp_path):
    """As `-o /dev/null` must never replace the device."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_writable(tmp_path / "pipe")
        write_atomically(tmp_path / "pipe", b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_unwritable_targets(tmp_path):
    (tmp_path / "file").touch()
    for bad in (tmp_path, tmp_path / "no" / "a.wav", tmp_path / "file" / "a.wav"):
        with pytest.raises(ClearlineError, match="cannot write"):
            check_writable(bad)
        with pytest.raises(ClearlineError, match="cannot write"):
            write_atomically(bad, b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_a_folder_nobody_may_write_to(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # root may, but not in /proc
        folder = Path("/proc/self")
        if not folder.is_dir():
            pytest.skip("no folder is locked for this user")
    target = folder / "a.wav"
    with pytest.raises(ClearlineError, match="cannot write"):
        check_writable(target)
    with pytest.raises(ClearlineError, match="cannot write"):
        write_atomically(target, b"x")


FULL_DISK = """
import resource, sys
from pathlib import Path
from clearline.audio import write_atomically
from clearline.errors import ClearlineError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(Path(sys.argv[1]), bytes(5000))
except ClearlineError as error:
    sys.exit(f"caught: {error}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes here")
@pytest.mark.parametrize("before", [None, b"the file that was there"])
def test_a_full_disk_leaves_what_was_there(tmp_path, before):
    """A limit on file sizes stands in for the full disk: the write itself fails, in the middle."""
    path = tmp_path / "a.bin"
    if before is not None:
        path.write_bytes(before)
    result = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True)
    assert "caught: cannot write" in result.stderr and "nothing was written" in result.stderr
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if before is None else [before])
