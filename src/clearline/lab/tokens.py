"""`clearline tokens`: what the tokens of one run say by themselves, as plain lines.

Each warning states what was seen; none of them can tell silence from a fault by itself, because the codec's codes of
silence repeat too. Thresholds are stated where they are used.
"""

from dataclasses import dataclass

import numpy as np

from clearline.errors import ClearlineError
from clearline.lab.rhythm import Coupling, Rhythm, coupling, rhythm
from clearline.lab.streams import Loop, Stream, entropy, longest_loop, stream
from clearline.trace import Trace

# Where audio tokens are looked for, in this order.
AUDIO = ("codes_out", "audio_tokens", "codes_in")
# Frames of one token in an acoustic codebook before it is called stuck: 2 s. Speech changes its acoustic codes at nearly
# every frame; digital silence does not.
STUCK = 25
# A loop must be this long and this unlikely by chance.
LOOP_FRAMES, LOOP_CHANCE = 10, 1e-3
# The last third's entropy against the first's: below half of it is a collapse (of at least 2 bits before).
COLLAPSE, COLLAPSE_FROM = 0.5, 2.0


@dataclass(frozen=True)
class TokenReport:
    """Statistics and verdict lines. warnings is empty when nothing stands out; notes are facts worth knowing."""

    source: str
    steps: int
    audio: list[Stream]
    thirds: list[tuple[float, float, float]]
    loop: Loop | None
    text: Rhythm | None
    coupling: Coupling | None
    warnings: list[str]
    notes: list[str]


def token_report(trace: Trace, boundary: str | None = None, card: int | None = None) -> TokenReport:
    """Look at the audio tokens of `boundary` (codes_out, else audio_tokens, else codes_in) and at the text."""
    if boundary is not None and boundary not in AUDIO:
        raise ClearlineError(f"{boundary} holds no audio tokens; choose {', '.join(AUDIO)}")
    if card is not None and card < 1:
        raise ClearlineError(f"a codebook of {card} tokens was asked for; it has 1 or more")
    found = boundary or next((name for name in AUDIO if name in trace.columns), None)
    if found is not None and found not in trace.columns:
        raise ClearlineError(f"the trace has no {found}; it has {', '.join(trace.columns) or 'nothing'}")
    if found is None and "text_token" not in trace.columns:
        raise ClearlineError(f"no tokens to look at: there is only {', '.join(trace.columns) or 'nothing'}")
    column = None if found is None else trace.columns[found]
    codes = None if column is None else column[_begin(column) :]
    audio, thirds, loop = [], [], None
    if codes is not None and len(codes):
        audio = [stream(f"audio {k}", codes[:, k], card) for k in range(codes.shape[1])]
        thirds = [_thirds(codes[:, k]) for k in range(codes.shape[1])]
        loop = longest_loop(codes)
    text = trace.columns.get("text_token")
    heard = None
    if text is not None and codes is not None and column is not None:
        heard = coupling(text[_begin(column) :], codes)
    report = TokenReport(
        found or "text_token", trace.steps, audio, thirds, loop, None if text is None else rhythm(text), heard, [], []
    )  # fmt: skip
    _judge(report, codes, None if text is None or column is None else text[_begin(column) :])
    if not trace.complete:
        report.notes.append("the run did not come to its end")
    return report


def _begin(column: np.ndarray) -> int:
    """The first step with tokens: before it, the delays have nothing complete."""
    flat = (column.reshape(len(column), -1) >= 0).all(1)
    return int(flat.argmax()) if flat.any() else 0


def _thirds(tokens: np.ndarray) -> tuple[float, float, float]:
    first, middle, last = (entropy(part) if len(part) else 0.0 for part in np.array_split(tokens, 3))
    return first, middle, last


def _judge(report: TokenReport, codes: np.ndarray | None, text: np.ndarray | None) -> None:
    warnings = report.warnings
    for found in report.audio:
        if found.invalid:
            warnings.append(
                f"{found.name}: {found.invalid} of {found.steps} tokens are out of range, the first in frame {found.first_invalid}"
            )
    _judge_stuck(report, text)
    loop = report.loop
    if loop is not None and loop.length >= LOOP_FRAMES and loop.chance <= LOOP_CHANCE and loop.period > 1:
        warnings.append(
            f"whole frames repeat: for {loop.length} frames from frame {loop.start} each equals the one {loop.period} before"
        )
    collapsed = [k for k, (first, _, last) in enumerate(report.thirds) if first >= COLLAPSE_FROM and last < COLLAPSE * first]
    if report.audio and report.steps >= 150 and len(collapsed) > len(report.audio) / 2:
        k = collapsed[0]
        first, _, last = report.thirds[k]
        warnings.append(
            f"the tokens collapse: in {len(collapsed)} of {len(report.audio)} codebooks the last third has less than half the "
            f"entropy of the first (audio {k}: {first:.1f} to {last:.1f} bits)"
        )
    _judge_text(report)
    if codes is not None and not len(codes):
        warnings.append(f"{report.source} has no complete frame")


def _judge_stuck(report: TokenReport, text: np.ndarray | None) -> None:
    """Codes that stand still are what silence looks like; while the text speaks they are something else."""
    stuck = [found for found in report.audio[1:] if found.run >= STUCK]
    if not stuck:
        return
    worst = max(stuck, key=lambda found: found.run)
    line = (
        f"{len(stuck)} of {len(report.audio) - 1} acoustic codebooks stand still for {STUCK} frames (2 s) or more, "
        f"{worst.name} for {worst.run} from frame {worst.run_start}"
    )
    if text is None:
        report.warnings.append(f"{line}: silence, or a fault")
    elif rhythm(text[worst.run_start : worst.run_start + worst.run]).spoken > 0:
        report.warnings.append(f"{line}, while the text speaks")
    else:
        report.notes.append(f"{line}; the text is silent there too")


def _judge_text(report: TokenReport) -> None:
    text = report.text
    if text is None:
        return
    if text.spoken == 0:
        report.notes.append("the text stream says nothing")
    elif text.padding + text.end_padding == 0 and text.steps >= 25:
        report.warnings.append("the text stream has no padding at all: wrong padding ids, or no inner monologue of this kind")
    early, _, late = text.per_second
    if text.steps >= 150 and early >= 1 and late < early / 10:
        report.notes.append(f"the text falls silent: {early:.1f} tokens a second in the first third, {late:.1f} in the last")
    if report.coupling is not None and text.spoken > 0 and report.coupling.p > 0.5:
        report.notes.append("the audio tokens do not change more when the text speaks")
