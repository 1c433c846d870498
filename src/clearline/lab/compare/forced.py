"""Teacher forcing: what a model thinks of tokens it did not choose. Tells another sampling from another model."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clearline.app import Model
from clearline.config import GenerationConfig, Sampling
from clearline.config.lm import UNGENERATED
from clearline.errors import ClearlineError
from clearline.generate.delays import effective_delays
from clearline.generate.sampler import kept_tokens
from clearline.trace import Trace

# Standard deviations of mean surprise beyond which tokens were not drawn from this model under these settings.
UNLIKELY = 4.0
# A choice may miss the filter's edge, or greedy's best token, by this much of the logits' range: float32 rounding.
_EDGE = 1e-4


@dataclass(frozen=True)
class Judgement:
    """How one stream of tokens looks to a model that was fed them.

    best: share of tokens that were the model's most likely one. impossible: how many of the `count` tokens the settings
    would never have drawn (outside top-k, top-p, min-p; greedy: not the best one), the first at step `first_impossible`.
    surprise: z = sum(-ln p(x_t) - H_t) / sqrt(sum Var_t) over the possible ones, where p is the model's distribution
    after temperature and filters, H its entropy and Var the variance of -ln p: near standard normal when the tokens were
    drawn from it, since the terms are a martingale. 0 for greedy.
    """

    stream: str
    count: int
    best: float
    impossible: int
    first_impossible: int | None
    surprise: float

    @property
    def plausible(self) -> bool:
        return self.impossible == 0 and abs(self.surprise) <= UNLIKELY


@dataclass(frozen=True)
class Forced:
    """Logits of a model along somebody else's tokens: text [T, text_card_out], audio [T, dep_q, card]; hidden [T, dim]."""

    hidden: np.ndarray
    text_logits: np.ndarray
    audio_logits: np.ndarray | None


def force(model: Model, trace: Trace, limit: int | None = None, on_step: Callable[[int, int], None] | None = None) -> Forced:
    """Feed the trace's rows and sampled tokens to `model`, at most `limit` steps.

    Raises ClearlineError where the trace lacks what that takes, or is of a model with other streams.
    """
    rows, text, audio = forcible(model, trace)
    programs, cfg = model.programs, model.config
    steps = len(rows) if limit is None else min(limit, len(rows))
    state, depth = programs.temporal_state(), programs.depth_state()
    if not np.array_equal(rows[0], cfg.initial_row):
        # The step before the first recorded one: `first_frame` "twice" records the second of the two.
        programs.temporal.run(state, {"row": np.asarray(cfg.initial_row)[None]})
    hidden, text_logits, audio_logits = [], [], []
    for t in range(steps):
        out = programs.temporal.run(state, {"row": rows[t][None]})
        hidden.append(out["hidden"][0])
        text_logits.append(out["text_logits"][0])
        if audio is not None:
            depth["position"] = np.zeros(1, np.int64)
            fed = [text[t], *audio[t, :-1]]
            steps_out = [
                p.run(depth, {"hidden": out["hidden"], "token": np.array([x])}) for p, x in zip(programs.depth, fed, strict=True)
            ]
            audio_logits.append(np.stack([found["logits"][0] for found in steps_out]))
        if on_step is not None:
            on_step(t, steps)
    return Forced(np.stack(hidden), np.stack(text_logits), np.stack(audio_logits) if audio_logits else None)


def forcible(model: Model, trace: Trace) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Rows [T, 1 + n_q], text [T] and audio tokens [T, dep_q] or None of a trace: the steps that have them all."""
    cfg = model.config
    needed = {"row": (cfg.streams,), "text_token": ()} | ({"audio_tokens": (cfg.dep_q,)} if cfg.dep_q else {})
    for name, shape in needed.items():
        if name not in trace.columns:
            raise ClearlineError(f"teacher forcing needs the boundary {name}, which {trace.facts.get('name', 'the trace')} lacks")
        if trace.columns[name].shape[1:] != shape:
            raise ClearlineError(
                f"{name} has the shape {list(trace.columns[name].shape[1:])} a step, this model's is {list(shape)}: another model"
            )
    columns = [trace.columns[name] for name in needed]
    length = min(len(column) for column in columns)
    whole = np.all([(column[:length].reshape(length, -1) != UNGENERATED).all(1) for column in columns], axis=0)
    steps = np.flatnonzero(whole)
    if len(steps) == 0 or (np.diff(steps) != 1).any():
        raise ClearlineError("teacher forcing needs steps without gaps")
    rows, text, *audio = (column[steps] for column in columns)
    if rows.min() < -1 or rows[:, 0].max() > cfg.text_card or rows[:, 1:].max(initial=0) > cfg.card:
        raise ClearlineError("the rows hold tokens outside this model's vocabularies: another model")
    return rows, text, audio[0] if audio else None


def judge_tokens(forced: Forced, trace: Trace, model: Model, config: GenerationConfig) -> list[Judgement]:
    """Every stream of the trace's sampled tokens under the model's logits and these settings.

    Text is left out under a repetition penalty, whose distribution depends on what was said; so are the first tokens of
    delayed codebooks where the settings force them (`pad_early_acoustic`).
    """
    _, text, audio = forcible(model, trace)
    count, cfg = len(forced.text_logits), model.config
    out = []
    if config.text.repetition_penalty == 1.0:
        out.append(_judged("text", forced.text_logits, text[:count], config.text, cfg.text_padding))
    if audio is not None and forced.audio_logits is not None:
        delays = effective_delays(cfg, config.acoustic_delay) if config.pad_early_acoustic else (0,) * (cfg.n_q + 1)
        for k in range(audio.shape[1]):
            begin = delays[k + 1]
            out.append(_judged(f"audio {k}", forced.audio_logits[begin:, k], audio[begin:count, k], config.audio, None))
    return out


def _judged(name: str, logits: np.ndarray, tokens: np.ndarray, how: Sampling, padding: int | None) -> Judgement:
    spread = float(logits.max() - logits.min())
    inside = (tokens >= 0) & (tokens < logits.shape[1])
    impossible, terms, variances, best = [], [], [], 0
    for t, token in enumerate(tokens):
        if not inside[t]:
            continue
        scores = logits[t].astype(np.float64)
        best += int(scores[token] == scores.max())
        if how.temperature == 0:
            if scores[token] < scores.max() - _EDGE * spread:
                impossible.append(t)
            continue
        scores = (scores - scores.max()) / how.temperature
        if padding is not None and how.padding_bonus:
            scores[padding] += how.padding_bonus
        kept = kept_tokens(scores, how)
        if token not in kept:
            if scores[token] < scores[kept].min() - _EDGE * spread / how.temperature:
                impossible.append(t)
            continue
        weights = scores[kept] - scores[kept].max()
        log_p = weights - np.log(np.exp(weights).sum())
        p = np.exp(log_p)
        entropy = float(-(p @ log_p))
        terms.append(float(-log_p[np.searchsorted(kept, token)]) - entropy)
        variances.append(float(p @ log_p**2) - entropy**2)
    impossible += np.flatnonzero(~inside).tolist()
    surprise = sum(terms) / np.sqrt(max(sum(variances), 1e-12)) if sum(variances) > 1e-9 else 0.0
    return Judgement(
        name, len(tokens), best / max(1, len(tokens)), len(impossible), min(impossible, default=None), float(surprise)
    )  # fmt: skip
