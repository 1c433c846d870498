"""Sampling: were the tokens drawn from the logits as the settings say?"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from clearline.app import Model
from clearline.config import GenerationConfig, Sampling
from clearline.generate.sampler import kept_tokens
from clearline.lab.compare.forced import force, forcible
from clearline.lab.doctor.evidence import Evidence
from clearline.lab.doctor.finding import CERTAIN, LIKELY, POSSIBLE, Chart, Finding
from clearline.lab.doctor.redraw import REDRAWN, redrawn
from clearline.lab.doctor.thinking import loss_at
from clearline.lab.settings import settings_of

# Nats by which another temperature must explain the tokens better; beyond this one, unlikely tokens dominate.
BETTER, HOT = 6.0, 1.5
_GRID = np.exp(np.linspace(np.log(0.05), np.log(8.0), 41))


@dataclass(frozen=True)
class Draw:
    """How one kind of token was drawn. greedy: share of tokens that are the likeliest; expected_greedy: what the settings
    would give on average, with its standard deviation; outside: tokens that the filters exclude; temperature: the likeliest one,
    `gain` nats better than the settings'."""

    count: int
    greedy: float
    expected_greedy: float
    spread: float
    outside: int
    temperature: float
    gain: float


def look_at_sampling(evidence: Evidence, chart: Chart, computed: Model | None) -> None:
    """`computed`: the model whose logits the tokens were drawn from, as far as that is known."""
    model, trace = evidence.model, evidence.trace
    if model is None or trace is None or computed is None:
        return
    claimed = settings_of(trace.facts) or model.generation()
    _settings(chart, claimed)
    _, text, audio = forcible(model, trace)
    forced = force(computed, trace) if "text_logits" not in trace.columns or "audio_logits" not in trace.columns else None
    text_logits = trace.columns["text_logits"] if forced is None else forced.text_logits
    audio_logits = trace.columns.get("audio_logits") if forced is None else forced.audio_logits
    if len(text_logits) != len(text):
        chart.unknown("sampling", "the recorded logits have steps without tokens")
        return
    again = redrawn(trace, claimed, model, text_logits, text, audio_logits, audio)
    if again is not None and again.same:
        chart.passed(
            "sampling",
            f"drawing again with the recorded seed and settings gives {again.share:.1%} of the tokens, the rest are ties",
        )
        return
    if again is not None:
        for name, what, other in _others(claimed):
            tried = redrawn(trace, other, model, text_logits, text, audio_logits, audio)
            if tried is not None and tried.same and tried.share > again.share:
                chart.found(
                    Finding(
                        name,
                        "wrong tokens",
                        "tokens",
                        what,
                        f"drawing again that way gives {tried.share:.1%} of the tokens, the recorded settings {again.share:.1%}",
                        "draw as the settings say, or record the settings that were used",
                        CERTAIN,
                    )
                )
                return
    before = len(chart.faults)
    streams = [("text", text_logits, text, claimed.text)]
    if audio is not None and audio_logits is not None:
        early = claimed.pad_early_acoustic
        streams.append(("audio", *_flat(audio_logits, audio, model if early else None), claimed.audio))
    for name, logits, tokens, how in streams:
        _judge(chart, name, measure(logits, tokens, how), how)
    if again is not None and (again.share < REDRAWN or _same_weights(evidence)) and len(chart.faults) == before:
        chart.found(
            Finding(
                "noise-not-from-seed",
                "wrong tokens",
                "tokens",
                "the tokens are plausible draws, but not those that the recorded seed gives: the run cannot be repeated",
                f"drawing again with the recorded seed and settings gives {again.share:.1%} of the tokens; {again.misses} of "
                f"the others are no ties",
                "seed the generator once at the beginning of the run, and draw from nothing else",
                LIKELY,
            )
        )
    elif len(chart.faults) == before:
        chart.passed("sampling", "the tokens are what the settings would draw from these logits")


def _others(claimed: GenerationConfig) -> Iterator[tuple[str, str, GenerationConfig]]:
    """Ways in which tokens may have been drawn instead: greedily, without filters, with seeds that programs have of their own."""
    kinds = (("text and audio", True, True), ("audio", False, True), ("text", True, False))
    for which, text, audio in kinds:
        greedy = Sampling.greedy()
        changed = replace(claimed, text=greedy if text else claimed.text, audio=greedy if audio else claimed.audio)
        yield "temperature-zero", f"{which} tokens are drawn greedily, at temperature 0", changed
    for which, text, audio in kinds:
        open_text, open_audio = (replace(how, top_k=0, top_p=0.0, min_p=0.0) for how in (claimed.text, claimed.audio))
        changed = replace(claimed, text=open_text if text else claimed.text, audio=open_audio if audio else claimed.audio)
        yield "no-top-k", f"{which} tokens are drawn without top-k or top-p", changed


def _same_weights(evidence: Evidence) -> bool:
    """Whether the logits at hand are those that were drawn from: recorded ones, or ours of the same weights."""
    recorded = evidence.column("text_logits") is not None
    return recorded or (evidence.model is not None and evidence.facts.get("quantize") == evidence.model.quantize)


