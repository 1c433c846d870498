"""What is wrong with a sound that can be understood, found by rules with stated thresholds: each returns a sentence or None.

The thresholds were set on clean recordings so that fewer than one in a hundred of them has a defect (docs/judge.md).
"""

import numpy as np

from clearline.lab.judge.hearing import RATE, Heard

FRAME_SECONDS = 0.08
# Share of samples at the rail; depth of the frame pattern; silent gaps a second; pieces played twice; seconds that repeat;
# constant offset.
CLIPPED, CLICKS, GAPS, DOUBLED, LOOPED, OFFSET = 0.002, 6.0, 1.0, 2, 0.4, 0.02
# A block that is like so many others before it is a tone, and no loop.
_TONE = 40


def defects(heard: Heard) -> list[str]:
    """All that were found. `heard` has some sound."""
    found = (clipping(heard), frame_clicks(heard), gaps(heard), doubled_pieces(heard), loop(heard), offset(heard))
    return [sentence for sentence in found if sentence is not None]


def clipping(heard: Heard) -> str | None:
    share = clipped_share(heard.pcm)
    return f"{share:.1%} of the samples are cut off at {np.abs(heard.pcm).max():.2f}" if share > CLIPPED else None


def clipped_share(pcm: np.ndarray) -> float:
    """Share of samples that lie, two or more in a row, within 0.5% of the extremes on one side."""
    share = 0
    for side in (pcm, -pcm):
        high = side >= 0.995 * max(float(side.max()), 1e-9)
        share += int((high[1:] & high[:-1]).sum())
    return share / max(1, len(pcm))


def frame_clicks(heard: Heard) -> str | None:
    depth = frame_pattern(heard)
    return f"clicks every {FRAME_SECONDS * 1000:.0f} ms, at the edges of frames" if depth > CLICKS else None


def frame_pattern(heard: Heard) -> float:
    """How far the roughest millisecond of the 80 ms grid stands out of the other 79, in their standard deviations."""
    size = heard.rate // 1000
    jumps = np.abs(np.diff(heard.pcm.astype(np.float64), 2))
    begin, end = int(heard.start * heard.rate), int(heard.end * heard.rate)
    jumps = jumps[begin:end]
    blocks = jumps[: len(jumps) // size * size].reshape(-1, size).max(1)
    if heard.rate % 1000 or len(blocks) < 10 * 80:
        return 0.0
    # Against the roughness around it: speech is rougher in some places than in others.
    around = np.array([np.median(blocks[max(0, n - 20) : n + 21]) for n in range(len(blocks))])
    ratio = np.log((blocks + 1e-6) / (around + 1e-6))
    folded = np.median(ratio[: len(ratio) // 80 * 80].reshape(-1, 80), 0)
    best = int(folded.argmax())
    others = np.delete(folded, [best, (best - 1) % 80, (best + 1) % 80])
    return float((folded[best] - others.mean()) / (others.std() + 0.05))


def gaps(heard: Heard) -> str | None:
    count = gap_count(heard)
    per_second = count / max(heard.active, 0.1)
    return f"{count} gaps of silence inside the sound, {per_second:.1f} a second" if count >= 3 and per_second > GAPS else None


def gap_count(heard: Heard) -> int:
    """Stretches of 3 to 100 ms of nothing at all that begin and end in the middle of a sound."""
    pcm = np.abs(heard.pcm)
    quiet = pcm < 1e-4 * pcm.max()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet.astype(np.int8), [0]])))
    count, side = 0, max(2, int(0.0003 * heard.rate))  # it begins and ends at once: a stop consonant fades
    for begin, end in edges.reshape(-1, 2):
        if 0.003 * heard.rate <= end - begin <= 0.1 * heard.rate:
            before, after = pcm[max(0, begin - side) : begin], pcm[end : end + side]
            count += bool(len(before) and len(after) and before.max() > 0.02 * pcm.max() and after.max() > 0.02 * pcm.max())
    return count


def doubled_pieces(heard: Heard) -> str | None:
    for seconds in (FRAME_SECONDS, FRAME_SECONDS / 2, FRAME_SECONDS / 4):
        count = doubled_count(heard, seconds)
        if count >= DOUBLED:
            return f"{count} pieces of {seconds * 1000:.0f} ms are played twice"
    return None


def doubled_count(heard: Heard, seconds: float) -> int:
    """How many pieces of that length are followed by themselves, sample for sample, where there is sound. A tone, which is
    always like itself, has none."""
    size = round(seconds * heard.rate)
    pcm = heard.pcm.astype(np.float64)
    if len(pcm) < 3 * size:
        return 0
    top = float(np.abs(pcm).max())
    # A stretch of equal samples as long as the piece (a few more or fewer may be equal at its ends), and not silent.
    equal = np.abs(pcm[size:] - pcm[:-size]) <= 1e-4 * top
    edges = np.flatnonzero(np.diff(np.concatenate([[0], equal.astype(np.int8), [0]])))
    return sum(
        bool(0.98 * size <= end - begin <= 1.5 * size and np.sqrt((pcm[begin:end] ** 2).mean()) > 0.02 * top)
        for begin, end in edges.reshape(-1, 2)
    )


def loop(heard: Heard) -> str | None:
    seconds, period = looped(heard.voice)
    return f"{seconds:.1f} s repeat what was {period:.2f} s before, sample for sample" if seconds >= LOOPED else None


def looped(voice: np.ndarray) -> tuple[float, float]:
    """Seconds of voice [n] at 16 kHz that are a copy of what was 0.16 to 2 s before, and that period in seconds: 100 ms blocks
    whose correlation with what lies one period earlier is above 0.97, for the period with most of them."""
    block, least, most = RATE // 10, int(0.16 * RATE), 2 * RATE
    x = voice - voice.mean(dtype=np.float64)  # what never changes is alike everywhere
    energy = np.concatenate([[0.0], np.cumsum(x**2)])
    power = energy[block:] - energy[:-block]  # of the block that begins at each sample
    counts: dict[int, int] = {}
    for begin in range(least, len(x) - block + 1, block):
        first = max(0, begin - most)
        if power[begin] < 1e-3 * power.max():
            continue
        size = 1 << (begin - first + block).bit_length()
        past, piece = np.fft.rfft(x[first:begin], size), np.fft.rfft(x[begin : begin + block], size)
        places = begin - least - first + 1
        products = np.fft.irfft(past * np.conj(piece), size)[:places]
        likeness = products / np.sqrt(power[first : first + places] * power[begin] + 1e-12)
        # Periods to 5 ms, each counted once a block.
        periods = {round((begin - first - int(place)) / 80) for place in np.flatnonzero(likeness > 0.97)}
        for period in periods if len(periods) < _TONE else ():
            counts[period] = counts.get(period, 0) + 1
    if not counts:
        return 0.0, 0.0
    period = max(counts, key=lambda one: (counts[one], -one))
    return counts[period] * block / RATE, period * 80 / RATE


def offset(heard: Heard) -> str | None:
    mean = float(heard.pcm.mean())
    return f"a constant offset of {mean:+.2f}" if abs(mean) > OFFSET else None
