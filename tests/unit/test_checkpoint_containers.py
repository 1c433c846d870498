"""safetensors and GGUF files, sound and hostile: what is wrong is said, quickly and without allocating for it."""

import contextlib
import json
import os
import resource
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.checkpoints import copy_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from clearline.checkpoint import open_checkpoint
from clearline.checkpoint.files import member, open_tensors
from clearline.errors import CheckpointError


def write(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HOSTILE = {
    "empty": (b"", b"", None),
    "header longer than the file": ({}, b"", 1 << 40),
    "header of all ones": ({}, b"", 2**64 - 1),
    "not JSON": (b"{", b"", None),
    "a list": (b"[]", b"", None),
    "deep nesting": (b"[" * 100_000, b"", None),
    "not UTF-8": (b"\xff\xfe{}", b"", None),
    "two entries of one name": (b'{"a": %s, "a": %s}' % ((b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]}',) * 2), b"", None),
    "entry without fields": ({"a": {}}, b"", None),
    "entry that is a number": ({"a": 3}, b"", None),
    "unknown dtype": ({"a": entry([1], 0, 4, "C64")}, b"\0" * 4, None),
    "wrong dtype for the size": ({"a": entry([2], 0, 4)}, b"\0" * 4, None),
    "2^40 dimensions": ({"a": entry([2**40, 2**40], 0, 4)}, b"\0" * 4, None),
    "negative dimension": ({"a": entry([-1, -1], 0, 4)}, b"\0" * 4, None),
    "fractional dimension": ({"a": entry([1.0], 0, 4)}, b"\0" * 4, None),
    "true as a dimension": ({"a": entry([True], 0, 4)}, b"\0" * 4, None),
    "offsets backwards": ({"a": entry([1], 4, 0)}, b"\0" * 4, None),
    "offsets beyond the file": ({"a": entry([1], 0, 4)}, b"", None),
    "overlapping tensors": ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"\0" * 12, None),
    "a hole": ({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, b"\0" * 12, None),
    "bytes left over": ({"a": entry([1], 0, 4)}, b"\0" * 9, None),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_safetensors(case, tmp_path):
    header, data, length = HOSTILE[case]
    path = write(tmp_path / "model.safetensors", header, data, length)
    if case == "empty":
        path.write_bytes(b"")
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(CheckpointError, match=r"model.safetensors"):
        open_tensors(path)
    assert time.perf_counter() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_a_huge_header_is_not_parsed(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((1 << 30).to_bytes(8, "little"))
        file.truncate((1 << 30) + 8)  # sparse: a gigabyte that is not there
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match="refused"):
        open_tensors(path)
    assert time.perf_counter() - started < 0.5


@settings(max_examples=60)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data, tmp_path_factory):
    """No exception but ours, whatever the file holds."""
    for suffix in ("safetensors", "gguf"):
        path = tmp_path_factory.mktemp("fuzz") / f"model.{suffix}"
        path.write_bytes((b"GGUF" + struct.pack("<I", 3) if suffix == "gguf" else b"") + data)
        with contextlib.suppress(CheckpointError):
            open_tensors(path)


@settings(max_examples=80)
@given(
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4),
    suffix=st.sampled_from(["safetensors", "gguf"]),
)
def test_damaged_headers_are_read_or_refused(flips, suffix, tmp_path_factory):
    """A few bytes changed in a sound file: read, perhaps as something else, or refused with our exception."""
    path = tmp_path_factory.mktemp("damage") / f"model.{suffix}"
    raw = bytearray(SOUND[suffix])
    for at, value in flips:
        raw[at % len(raw)] = value
    path.write_bytes(raw)
    with contextlib.suppress(CheckpointError):
        for tensor in open_tensors(path).values():
            tensor.read()


def gguf_bytes(tensors: dict[str, tuple[list[int], int, int]], data: bytes, metadata: bytes = b"", entries: int = 0) -> bytes:
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), entries) + metadata
    for name, (dims, kind, offset) in tensors.items():
        out += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(dims))
        out += struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", kind, offset)
    return out + b"\0" * (-len(out) % 32) + data


SOUND = {
    "safetensors": (lambda text: len(text).to_bytes(8, "little") + text + b"\0" * 16)(
        json.dumps({"a": entry([2], 0, 8), "b": entry([2, 1], 8, 16)}).encode()
    ),
    "gguf": gguf_bytes({"a": ([2], 0, 0), "b": ([32, 2], 8, 32)}, b"\0" * 128),
}


