"""Mimi in the released shape, 32 codebooks: against PyTorch `moshi`, and against `rustymimi` as a second opinion.

The 320 MB of weights are not stored: NumPy's Philox remakes them (oracle/philox_mimi.py).
"""

import hashlib
import json
import sys

import numpy as np
import pytest
from helpers.checkpoints import DATA, assert_close, golden
from safetensors.numpy import save_file

import clearline

sys.path.append(str(DATA.parents[2] / "oracle"))

FOLDER = DATA / "full_mimi"


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    from philox_mimi import load_full_mimi

    return load_full_mimi(FOLDER)


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    """One file, as the released codec comes, under the older, stacked names."""
    from philox_mimi import stack_attention

    path = tmp_path_factory.mktemp("full") / "tokenizer-e351c8d8-checkpoint125.safetensors"
    save_file({name: np.ascontiguousarray(value) for name, value in stack_attention(weights).items()}, path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def codec(file) -> clearline.Codec:
    return clearline.load_codec(file)


def test_the_weights_are_the_goldens(weights):
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(np.ascontiguousarray(weights[name]).tobytes())
    assert digest.hexdigest() == json.loads((FOLDER / "golden.json").read_text())["weights_sha256_sorted_by_name"]


def test_encode(codec):
    g = golden("full_mimi")
    stream = codec.stream()
    latents = [stream.encode_latent(frame) for frame in g["pcm"].reshape(-1, 1920)]
    assert_close(np.stack(latents, 1), g["latent"], "latent")
    codes = codec.encode(g["pcm"])
    np.testing.assert_array_equal(codes, g["codes_stream"])
    np.testing.assert_array_equal(codes, g["rusty_codes"])


def test_the_8_codebooks_of_moshi_are_a_prefix(codec):
    g = golden("full_mimi")
    np.testing.assert_array_equal(codec.encode(g["pcm"], 8), g["codes_stream"][:8])


def test_decode(codec):
    g = golden("full_mimi")
    heard = codec.decode(g["codes_stream"])
    assert_close(heard, g["pcm_stream"], "pcm against PyTorch")
    assert_close(heard, g["rusty_pcm"], "pcm against Rust")


def test_rustymimi_past_the_context(codec):
    """rustymimi sees `context` + 1 rows: other codes than PyTorch's from frame 125 on, and the window "rust" gives them."""
    from philox_mimi import test_pcm as sound

    g = golden("full_mimi")
    pcm, codes = sound(140, 5), g["rusty_long_codes"]
    np.testing.assert_array_equal(codec.encode(pcm, 8, window="rust"), codes)
    sliding = codec.encode(pcm, 8, window="sliding") == codes
    assert sliding[:, :125].all() and not sliding.all()
    assert_close(codec.decode(codes, window="rust")[-4 * 1920 :], g["rusty_long_pcm_end"], "pcm")


def test_thread_counts_do_not_change_a_byte(file):
    """At this size ONNX Runtime does share its work out."""
    g = golden("full_mimi")
    found = set()
    for threads in (1, 2, 3):
        stream = clearline.load_codec(file, threads=threads).stream()
        latents = [stream.encode_latent(frame).tobytes() for frame in g["pcm"].reshape(-1, 1920)[:3]]
        found.add((*latents, *(stream.decode(codes).tobytes() for codes in g["codes_stream"].T[:3])))
    assert len(found) == 1
