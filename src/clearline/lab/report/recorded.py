"""The report of traces by themselves: what each heard, said and computed, and how fast."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from clearline.lab.report.page import Report, Section, Table, Tone
from clearline.lab.report.parts import Shown, codes_section, facts_section, shown, sound_section, text_section, times_section
from clearline.lab.tokens import token_report
from clearline.trace import Trace


def trace_report(traces: Mapping[str, Trace], model: str | None = None) -> Report:
    """One or several traces, by name. model: whose codec and tokenizer to show them with; nano's are known by their hash."""
    sides = [shown(name, trace, model) for name, trace in traces.items()]
    found = [(side, token_report(side.trace, None, None)) for side in sides if _has_codes(side.trace)]
    warnings = [f"{side.name}: {line}" for side, report in found for line in report.warnings]
    unfinished = [f"{side.name} did not run to its end" for side in sides if not side.trace.complete]
    troubles = warnings + unfinished
    tone: Tone = "bad" if troubles else "plain"
    verdict = "Something stands out." if troubles else "Nothing stands out."
    evidence = (
        "; ".join(troubles) or "The tokens show no loop, no stuck or invalid codes, and no collapse. That is not yet good speech."
    )
    sections = [text_section(sides, None), sound_section(sides, None), codes_section(sides, None), times_section(sides)]
    tokens = [_token_table(sides, found)] if found else []
    parts = [*sections, *tokens, facts_section(sides)]
    names = ", ".join(Path(name).name for name in traces)
    return Report(f"Run: {names}", verdict, evidence, tone, [part for part in parts if part is not None])


def _has_codes(trace: Trace) -> bool:
    return any(name in trace.columns for name in ("codes_out", "audio_tokens", "codes_in"))


def _token_table(sides: Sequence[Shown], found: Sequence[tuple[Shown, object]]) -> Section:
    rows = []
    for side, report in found:
        for stream in getattr(report, "audio", ()):
            share = f"{stream.common} ({stream.common_share:.0%})"
            name = stream.name if len(sides) == 1 else f"{side.name}, {stream.name}"
            rows.append((name, str(stream.distinct), f"{stream.entropy:.2f}", share, f"{stream.run} frames"))
    heads = ("codebook", "distinct", "entropy, bits", "most frequent", "longest run")
    return Section("Tokens", tables=[Table(rows, heads)])
