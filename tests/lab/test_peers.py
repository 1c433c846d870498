"""Finding and running other implementations; with Kyutai's own packages where they are installed."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.checkpoints import DATA

from clearline.errors import ClearlineError
from clearline.lab.adapters import PEERS, find_peers, interpreters, run_peer
from clearline.lab.compare import compare_peer
from clearline.lab.live import Live

MODEL = str(DATA / "moshi_d1")
FOREIGN = DATA.parents[2] / "src" / "clearline" / "lab" / "adapters" / "foreign"

STUB = '''#!{python}
"""An interpreter that claims to have the packages of `moshi`, and whose runs do what the test says."""
import json, sys
if sys.argv[1] == "-c":
    print(json.dumps({{"moshi": "0.2.13", "torch": "2"}}))
else:
    job = json.load(open(sys.argv[2]))
    {action}
'''


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Nothing but what a test puts there."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("CLEARLINE_PEERS", raising=False)
    return tmp_path


def stub(folder: Path, action: str) -> Path:
    path = folder / "bin" / "python"
    path.parent.mkdir(parents=True)
    path.write_text(STUB.format(python=sys.executable, action=action))
    path.chmod(0o755)
    return folder


def test_where_interpreters_are_named(environment, monkeypatch):
    assert interpreters() == [Path(sys.executable)]
    first, second = stub(environment / "one", "pass"), stub(environment / "two", "pass")
    monkeypatch.setenv("CLEARLINE_PEERS", f"{first}:{second / 'bin' / 'python'}")
    assert interpreters()[1:] == [first / "bin" / "python", second / "bin" / "python"]
    (environment / "config" / "clearline").mkdir(parents=True)
    (environment / "config" / "clearline" / "peers").write_text(f"# mine\n{second}\n\n")
    monkeypatch.delenv("CLEARLINE_PEERS")
    assert interpreters()[1:] == [second / "bin" / "python"]
    monkeypatch.setenv("CLEARLINE_PEERS", "/nowhere")
    with pytest.raises(ClearlineError, match="CLEARLINE_PEERS names /nowhere"):
        interpreters()


def test_what_is_installed(environment, monkeypatch):
    monkeypatch.setenv("CLEARLINE_PEERS", str(stub(environment / "one", "pass")))
    found = [item for item in find_peers() if item.python != Path(sys.executable)]
    assert [(item.peer.name, item.versions) for item in found] == [("moshi", {"moshi": "0.2.13", "torch": "2"})]
    broken = environment / "broken"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CLEARLINE_PEERS", str(broken))
    with pytest.raises(ClearlineError, match="does not run"):
        find_peers()


def test_a_peer_that_fails_is_quoted(environment, monkeypatch):
    frames = np.zeros((1, 1920), np.float32)
    monkeypatch.setenv("CLEARLINE_PEERS", str(stub(environment / "one", "raise ValueError('no such tensor')")))
    with pytest.raises(ClearlineError, match="moshi failed: ValueError: no such tensor"):
        run_peer(PEERS["moshi"], MODEL, frames)
    monkeypatch.setenv("CLEARLINE_PEERS", str(stub(environment / "two", "pass")))
    with pytest.raises(ClearlineError, match="left no readable result"):
        run_peer(PEERS["moshi"], MODEL, frames)
    with pytest.raises(ClearlineError, match=r"rustymimi is in none .* pip install rustymimi"):
        run_peer(PEERS["rustymimi"], MODEL, frames)


def test_a_peer_is_told_where_everything_is(environment, monkeypatch):
    action = f"open({str(environment / 'job.json')!r}, 'w').write(json.dumps(job)); raise SystemExit(3)"
    monkeypatch.setenv("CLEARLINE_PEERS", str(stub(environment / "one", action)))
    with pytest.raises(ClearlineError, match="exit code 3"):
        run_peer(PEERS["moshi"], MODEL, np.zeros((2, 1920), np.float32), np.zeros((2, 8), int))
    job = json.loads((environment / "job.json").read_text())
    assert {Path(job[key]).name for key in ("lm", "mimi", "config", "mimi_config", "tokenizer")} == {
        "model.safetensors", "mimi.safetensors", "config.json", "mimi_config.json", "tokenizer.model"
    }  # fmt: skip
    assert {"pcm", "out", "codes"} <= job.keys()


def test_commands(clearline, environment, monkeypatch, hello):
    rows = json.loads(clearline("peers", "--json").out)
    assert {row["name"] for row in rows} == set(PEERS) and all("pip install" in row["install"] for row in rows)
    answer = clearline("compare", hello, "--peers", "-m", MODEL)
    assert answer.code == 2 and "no other implementation" in answer.err
    monkeypatch.setenv("CLEARLINE_PEERS", str(stub(environment / "one", "raise ValueError('broken')")))
    assert "installed" in clearline("peers").out
    answer = clearline("compare", hello, "--peers", "-m", MODEL)
    assert answer.code == 2 and "could not run: moshi failed: ValueError: broken" in answer.out


# With the real packages, where CLEARLINE_PEERS names environments that have them.


def live(peer: str, hello: Path, model: str = MODEL, frames: int = 250, layers: bool = False):
    try:
        there = any(item.peer.name == peer for item in find_peers())
    except ClearlineError:
        there = False
    if not there:
        pytest.skip(f"{peer} is in no environment of CLEARLINE_PEERS")
    return compare_peer(PEERS[peer], Live(hello, model, frames=frames), 1e-4, layers)


@pytest.mark.oracle
@pytest.mark.parametrize("peer", ["moshi", "moshi_mlx"])
def test_kyutais_packages_agree(peer, hello):
    found = live(peer, hello)
    assert found.equal, found.why
    assert {"row", "hidden", "text_logits", "audio_logits", "codes_out"} <= {d.boundary for d in found.differences}
    assert max(found.forced_error["B"].values()) < 1e-4


@pytest.mark.oracle
def test_kyutais_layers_agree(hello):
    """Forward hooks in Kyutai's package, probes in ours: every layer that has a name in both, encoder to decoder."""
    found = live("moshi", hello, frames=4, layers=True)
    assert [seen.part for seen in found.layers] == ["encoder", "language model", "decoder"]
    assert all(seen.first is None and max(seen.errors.values()) < 1e-4 for seen in found.layers)
    cfg = json.loads((DATA / "moshi_d1" / "config.json").read_text())
    assert len(found.layers[1].errors) > 6 * cfg["num_layers"] + 8 * 5 * cfg["depformer_num_layers"]


