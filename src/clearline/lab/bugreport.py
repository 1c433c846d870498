"""A bug report that can be checked: a minimal reproduction, what was ruled out and how, and no claim beyond the evidence."""

import io
import json
import platform
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from clearline.app import code_version, model_folder
from clearline.audio import Recording, to_mono, wav_bytes, write_atomically
from clearline.errors import ClearlineError
from clearline.lab.doctor import Check, Diagnosis, Evidence, examine
from clearline.lab.finite import finite
from clearline.lab.scrub import scrubbed, scrubbed_facts
from clearline.lab.shorten import shortest
from clearline.trace import Trace, write_trace

_PACKAGES = (
    "numpy",
    "onnx",
    "onnxruntime",
    "safetensors",
    "sentencepiece",
    "soundfile",
    "soxr",
    "torch",
    "mlx",
    "moshi",
    "moshi_mlx",
    "rustymimi",
)
# What a check that passed rules out as the cause.
_RULES_OUT = {
    "machine": "a wrong operation of this backend on this machine",
    "model files": "a configuration of another model, tensors that do not fit",
    "configuration": "settings of the program that garble audio",
    "input": "a trace of another input",
    "output": "a file of another run",
    "runs": "results counted twice, a seed that does not decide",
    "time": "frames that come too late",
    "pcm_in": "resampling, sample rate, level and order of the input",
    "codes_in": "the codec's encoder, its codebooks and its state",
    "row": "tokens fed at the wrong step or into the wrong stream",
    "codes_out": "the undoing of the delays before decoding",
    "hidden, logits": "the computation of the language model",
    "language model": "the known mistakes of the language model",
    "sampling": "sampling settings, filters and seed",
    "shift sweep": "semantic and acoustic codes of different frames",
    "codes": "codes that do not belong together",
    "pcm_out": "the codec's decoder and its state",
    "speaker": "what happens to the sound after decoding",
    "transcript": "a made-up transcript",
    "sound": "speech that cannot be understood",
}


@dataclass(frozen=True)
class Report:
    """The files of a report by name, and how many frames its run was cut to (None: not cut)."""

    files: Mapping[str, bytes]
    frames: int | None
    diagnosis: Diagnosis


def make_report(evidence: Evidence, on_step: Callable[[str], None] = lambda _: None, *, title: str | None = None) -> Report:
    """Examine the evidence, cut it down, and write everything up, without private paths, names or secrets."""
    diagnosis = examine(evidence, on_step)
    small, frames = shortest(evidence, diagnosis, on_step)
    files: dict[str, bytes] = {}
    facts = scrubbed_facts(environment())
    files["environment.json"] = _json(facts)
    files["diagnosis.json"] = _json(scrubbed_facts({
        "well": diagnosis.well, "kind": diagnosis.kind, "paragraph": diagnosis.paragraph,
        "findings": [asdict(finding) for finding in diagnosis.findings], "checks": [asdict(check) for check in diagnosis.checks],
    }))  # fmt: skip
    files |= _model(evidence)
    if small.trace is not None:
        files["run.trace"] = _trace(small.trace)
        files["settings.json"] = _json(scrubbed_facts(dict(small.trace.facts)))
    for name, recording in (("input.wav", small.input), ("output.wav", small.output)):
        if recording is not None:
            files[name] = _wav(recording)
    if evidence.step_ms is not None:
        files["times.json"] = _json([round(float(ms), 2) for ms in evidence.step_ms])
    if evidence.runs:
        files["runs.json"] = _json(scrubbed_facts(list(evidence.runs)))
    files["report.md"] = scrubbed(markdown(evidence, diagnosis, frames, facts, sorted(files), title)).encode()
    return Report(files, frames, diagnosis)


def markdown(
    evidence: Evidence, diagnosis: Diagnosis, frames: int | None, facts: Mapping[str, Any], attached: list[str], title: str | None
) -> str:
    """The text, in the order in which a maintainer reads it."""
    first = diagnosis.findings[0] if diagnosis.findings else None
    head = title or (f"{first.what}" if first else "No fault found")
    run = evidence.facts
    lines = [f"# {head[:1].upper()}{head[1:]}", "", "**Environment**", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items() if name != "packages"]
    lines += [f"- Packages: {', '.join(f'{name} {number}' for name, number in facts['packages'].items())}"]
    lines += [f"- Model: {evidence.folder}" + (f", weights {str(run['weights'])[:12]}" if "weights" in run else "")]
    lines += [f"- {name}: {run[name]}" for name in ("backend", "seed", "preset", "quantize") if run.get(name) is not None]
    lines += ["", "**Issue**", "", diagnosis.paragraph, "", "**Evidence**", ""]
    lines += [f"- {finding.what}: {finding.evidence} (confidence {finding.confidence:.0%})" for finding in diagnosis.findings] or [
        "- none: every check passed, or could not be made"
    ]
    lines += ["", "**Ruled out**", "", "| not the cause, as far as this evidence goes | because |", "|---|---|"]
    lines += [f"| {ruled_out(check)} | {_cell(check.evidence)} |" for check in diagnosis.checks if check.ok]
    unknown = [check for check in diagnosis.checks if check.ok is None]
    if unknown:
        lines += ["", "**Not ruled out**", ""]
        lines += [f"- {ruled_out(check)}: {check.evidence}" for check in unknown]
    missing = _missing(evidence)
    lines += [f"- not looked at: {', '.join(missing)}"] if missing else []
    lines += ["", "**Reproducibility**", "", *_reproduction(evidence, frames, attached)]
    lines += ["", "**Hypothesis**", "", *_hypotheses(diagnosis)]
    lines += ["", "**What this report does not claim**", "", *_limits(evidence, diagnosis)]
    lines += ["", "**Attached**", "", *(f"- `{name}`" for name in attached)]
    return "\n".join(lines) + "\n"


