"""From files to evidence; and where there is no run to look at, one that is made now."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clearline.app import Model, load
from clearline.audio import Recording, read_audio, wav_bytes
from clearline.checkpoint.setups import named_setup
from clearline.config.programs import PROGRAMS, program
from clearline.errors import CheckpointError, ClearlineError, ConfigError
from clearline.lab.doctor.evidence import Evidence
from clearline.lab.source import open_source
from clearline.trace import LOGITS, PCM, TOKENS, MemoryRecorder, Trace

# Of a recording that the model is run on: enough for a reply, little enough for a large model's patience.
SECONDS = 20.0
OnStep = Callable[[str], None]


def gather(
    model: str, wav: Path | None = None, *, trace: str | None = None, input: Path | None = None, setup: str | None = None,
    times: Path | None = None, runs: Path | None = None, transcript: str | None = None, backend: str = "auto",
    threads: int | None = None, on_step: OnStep = lambda _: None,
) -> Evidence:  # fmt: skip
    """Read everything that was given. Without a trace, the model is run on the recording, where there is one, and that run is
    the evidence. Raises ClearlineError for a file that is not what it should be."""
    if setup is not None:
        _check_setup(setup)
    heard = None if wav is None else read_audio(wav, 3600)
    said = None if input is None else read_audio(input, 3600)
    found = None if trace is None else open_source(trace)
    steps = None if times is None else read_times(times)
    records = () if runs is None else read_runs(runs)
    on_step("loading")
    loaded, folder = _load(model, backend, threads), model
    evidence = Evidence(
        loaded,
        folder,
        found,
        said,
        _hash(input),
        heard,
        _hash(wav),
        _times_of(found) if steps is None else steps,
        setup,
        records,
        transcript,
    )
    if found is None and loaded is not None:
        speech = said or heard
        if speech is not None:
            on_step("running")
            return run_now(replace(evidence, input=speech, input_hash=_hash(input or wav)), heard if said is None else None)
    return evidence


def _check_setup(setup: str) -> None:
    """A configuration that cannot be read is no evidence: a mistyped name must not end in "all is well"."""
    if not setup.startswith("@"):
        named_setup(setup)
    elif program(setup[1:]) is None:
        raise ConfigError(f"there is no program {setup[1:]!r}; known: {', '.join(PROGRAMS)}")


def run_now(evidence: Evidence, recording: Recording | None) -> Evidence:
    """Clearline's own run of the input, recorded at every boundary and timed. recording: looked at for itself, too."""
    model, speech = evidence.model, evidence.input
    assert model is not None and speech is not None
    recorder, clock = MemoryRecorder(TOKENS | LOGITS | PCM), [(time.perf_counter(), time.process_time())]
    samples = speech.samples[: int(SECONDS * speech.rate)]
    result = model.run(
        samples,
        speech.rate,
        recorder=recorder,
        input_hash=evidence.input_hash,
        on_frame=lambda *_: clock.append((time.perf_counter(), time.process_time())),
    )
    wall, own = np.diff(np.array(clock), axis=0).T * 1e3
    if evidence.step_ms is None:
        # On a GPU the processor waits: its time says nothing there.
        evidence = replace(evidence, step_ms=wall, cpu_ms=own if model.backend.device == "cpu" else None)
    output = Recording(result.pcm[:, None], result.sample_rate) if len(result.pcm) else None
    digest = None if output is None else hashlib.sha256(wav_bytes(result.pcm, result.sample_rate)).hexdigest()
    cut = Recording(samples, speech.rate)
    return replace(evidence, trace=recorder.trace(), input=cut, output=output, output_hash=digest, given=recording)


def read_times(path: Path) -> np.ndarray:
    """Milliseconds a frame, from a JSON list or one number a line."""
    try:
        text = path.read_text()
        values = json.loads(text) if text.lstrip().startswith("[") else [float(line) for line in text.split()]
        times = np.asarray(values, float)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} does not hold the times of frames in milliseconds: {error}") from error
    if times.ndim != 1 or not np.isfinite(times).all() or (times < 0).any():
        raise ConfigError(f"{path} must hold one list of times in milliseconds, none of them negative")
    return times


def read_runs(path: Path) -> tuple[dict[str, Any], ...]:
    """Records of runs: a JSON list of objects, or what `clearline trials --json` prints."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if isinstance(found, dict):
        found = [
            run for key in ("first", "second") for run in [*found.get(key, {}).get("runs", []), found.get(key, {}).get("repeated")]
        ]
    runs = tuple(run for run in found if isinstance(run, dict)) if isinstance(found, list) else ()
    if not runs:
        raise ConfigError(
            f"{path} holds no records of runs; it should be a list of objects with run_id, seed, output, seconds, started"
        )
    return runs


def _load(model: str, backend: str, threads: int | None) -> Model | None:
    """The model, or None where its files contradict each other, which the examination says."""
    from clearline.app import model_folder

    if not model_folder(model).is_dir():
        raise ClearlineError(f"{model} is not a model folder; the doctor needs the weights and their configuration")
    try:
        return load(model, backend=backend, threads=threads)
    except (CheckpointError, ConfigError):
        from clearline.checkpoint.inspection import inspect

        if inspect(model_folder(model)).contradictions:
            return None
        raise


def _times_of(trace: Trace | None) -> np.ndarray | None:
    """Milliseconds of each step, where the trace recorded them."""
    found = None if trace is None else trace.columns.get("seconds")
    return None if found is None else np.nan_to_num(found.reshape(-1).astype(float)) * 1e3


def _hash(path: Path | None) -> str | None:
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