def measure(logits: np.ndarray, tokens: np.ndarray, how: Sampling) -> Draw:
    """Tokens [n] drawn from logits [n, card] against the settings."""
    inside = (tokens >= 0) & (tokens < logits.shape[1])
    logits, tokens = logits[inside].astype(np.float64), tokens[inside]
    greedy, chances, outside = 0, [], 0
    spread = float(logits.max() - logits.min()) if len(logits) else 0.0
    for row, token in zip(logits, tokens, strict=True):
        greedy += int(row[token] == row.max())
        if how.temperature == 0:
            chances.append(1.0)
            continue
        scores = (row - row.max()) / how.temperature
        kept = kept_tokens(scores, how)
        p = np.exp(scores[kept] - scores[kept].max())
        chances.append(float(p.max() / p.sum()))
        outside += int(token not in kept and scores[token] < scores[kept].min() - 1e-4 * spread / how.temperature)
    losses = np.array([loss_at(logits, tokens, t) for t in _GRID]) if len(logits) else np.zeros(len(_GRID))
    at = int(losses.argmin())
    own = loss_at(logits, tokens, max(how.temperature, 0.05)) if len(logits) else 0.0
    p1 = np.array(chances)
    return Draw(
        len(tokens),
        greedy / max(1, len(tokens)),
        float(p1.mean()) if len(p1) else 1.0,
        float(np.sqrt((p1 * (1 - p1)).sum())) / max(1, len(p1)),
        outside,
        float(_GRID[at]),
        own - float(losses[at]),
    )


def _judge(chart: Chart, name: str, draw: Draw, how: Sampling) -> None:
    better = draw.gain > BETTER
    if how.temperature == 0:
        if draw.greedy < 0.98:
            chart.found(
                Finding(
                    "temperature-high",
                    "wrong tokens",
                    "tokens",
                    f"the {name} tokens are not the likeliest ones, as greedy decoding takes them",
                    f"{draw.greedy:.0%} are",
                    "set the temperature that the settings say",
                    LIKELY,
                )
            )
        return
    surplus = (draw.greedy - draw.expected_greedy) / max(draw.spread, 1e-9)
    if draw.greedy > 0.995 and (surplus > 4 or better):
        chart.found(
            Finding(
                "temperature-zero",
                "wrong tokens",
                "tokens",
                f"the {name} tokens are drawn greedily, not at the temperature {how.temperature:g}",
                f"{draw.greedy:.1%} are the likeliest token, the settings would give {draw.expected_greedy:.1%} +- "
                f"{draw.spread:.1%}",
                f"sample with temperature {how.temperature:g}",
                LIKELY,
            )
        )
    elif better and draw.temperature > 1.25 * how.temperature:
        chart.found(
            Finding(
                "temperature-high",
                "wrong tokens",
                "tokens",
                f"the {name} tokens are drawn at a temperature near {draw.temperature:.2g}, not {how.temperature:g}",
                f"that temperature explains them e^{draw.gain:.0f} times better",
                f"sample with temperature {how.temperature:g}",
                LIKELY,
            )
        )
    elif draw.outside > 0:
        chart.found(
            Finding(
                "no-top-k",
                "wrong tokens",
                "tokens",
                f"{name} tokens are drawn that the filters (top-k {how.top_k or 'off'}, top-p {how.top_p or 'off'}) exclude",
                f"{draw.outside} of {draw.count}; the temperature is as the settings say",
                f"keep the {how.top_k} likeliest {name} tokens before drawing" if how.top_k else "apply the filters before drawing",
                LIKELY,
            )
        )
    elif better and draw.temperature < 0.8 * how.temperature:
        chart.found(
            Finding(
                "temperature-low",
                "wrong tokens",
                "tokens",
                f"the {name} tokens are drawn at a temperature near {draw.temperature:.2g}, not {how.temperature:g}",
                f"that temperature explains them e^{draw.gain:.0f} times better",
                f"sample with temperature {how.temperature:g}",
                POSSIBLE,
            )
        )


def _flat(logits: np.ndarray, tokens: np.ndarray, padded: Model | None) -> tuple[np.ndarray, np.ndarray]:
    """All codebooks one after the other; the first frames left out where their tokens were forced."""
    begin = 0 if padded is None else padded.config.max_delay + 2
    known = ~np.isnan(logits[begin:]).any(2)
    return logits[begin:][known], tokens[begin:][known]


def _settings(chart: Chart, claimed: GenerationConfig) -> None:
    for name, how in (("text", claimed.text), ("audio", claimed.audio)):
        if how.temperature > HOT:
            chart.found(
                Finding(
                    "temperature-high",
                    "wrong tokens",
                    "settings",
                    f"the {name} tokens are drawn at temperature {how.temperature:g}",
                    f"the run's own settings say so; beyond {HOT} unlikely tokens dominate",
                    "use 0.8 for audio and 0.7 for text",
                    LIKELY,
                )
            )