@pytest.mark.oracle
def test_kyutais_layers_agree_in_mlx(hello):
    """moshi_mlx's modules under the names of PyTorch's weights; the codec that its programs use is rustymimi."""
    found = live("moshi_mlx", hello, frames=4, layers=True)
    assert [seen.part for seen in found.layers] == ["language model"]
    assert found.layers[0].first is None and max(found.layers[0].errors.values()) < 1e-4
    # All but the attention itself, which has no weights and so no name there.
    assert all(name.endswith(".attention") for name in found.layers[0].missing) and len(found.layers[0].errors) == 151


@pytest.mark.parametrize(
    ("theirs", "kyutais"),
    [
        ("audio_embs.3", "emb.3"),
        ("transformer.layers.1.self_attn.in_proj", "transformer.layers.1.self_attn.in_projs.0"),
        ("transformer.layers.1.gating.linear_out", "transformer.layers.1.gating.linear_out"),
        ("depformer.slices.0.emb", "codebook 0: depformer_text_emb"),
        ("depformer.slices.2.emb", "codebook 2: depformer_emb.1"),
        ("depformer.slices.2.linear_in", "codebook 2: depformer_in.2"),
        ("depformer.slices.2.linear_out", "codebook 2: linears.2"),
        ("depformer.slices.2.transformer.layers.1.self_attn.out_proj", "codebook 2: depformer.layers.1.self_attn.out_projs.2"),
        ("depformer.slices.2.transformer.layers.1.gating.linear_in", "codebook 2: depformer.layers.1.gating.2.linear_in"),
    ],
)
def test_names_of_mlx(theirs, kyutais):
    assert runpy.run_path(str(FOREIGN / "layer_names.py"))["pytorch_name"](theirs) == kyutais


@pytest.mark.oracle
def test_transformers_agrees_with_its_own_checkpoint(tmp_path, hello):
    """Its whole-file pass equals our stream until the codec's context is full: 12 rows, two of them a frame."""
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "model.safetensors").write_bytes((DATA / "delay2" / "mimi_hf.safetensors").read_bytes())
    (tmp_path / "hf" / "config.json").write_text((DATA / "delay2" / "mimi_hf_config.json").read_text())
    found = live("transformers", hello, str(tmp_path / "hf" / "model.safetensors"), 6)
    assert found.equal, found.why
