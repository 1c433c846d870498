"""Models by hub name, with huggingface_hub replaced by something that behaves like it, or gone."""

import hashlib
import os
import sys
import types

import numpy as np
import pytest
from helpers.checkpoints import DATA, MODEL_FILES
from helpers.command import command

import clearline
from clearline.app import model_folder
from clearline.checkpoint import open_checkpoint
from clearline.checkpoint.cache import cached
from clearline.checkpoint.hub import home, model_path
from clearline.errors import CheckpointError


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one model, in the cache layout that huggingface_hub makes; `hub.asked` counts downloads."""
    monkeypatch.setenv("CLEARLINE_HOME", str(tmp_path / "home"))
    module = types.ModuleType("huggingface_hub")
    module.asked, module.damage = [], False  # type: ignore[attr-defined]

    def snapshot_download(repository, revision, allow_patterns, cache_dir):
        module.asked.append((repository, revision))  # type: ignore[attr-defined]
        if repository != "kyutai/tiny":
            raise OSError("404 Client Error: no such repository\nmore")
        root = tmp_path / "home/hub/models--kyutai--tiny"
        snapshot = root / "snapshots/0123"
        for folder in (snapshot, root / "blobs"):
            folder.mkdir(parents=True, exist_ok=True)
        for name in (*MODEL_FILES, "README.md"):
            raw = b"---\nlicense: cc-by-4.0\n---\n" if name == "README.md" else (DATA / "moshi_d1" / name).read_bytes()
            blob = root / "blobs" / hashlib.sha256(raw).hexdigest()
            blob.write_bytes(raw[:-1] + b"?" if module.damage and name == "mimi.safetensors" else raw)  # type: ignore[attr-defined]
            if not (snapshot / name).is_symlink():
                (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
        return str(snapshot)

    module.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def test_a_name_is_downloaded_checked_and_loaded(hub, capsys):
    model = clearline.load("kyutai/tiny")
    assert model.config.transformer.dim == 32
    shown = capsys.readouterr().err
    assert "licence cc-by-4.0" in shown and "checking model.safetensors" in shown
    model_folder("kyutai/tiny@main")
    assert hub.asked == [("kyutai/tiny", None), ("kyutai/tiny", "main")]
    assert "checking" not in capsys.readouterr().err  # once is enough


def test_a_damaged_download_is_removed(hub):
    hub.damage = True
    with pytest.raises(CheckpointError, match=r"mimi.safetensors did not arrive"):
        model_folder("kyutai/tiny")
    hub.damage = False
    assert open_checkpoint(model_folder("kyutai/tiny")).mimi_path.is_file()


def test_what_cannot_be_reached_names_the_manual_steps(hub, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        clearline.load("kyutai/other")
    text = str(caught.value)
    assert "404" in text and "https://huggingface.co/kyutai/other" in text
    assert str(tmp_path / "home/models/kyutai--other") in text and "more" not in text.splitlines()[0]


def test_a_folder_put_there_by_hand_is_used_without_asking(hub, tmp_path):
    by_hand = tmp_path / "home/models/kyutai--other"
    by_hand.mkdir(parents=True)
    assert model_path("kyutai/other") == by_hand and hub.asked == []


def test_without_huggingface_hub(monkeypatch, tmp_path):
    monkeypatch.setenv("CLEARLINE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"clearline\[hub\]"):
        model_path("kyutai/moshiko-mlx-q4")


@pytest.mark.parametrize("name", ["/a/b", "a/b/c", "../x", "just-a-name", "a b/c", "x/y z"])
def test_paths_are_not_taken_for_hub_names(name, monkeypatch, tmp_path):
    monkeypatch.setenv("CLEARLINE_HOME", str(tmp_path))
    assert str(model_path(name)) == name


def test_an_existing_folder_is_never_looked_for_on_the_hub(hub, tmp_path, monkeypatch):
    (tmp_path / "kyutai/tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert str(model_path("kyutai/tiny")) == "kyutai/tiny" and hub.asked == []


def test_home_without_the_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("CLEARLINE_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home() == tmp_path / "clearline"


def test_the_command_line_says_what_to_do(tmp_path):
    answer = command(
        "inspect",
        "kyutai/moshiko-mlx-q4",
        prelude=f"import os, sys; os.environ['CLEARLINE_HOME'] = {str(tmp_path)!r}; sys.modules['huggingface_hub'] = None",
    )
    assert answer.code == 2 and "clearline[hub]" in answer.err and "Traceback" not in answer.err


def test_quantised_models_are_kept_and_mapped(hub, monkeypatch):
    """A second load makes nothing anew; what is kept gives the same model as rounding while loading."""
    monkeypatch.setattr("clearline.app.loading._CACHED_FROM_BYTES", 1)
    first = clearline.load(DATA / "moshi_d1", quantize="q8")
    kept = list((home() / "converted").glob("moshi_d1-q8-*/model.q8.safetensors"))
    stamp = kept[0].stat().st_mtime_ns
    again = cached(open_checkpoint(DATA / "moshi_d1"), "q8")
    assert len(kept) == 1 and kept[0].stat().st_mtime_ns == stamp and again.lm_path == kept[0]
    monkeypatch.setattr("clearline.app.loading._CACHED_FROM_BYTES", 1 << 60)
    fresh = clearline.load(DATA / "moshi_d1", quantize="q8")
    codes = np.zeros(8, np.int64)
    for _ in range(3):
        assert first.checkpoint.lm_path != fresh.checkpoint.lm_path
    a, b = (model.generator("greedy").step(codes) for model in (first, fresh))
    np.testing.assert_array_equal(a.text_logits, b.text_logits)
