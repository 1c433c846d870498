"""How two who speak at once take turns: the measures of Full-Duplex-Bench v1 and v1.5, on one recording or trace.

v1: Lin et al., "Full-Duplex-Bench", arXiv:2503.04721. v1.5: Lin et al., "Full-Duplex-Bench v1.5", arXiv:2507.23159. Where the
papers leave a number open, that of their scripts is used (github.com/DanielLin94144/Full-Duplex-Bench, v1_v1.5/evaluation,
commit d7336bd); each is named below. Theirs takes words from a recogniser; here they come from the caller or are unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clearline.generate.text import Word
from clearline.lab.speech import Segment, intersection, merge, total

# get_timing.py: pauses up to these are inside one stretch of speech.
USER_GAP, MODEL_GAP = 0.6, 0.5
# eval_smooth_turn_taking.py: shorter than this and no more words than that is no turn.
TURN_SECONDS, TURN_WORDS = 1.0, 3
# eval_backchannel.py: shorter than this, with no more words than that.
BACKCHANNEL_SECONDS, BACKCHANNEL_WORDS = 1.0, 2


@dataclass(frozen=True)
class Turn:
    """A stretch of the user's speech and what the model made of it (v1).

    taken: the model spoke for at least 1 s, or more than 3 words, between this stretch's beginning and the next one's,
    backchannels apart. raw: seconds from the user's end to the model's start, negative when it began before; clamped: at least 0,
    as the scripts count it. gap: the same from v1.5, to the first start after the user's end; None where there is none.
    """

    begin: float
    end: float
    taken: bool
    raw: float | None
    clamped: float | None
    gap: float | None


@dataclass(frozen=True)
class Interruption:
    """The user begins while the model speaks. yielded: the model stopped before the user did; stop: how long that took."""

    begin: float
    yielded: bool
    stop: float | None


@dataclass(frozen=True)
class Duplex:
    """The measures of one conversation, in seconds unless they say otherwise.

    take_over_rate: share of the user's turns that were taken (v1). response_raw, response_clamped: means over taken turns (v1).
    response_gap: mean from a user's end to the next start of the model (v1.5). stop_latency: mean length of the stretches in
    which both speak, one for each end (v1.5, which counts whoever stops). interruptions: of the model by the user. backchannels:
    the model's, shorter than 1 s and of at most 2 words, begun while the user speaks (v1); a second of recording.
    user_segments, model_segments: after pauses of 0.6 and 0.5 s are bridged (v1.5); overlap, silence, user, model: seconds of both,
    neither, each, as the detector heard them, nothing bridged. words_per_minute: words over the time from the first word's
    start to the last one's end (v1.5), None without words.
    """

    seconds: float
    user_segments: list[Segment]
    model_segments: list[Segment]
    turns: list[Turn]
    interruptions: list[Interruption]
    backchannels: list[Segment]
    take_over_rate: float | None
    response_raw: float | None
    response_clamped: float | None
    response_gap: float | None
    stop_latency: float | None
    backchannels_per_second: float
    overlap: float
    silence: float
    user: float
    model: float
    words: int | None
    words_per_minute: float | None


def duplex(user: Sequence[Segment], model: Sequence[Segment], seconds: float, words: Sequence[Word] | None = None) -> Duplex:
    """Measure segments of speech of both sides of a conversation of `seconds`; words are the model's, None when unknown."""
    users, models = merge(user, USER_GAP), merge(model, MODEL_GAP)
    backchannels = [segment for segment in models if _backchannel(segment, users, words)]
    replies = [segment for segment in models if segment not in backchannels]
    starts = [begin for begin, _ in users] + [float("inf")]
    turns = [_turn(users[i], starts[i + 1], replies, models, words) for i in range(len(users))]
    taken = [turn for turn in turns if turn.taken]
    both = intersection(user, model)
    overlap = total(both)
    spoken = None if words is None else len(words)
    return Duplex(
        seconds=seconds,
        user_segments=users,
        model_segments=models,
        turns=turns,
        interruptions=interruptions(users, models),
        backchannels=backchannels,
        take_over_rate=len(taken) / len(turns) if turns else None,
        response_raw=_mean([turn.raw for turn in taken]),
        response_clamped=_mean([turn.clamped for turn in taken]),
        response_gap=_mean([end - begin for begin, end in response_gaps(users, models)]),
        stop_latency=_mean([end - begin for begin, end in overlaps(users, models)]),
        backchannels_per_second=len(backchannels) / seconds if seconds else 0.0,
        overlap=overlap,
        silence=max(0.0, seconds - total(user) - total(model) + overlap),
        user=total(user),
        model=total(model),
        words=spoken,
        words_per_minute=_rate(words),
    )


def overlaps(user: Sequence[Segment], model: Sequence[Segment]) -> list[Segment]:
    """v1.5's stop latencies: the stretches in which both speak, whoever stops.

    Their rule for several that end in one millisecond (the shortest counts) cannot matter here: a side's segments are disjoint.
    """
    return intersection(user, model)


def response_gaps(user: Sequence[Segment], model: Sequence[Segment]) -> list[Segment]:
    """v1.5's response latencies: from a user's end to the model's next start; of those with one start, the shortest."""
    best: dict[int, Segment] = {}
    for _, end in user:
        start = next((begin for begin, _ in model if begin > end), None)
        if start is not None and end > best.get(round(start * 1000), (-np.inf, 0.0))[0]:
            best[round(start * 1000)] = (end, start)
    return sorted(best.values(), key=lambda segment: segment[1])


def interruptions(user: Sequence[Segment], model: Sequence[Segment]) -> list[Interruption]:
    """Every time the user begins inside a stretch of the model's speech."""
    out = []
    for begin, end in user:
        spoken = next((segment for segment in model if segment[0] < begin < segment[1]), None)
        if spoken is not None:
            yielded = spoken[1] <= end
            out.append(Interruption(begin, yielded, round(spoken[1] - begin, 3) if yielded else None))
    return out


def _turn(user: Segment, until: float, replies: Sequence[Segment], model: Sequence[Segment], words: Sequence[Word] | None) -> Turn:
    begin, end = user
    answer = [segment for segment in replies if begin < segment[0] < until]
    gap = next((start - end for start, _ in model if end < start < until), None)
    if not answer:
        return Turn(begin, end, False, None, None, gap)
    length = answer[-1][1] - answer[0][0]
    said = 0 if words is None else _said(words, (answer[0][0], answer[-1][1]))
    if length < TURN_SECONDS and said <= TURN_WORDS:
        return Turn(begin, end, False, None, None, gap)
    raw = answer[0][0] - end
    return Turn(begin, end, True, raw, max(0.0, raw), gap)


def _backchannel(segment: Segment, users: Sequence[Segment], words: Sequence[Word] | None) -> bool:
    short = segment[1] - segment[0] < BACKCHANNEL_SECONDS and (words is None or _said(words, segment) <= BACKCHANNEL_WORDS)
    return short and any(begin <= segment[0] < end for begin, end in users)


def _said(words: Sequence[Word], within: Segment) -> int:
    """Words that overlap a stretch."""
    return sum(word.start < within[1] and word.end > within[0] for word in words)


def _rate(words: Sequence[Word] | None) -> float | None:
    if not words:
        return None
    span = words[-1].end - words[0].start
    return len(words) / (span / 60) if span > 0 else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
