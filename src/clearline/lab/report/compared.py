"""The report of a comparison: the verdict, and both sides with the divergence marked."""

from clearline.lab.compare import Comparison, describe
from clearline.lab.compare.boundaries import ROUNDING
from clearline.lab.report.figures import FRAME_SECONDS, bars, difference_map
from clearline.lab.report.page import Figure, Report, Section, Table, Tone
from clearline.lab.report.parts import Shown, codes_section, facts_section, shown, sound_section, text_section, times_section
from clearline.trace import BOUNDARIES, Trace


def compare_report(
    found: Comparison, a: tuple[str, Trace], b: tuple[str, Trace], model: str | None = None, tolerance: float = ROUNDING
) -> Report:
    """A comparison of two traces with their names. model: whose codec and tokenizer to show them with."""
    sides = [shown("A", a[1], model), shown("B", b[1], model)]
    frame = None if found.first is None else found.first.frame
    mark = None if frame is None else frame * FRAME_SECONDS
    tone: Tone = "good" if found.equal else "unsure" if found.kind in ("undecided", "a tie", "cut", "sampling") else "bad"
    sections = [
        _sides(a[0], b[0], found, mark),
        text_section(sides, mark),
        sound_section(sides, mark),
        codes_section(sides, mark),
        _agreement(found, sides, mark),
        layer_section(found, tolerance),
        boundary_section(found),
        times_section(sides),
        facts_section(sides),
    ]
    verdict = f"{found.kind[0].upper()}{found.kind[1:]}."
    return Report(f"A: {a[0]}, B: {b[0]}", verdict, found.why, tone, [section for section in sections if section is not None])


def _sides(a: str, b: str, found: Comparison, mark: float | None) -> Section:
    """What is known beyond the verdict, as sentences."""
    text = [f"A is {a}. B is {b}."]
    if mark is not None and found.first is not None:
        text.append(f"The dashed red line is where they part: frame {found.first.frame}, {mark:.2f} s, at {found.first.boundary}.")
    text += [f"{boundary}: {finding}." for boundary, relation in found.relations.items() for finding in relation.findings]
    if found.sound is not None and not found.equal:
        text.append(f"Sound: {found.sound.finding}.")
    if found.other_facts and not found.equal:
        text.append(f"Facts that differ: {', '.join(found.other_facts)}.")
    for side, judged in found.judgements.items():
        odd = [judgement for judgement in judged if not judgement.plausible]
        listed = "; ".join(f"{judgement.stream}: {describe(judgement)}" for judgement in odd)
        text.append(
            f"{side}'s tokens are {f'not the model{chr(39)}s: {listed}' if odd else 'what the model draws under their settings'}."
        )
    return Section("What was compared", [*text, *(f"Note: {note}." for note in found.notes)])


def _agreement(found: Comparison, sides: list[Shown], mark: float | None) -> Section | None:
    figures = []
    for name in ("codes_in", "row", "audio_tokens", "codes_out"):
        a, b = (side.trace.columns.get(name) for side in sides)
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or name not in found.agreement:
            continue
        seconds = min(len(a), len(b)) * FRAME_SECONDS
        shares = " ".join(f"{share:.0%}" for share in found.agreement[name])
        caption = f"{name}: {BOUNDARIES[name].meaning}. Equal, stream by stream: {shares}"
        figures.append(Figure(difference_map(a, b, seconds, name, mark), caption))
    text = ["Green: equal. Red: different. Grey: one side has none."]
    return Section("Where the tokens agree", text, figures) if figures else None


def layer_section(found: Comparison, tolerance: float) -> Section | None:
    if not found.layers:
        return None
    figures = [
        Figure(bars(seen.errors, tolerance, f"{seen.part}, frame {seen.frame}"), f"{seen.finding}. Logarithmic, 1e-9 to 1", "wide")
        for seen in found.layers
    ]
    return Section("Layer by layer", ["Each bar is one layer's output: the largest difference over the largest value."], figures)


def boundary_section(found: Comparison) -> Section:
    rows = [
        (
            difference.boundary,
            str(difference.compared),
            "-" if difference.frame is None else str(difference.frame),
            str(difference.differing),
            "" if difference.largest is None else f"{difference.largest:.1e}",
        )
        for difference in found.differences
    ]
    return Section(
        "Boundaries", tables=[Table(rows, ("boundary", "steps compared", "first different", "different", "largest error"))]
    )
