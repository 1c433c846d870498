"""Reports of one recording run by several: other implementations against Clearline, or backends against the first."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isnan

from clearline.lab.backends import BackendRun
from clearline.lab.compare import Comparison
from clearline.lab.compare.boundaries import ROUNDING
from clearline.lab.report.compared import boundary_section, layer_section
from clearline.lab.report.page import Report, Section, Table, Tone


def peers_report(
    recording: str, found: Mapping[str, Comparison], failed: Mapping[str, str] | None = None, tolerance: float = ROUNDING
) -> Report:
    """Comparisons of Clearline with other implementations by their names; failed: those that could not run, and why."""
    failed = failed or {}
    rows: list[tuple[str, str, str]] = [(name, one.kind, one.why) for name, one in found.items()]
    rows += [(name, "could not run", why) for name, why in failed.items()]
    sections = [Section("Implementations", tables=[Table(rows, ("implementation", "verdict", "why"))])]
    for name, one in found.items():
        parts = [layer_section(one, tolerance), boundary_section(one)]
        sections += [replace(part, title=f"{name}: {part.title.lower()}") for part in parts if part is not None]
    differing = [name for name, one in found.items() if not one.equal]
    undecided = [name for name in differing if found[name].kind == "undecided"]
    tone: Tone = "good" if not differing else "unsure" if differing == undecided else "bad"
    verdict = "All equal." if not differing else f"{len(differing)} of {len(found)} differ."
    why = "; ".join(f"{name}: {one.kind}" for name, one in found.items())
    return Report(f"{recording}: Clearline and other implementations", verdict, why, tone, sections)


def backends_report(recording: str, runs: Sequence[BackendRun]) -> Report:
    """Runs of one recording on several backends; the first is what the others are held against."""
    first, rows = runs[0], []
    for run in runs:
        where = f"{run.device} {run.dtype}"
        logits = "" if isnan(run.logit_error) else f"{run.logit_error:.0e}"
        tokens = f"{run.frames} frames" if run is first else run.tokens
        rows.append((run.name, where, f"{run.frame_ms:.2f}", f"{run.speed:.1f}x", tokens, logits))
    heads = ("backend", "where", "ms a frame", "real time", f"tokens, against {first.name}", "text logits differ by at most")
    same = sum(run.identical for run in runs)
    all_same = same == len(runs)
    verdict = "All tokens are equal." if all_same else f"{len(runs) - same} of {len(runs)} draw other tokens."
    why = f"{first.frames} frames on {', '.join(run.name for run in runs)}"
    return Report(
        f"{recording} on {len(runs)} backends",
        verdict,
        why,
        "good" if all_same else "bad",
        [Section("Backends", tables=[Table(rows, heads)])],
    )
