"""Does a model fit, and what would? Against counts by hand, and Kyutai's 7B as published: 15.4 GB in bfloat16."""

from dataclasses import replace

import pytest

from clearline.config.named import named_model
from clearline.errors import BackendError
from clearline.generate.memory import check_lanes, check_memory, needed_bytes, session_bytes

NAMED = named_model("pytorch:moshi_7b_202409")
assert NAMED is not None
SEVEN = NAMED[1]
CODEC = {"mimi": (80_000_000,)}


def test_the_7b_in_bfloat16():
    # 32 layers of 4096, 3000 positions, keys and values, two bytes each.
    assert session_bytes(SEVEN, "bfloat16") == 32 * 3000 * 2 * 4096 * 2
    assert 15.2e9 < needed_bytes(SEVEN, 0, "bfloat16", None) - session_bytes(SEVEN, "bfloat16") - 0.7e9 < 15.6e9


def test_quantising_makes_it_smaller_and_the_context_does_not_shrink():
    sizes = [needed_bytes(SEVEN, 80_000_000, "bfloat16", choice) for choice in (None, "q8", "q4")]
    assert sizes[0] > 1.4 * sizes[1] > 1.4 * 1.4 * sizes[2]
    short = replace(SEVEN, transformer=replace(SEVEN.transformer, context=1000))
    assert needed_bytes(SEVEN, 0, "float32", None) - needed_bytes(short, 0, "float32", None) == 32 * 2000 * 2 * 4096 * 4


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("float32", 4)])
def test_scales_and_offsets_are_of_the_type_that_computes(dtype, size):
    dense, eight, four = (needed_bytes(SEVEN, 0, dtype, choice) for choice in (None, "q8", "q4"))
    linears = (eight - four) / 0.5
    assert 7e9 < linears < 7.7e9 and (dense - eight) / linears == pytest.approx(size - 1 - 2 * size / 32, rel=1e-6)


def test_a_file_that_is_quantised_already_is_taken_as_it_is():
    assert needed_bytes(SEVEN, 0, "bfloat16", None, stored=4_800_000_000) < 10e9 < needed_bytes(SEVEN, 0, "bfloat16", None)


@pytest.mark.parametrize(
    ("dtype", "quantize", "free", "message"),
    [
        ("bfloat16", None, 13, r"needs 18\.0 GB on cuda .* 13\.0 GB .*: --quantize q8 \(1\d\.\d GB\), --quantize q4 \("),
        ("bfloat16", None, 9.5, r"fit: --quantize q4 \("),
        ("bfloat16", "q8", 9.5, r"fit: --quantize q4 \("),
        ("float32", None, 20, r"fit: --dtype bfloat16, --quantize q8"),
        ("bfloat16", None, 2, r"nothing smaller would fit; use --device cpu"),
        ("bfloat16", "q4", 2, r"nothing smaller would fit"),
    ],
)  # fmt: skip
def test_what_would_fit_is_said(dtype, quantize, free, message):
    with pytest.raises(BackendError, match=message):
        check_memory(SEVEN, CODEC, "cuda", dtype, quantize, round(free * 1e9))


@pytest.mark.parametrize("free", [None, 140_000_000_000])
def test_enough_memory_or_nobody_knows(free):
    check_memory(SEVEN, CODEC, "cuda", "bfloat16", None, free)


def test_loading_looks_before_it_reads(monkeypatch):
    """Nothing is half loaded: the refusal comes before the first weight is on the device."""
    pytest.importorskip("torch")
    import clearline
    from clearline.backends.torch_run import Torch

    monkeypatch.setattr(Torch, "free_bytes", lambda self: 1000)
    monkeypatch.setattr("clearline.app.loading.Model", lambda *given: pytest.fail("a model was made"))
    with pytest.raises(BackendError, match=r"this model needs 0\.7 GB on cpu in float32, and 0\.0 GB are free"):
        clearline.load("nano", backend="torch")


def test_how_many_conversations_fit_beside_a_7b_on_a_card():
    free, each = 80_000_000_000 - 16_100_000_000, session_bytes(SEVEN, "bfloat16")
    check_lanes(40, each, "cuda", "bfloat16", free)
    check_lanes(1000, each, "cpu", "float32", None)
    with pytest.raises(BackendError, match=r"64 conversations need 100\.7 GB .* on cuda in bfloat16, and 63\.9 GB .* 40 would fit"):
        check_lanes(64, each, "cuda", "bfloat16", free)


def test_the_state_of_a_lane_is_counted_as_it_is_allocated():
    pytest.importorskip("torch")
    import clearline
    from clearline.generate.lanes import lane_bytes

    model = clearline.load("nano", backend="torch")
    counted = lane_bytes(model.mimi, model.programs, guided=False)
    # Left out are the depformer's eight positions, and its clock.
    assert 0 <= model.lanes(3).bytes / 3 - counted < 0.01 * counted


def test_a_batch_looks_before_it_allocates(monkeypatch):
    pytest.importorskip("torch")
    import clearline
    from clearline.backends.torch_run import Torch
    from clearline.generate.lanes import lane_bytes

    model = clearline.load("nano", backend="torch")
    each = lane_bytes(model.mimi, model.programs, guided=False)
    monkeypatch.setattr(Torch, "free_bytes", lambda self: 4 * each - 1)
    monkeypatch.setattr(Torch, "lanes", lambda *given, **named: pytest.fail("memory was taken"))
    with pytest.raises(BackendError, match=r"4 conversations need .*; 3 would fit"):
        model.lanes(4)


@pytest.mark.parametrize(
    ("info", "free"),
    [
        ({"max_recommended_working_set_size": 22_000, "memory_size": 32_000}, 21_000),  # Metal
        ({"total_memory": 80_000, "free_memory": 70_000}, 70_000),  # CUDA
        ({"total_memory": 80_000}, 79_000),
        ({"device_name": "something new"}, None),
    ],
)
def test_what_mlx_says_of_a_gpus_memory(monkeypatch, info, free):
    mx = pytest.importorskip("mlx.core")
    from clearline.backends.mlx_devices import free_memory

    monkeypatch.setattr(mx, "device_info", lambda: info)
    monkeypatch.setattr(mx, "get_active_memory", lambda: 1000)
    assert free_memory("metal") == free and free_memory("cpu") is None


def test_loading_on_a_mac_looks_before_it_reads(monkeypatch):
    pytest.importorskip("mlx.core")
    import clearline
    from clearline.backends.mlx_run import Mlx

    monkeypatch.setattr(Mlx, "free_bytes", lambda self: 1000)
    monkeypatch.setattr("clearline.app.loading.Model", lambda *given: pytest.fail("a model was made"))
    with pytest.raises(BackendError, match=r"this model needs 0\.7 GB on cpu in float32, and 0\.0 GB are free"):
        clearline.load("nano", backend="mlx/cpu")