def ruled_out(check: Check) -> str:
    """What a check is about, as a cause."""
    return _RULES_OUT.get(check.what, check.what)


def environment() -> dict[str, Any]:
    """The machine and what is installed; no names of users or hosts, no paths."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "Clearline": code_version(),
        "Python": platform.python_version(),
        "System": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Processor": _processor(),
        "packages": found,
    }


def write_report(report: Report, path: Path) -> None:
    """Write into PATH.zip, or into a folder that is not there yet or empty. Raises ClearlineError."""
    if path.suffix == ".zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in sorted(report.files.items()):
                archive.writestr(zipfile.ZipInfo(f"bugreport/{name}", (1980, 1, 1, 0, 0, 0)), data)
        write_atomically(path, buffer.getvalue())
        return
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ClearlineError(f"{path} is there already; name a new folder, or a .zip")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClearlineError(f"cannot write {path}: {error.strerror}") from error
    for name, data in report.files.items():
        write_atomically(path / name, data)


def _reproduction(evidence: Evidence, frames: int | None, attached: list[str]) -> list[str]:
    arguments = [evidence.folder if evidence.folder == "nano" else "MODEL"]
    arguments += ["output.wav"] if "output.wav" in attached else []
    arguments += ["--trace run.trace"] if "run.trace" in attached else []
    arguments += ["--input input.wav"] if "input.wav" in attached else []
    arguments += [f"--setup {evidence.setup}"] if evidence.setup else []
    arguments += [f"--{name} {name}.json" for name in ("times", "runs") if f"{name}.json" in attached]
    lines = ["```sh", f"clearline doctor {' '.join(arguments)}", "```", ""]
    if frames is not None:
        lines.append(
            f"The first {frames} frames ({frames * 0.08:.1f} s) of the run still show it; the attached files are cut to them."
        )
    outputs = {run.get("output") for run in evidence.runs}
    if len(evidence.runs) > 1:
        lines.append(f"{len(evidence.runs)} runs were recorded, with {len(outputs)} different output{'s' * (len(outputs) != 1)}.")
    else:
        lines.append("One run was recorded: how often it happens is not known (`clearline trials` counts).")
    return lines


def _hypotheses(diagnosis: Diagnosis) -> list[str]:
    if not diagnosis.findings:
        return ["None."]
    return [
        f"- {'Follows from what was recorded' if finding.confidence >= 0.99 else 'Fits best of what was tried'} "
        f"({finding.confidence:.0%}): {finding.what}. To check: {finding.remedy}."
        for finding in diagnosis.findings
    ]


def _limits(evidence: Evidence, diagnosis: Diagnosis) -> list[str]:
    lines = [
        "- One machine and one backend were looked at: nothing is said about other hardware, drivers or versions.",
        "- That a check passed says that this run shows no such fault, not that there is none.",
    ]
    if any(finding.name.startswith("unexplained") for finding in diagnosis.findings):
        lines.append("- Where the fault lies was measured; why it happens was not found.")
    if evidence.trace is None:
        lines.append("- There is no trace of the run: nothing inside it was seen.")
    if evidence.transcript is not None:
        lines.append("- The transcript is quoted, not used as evidence: a recogniser writes plausible sentences for garbage.")
    return lines


def _missing(evidence: Evidence) -> list[str]:
    there = set() if evidence.trace is None else set(evidence.trace.columns)
    wanted = {
        "pcm_in": "what the model heard",
        "row": "the tokens fed",
        "hidden": "logits and hidden states",
        "pcm_out": "the decoder's sound",
    }
    missing = [words for name, words in wanted.items() if name not in there]
    if evidence.output is None:
        missing.append("the file that was heard")
    if evidence.step_ms is None:
        missing.append("the times of the frames")
    return missing


def _model(evidence: Evidence) -> dict[str, bytes]:
    folder = model_folder(evidence.folder)
    out = {}
    for name in ("config.json", "mimi_config.json"):
        path = folder / name
        if path.is_file():
            try:
                out[name] = _json(scrubbed_facts(json.loads(path.read_text())))
            except (OSError, ValueError):
                out[name] = b'"could not be read as JSON"\n'
    return out


def _trace(trace: Trace) -> bytes:
    # Hidden states and logits are large and can be computed again from the rows; what differs is in the diagnosis.
    kept = {name: column for name, column in trace.columns.items() if name not in ("hidden", "text_logits", "audio_logits")}
    small = trace.columns if sum(column.nbytes for column in trace.columns.values()) < 20_000_000 else kept
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.trace"
        write_trace(path, Trace(small, scrubbed_facts(dict(trace.facts)), trace.complete))
        return path.read_bytes()


def _wav(recording: Recording) -> bytes:
    return wav_bytes(to_mono(np.asarray(recording.samples), recording.rate, recording.rate), recording.rate)


def _json(value: Any) -> bytes:
    return (json.dumps(finite(value), indent=2, default=str, allow_nan=False) + "\n").encode()


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