@pytest.mark.parametrize(
    "raw",
    [
        b"GGUF",
        b"GGML" + b"\0" * 40,
        b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**50),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<QcIIQ", 1, b"k", 9, 8, 2**50),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<QcIIQ", 1, b"k", 9, 0, 2**60),
        gguf_bytes({"a": ([2**40, 2**20], 0, 0)}, b""),
        gguf_bytes({"a": ([4], 0, 0), "b": ([4], 0, 8)}, b"\0" * 32),
        gguf_bytes({"a": ([4], 0, 2**62)}, b"\0" * 32),
        gguf_bytes({"a": ([4], 0, 0)}, b"\0" * 8),
        gguf_bytes({"a": ([33, 2], 8, 0)}, b"\0" * 200),
        gguf_bytes({"a": ([256], 99, 0)}, b"\0" * 400),
        gguf_bytes({"a": ([1, 1, 1, 1, 1], 0, 0)}, b"\0" * 32),
    ],
)
def test_hostile_gguf(raw, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"model.gguf"):
        open_tensors(path)
    assert time.perf_counter() - started < 2


def test_unaligned_tensors_are_read(tmp_path):
    """An odd number of bytes before a float32 tensor: the values are right, and the array is aligned."""
    path = tmp_path / "model.safetensors"
    values = np.arange(5, dtype=np.float32)
    write(path, {"a": entry([3], 0, 3, "U8"), "b": entry([5], 3, 23)}, b"abc" + values.tobytes())
    read = open_tensors(path)["b"].read().data
    np.testing.assert_array_equal(read, values)
    assert read.flags.aligned


def test_reading_is_a_view_of_the_file(tmp_path):
    save_file({"a": np.ones((64, 64), np.float32)}, tmp_path / "model.safetensors")
    assert not open_tensors(tmp_path / "model.safetensors")["a"].read().data.flags.writeable


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "pytorch_model.bin"])
def test_pickles_are_refused_with_advice(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match=r"pickle.*run any code"):
        open_tensors(tmp_path / name)


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin"])
def test_a_folder_with_nothing_but_a_pickle_is_refused_with_the_same_advice(name, tmp_path):
    """Its config.json names nothing, or a file that is not there."""
    folder = copy_checkpoint("moshi_d1", tmp_path / "model")
    (folder / "model.safetensors").rename(folder / name)
    checkpoint = open_checkpoint(folder)
    with pytest.raises(CheckpointError, match=rf"{name} is a pickle.*\n.*weights_only=True"):
        checkpoint.lm_weights()


def test_names_and_links_out_of_the_folder_are_refused(tmp_path):
    outside, folder = tmp_path / "secret.safetensors", tmp_path / "model"
    folder.mkdir()
    outside.write_bytes(b"")
    (folder / "link.safetensors").symlink_to(outside)
    for name in ("../secret.safetensors", str(outside), "link.safetensors", f"file://{outside}"):
        with pytest.raises(CheckpointError, match="leads out of the model's folder"):
            member(folder, name)
    (folder / "inside.safetensors").symlink_to("real.safetensors")
    assert member(folder, "inside.safetensors") == folder / "inside.safetensors"


def test_the_hub_cache_keeps_its_files_as_links(tmp_path):
    snapshot, blobs = tmp_path / "models--a--b/snapshots/0123", tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "abc").write_bytes(b"x")
    (snapshot / "model.safetensors").symlink_to(os.path.relpath(blobs / "abc", snapshot))
    assert member(snapshot, "model.safetensors").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([], "weight_map"),
        ({}, "weight_map"),
        ({"weight_map": {}}, "weight_map"),
        ({"weight_map": {"a": 3}}, "weight_map"),
        ({"weight_map": {"a": "../secret.safetensors"}}, "leads out"),
        ({"weight_map": {"a": "part.safetensors", "gone": "part.safetensors"}}, "disagree about 1 tensors: gone"),
        ({"weight_map": {"a": "absent.safetensors"}}, "does not exist"),
    ],
)
def test_shards_that_do_not_fit(index, message, tmp_path):
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "part.safetensors")
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message):
        open_tensors(path)


def test_the_same_tensor_in_two_shards(tmp_path):
    for name in ("one", "two"):
        save_file({"a": np.ones(2, np.float32)}, tmp_path / f"{name}.safetensors")
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    with pytest.raises(CheckpointError, match="also lie in another shard"):
        open_tensors(path)


def test_a_configuration_that_is_a_link_out_of_the_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "elsewhere.json").write_text("{}")
    (folder / "config.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(CheckpointError, match="leads out"):
        open_checkpoint(folder)


def test_a_configuration_of_a_gigabyte_is_not_read(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 30)
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match="not a configuration file"):
        open_checkpoint(tmp_path)
    assert time.perf_counter() - started < 0.5
