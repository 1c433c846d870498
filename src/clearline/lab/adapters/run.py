"""Running another implementation on the same input, and what it recorded as a trace."""

import json
import os
import re
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from clearline.app import ALIGNMENT, model_folder
from clearline.checkpoint import open_checkpoint
from clearline.errors import ClearlineError
from clearline.lab.adapters.find import VARIABLE, Installed, find_peers
from clearline.lab.adapters.peers import Peer
from clearline.trace import BOUNDARIES, Trace

TIMEOUT_SECONDS = 3600
_FOREIGN = Path(__file__).parent / "foreign"
_LAYER = "layer "


def run_peer(peer: Peer, model: str, frames: np.ndarray, codes: np.ndarray | None = None) -> Trace:
    """Run `peer` on frames float32 [n, 1920] at 24 kHz with the weights of `model`; greedy.

    codes int [n, at least n_user]: the user's, for a peer that is run without its codec (`needs_codes`). Raises
    ClearlineError with the peer's own last words when it is not installed or fails.
    """
    installed, columns = _outcome(peer, model, frames, codes)
    settings = peer.settings
    facts: dict[str, Any] = {
        "peer": peer.name,
        "versions": installed.versions,
        "python": str(installed.python),
        "backend": peer.name,
    }
    if settings is not None:
        facts |= {"text_sampling": asdict(settings.text), "audio_sampling": asdict(settings.audio)}
        facts["alignment"] = {name: getattr(settings, name) for name in ALIGNMENT}
    return Trace({name: columns[name] for name in BOUNDARIES if name in columns}, facts)


def peer_layers(peer: Peer, model: str, frames: np.ndarray, codes: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Every layer's output at the last of `frames`, flat, by the name it has in `lab.probes`; for a peer that `has_layers`.

    Raises ClearlineError as `run_peer` does.
    """
    _, columns = _outcome(peer, model, frames, codes, layers=len(frames) - 1)
    return {name.removeprefix(_LAYER): column for name, column in columns.items() if name.startswith(_LAYER)}


def _outcome(
    peer: Peer, model: str, frames: np.ndarray, codes: np.ndarray | None, layers: int | None = None
) -> tuple[Installed, dict[str, np.ndarray]]:
    """The peer that ran, and everything it wrote."""
    installed = next((found for found in find_peers() if found.peer == peer), None)
    if installed is None:
        raise ClearlineError(f"{peer.name} is in none of the environments of {VARIABLE}; to install it: {peer.install}")
    with tempfile.TemporaryDirectory(prefix="clearline-peer-") as temporary:
        folder = Path(temporary)
        np.save(folder / "pcm.npy", frames)
        job = files_of(model) | {"pcm": str(folder / "pcm.npy"), "out": str(folder / "out.safetensors")}
        if codes is not None:
            np.save(folder / "codes.npy", codes)
            job["codes"] = str(folder / "codes.npy")
        if layers is not None:
            job["layers"] = layers
        (folder / "job.json").write_text(json.dumps(job))
        _run(peer, [str(installed.python), str(_FOREIGN / peer.script), str(folder / "job.json")])
        try:
            return installed, load_file(folder / "out.safetensors")
        except (SafetensorError, OSError) as error:
            raise ClearlineError(f"{peer.name} left no readable result: {error}") from error


def files_of(model: str) -> dict[str, Any]:
    """The paths a peer needs: of a model folder, or of a lone codec file."""
    chosen = model_folder(model)
    if chosen.is_file():
        return {"mimi": str(chosen), "mimi_config": None}
    checkpoint = open_checkpoint(chosen)
    beside = checkpoint.config.mimi_config_name
    return {
        "mimi": str(checkpoint.mimi_path),
        "mimi_config": None if beside is None else str(checkpoint.folder / beside),
        "config": str(checkpoint.folder / "config.json"),
        "lm": str(checkpoint.lm_path),
        "tokenizer": str(checkpoint.tokenizer_path),
    }


def _run(peer: Peer, command: list[str]) -> None:
    # A peer finds its own packages only: ours must not leak into its environment.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    environment |= {"NO_TORCH_COMPILE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClearlineError(f"{peer.name} could not be run: {error}") from error
    if answer.returncode:
        note = f" (this peer: {peer.note})" if peer.note else ""
        raise ClearlineError(f"{peer.name} failed: {_last_words(answer.stderr) or f'exit code {answer.returncode}'}{note}")


def _last_words(stderr: str) -> str:
    """The line that says what went wrong: Python's last exception, whatever a backtrace below it adds; else the last line."""
    lines = stderr.strip().splitlines()
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    return (named or lines or [""])[-1][:300]
