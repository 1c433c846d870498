"""Encoder: are the user's codes what this codec makes of these samples?"""

from collections.abc import Mapping

import numpy as np

from clearline.app import Model
from clearline.backends import get_backend
from clearline.checkpoint.files import open_tensors
from clearline.generate import Codec
from clearline.lab.compare.relation import relate
from clearline.lab.doctor.codec_mistakes import codec_mistakes
from clearline.lab.doctor.evidence import Evidence
from clearline.lab.doctor.finding import CERTAIN, LIKELY, Chart, Finding

# Share of equal codes, of all codebooks, that is the same computation; of the first one, that is nearly so: rounding moves a
# few codes, and every later codebook inherits them. Of the rest, a mistake made on purpose must explain this part.
AGREES, NEARLY, EXPLAINS = 0.995, 0.9, 0.8


def look_at_encoder(evidence: Evidence, chart: Chart) -> None:
    """`codes_in` against our own encoding of `pcm_in`."""
    pcm, codes, model = evidence.column("pcm_in"), evidence.column("codes_in"), evidence.model
    if pcm is None or codes is None or model is None:
        return
    seen = codes.T
    count = min(len(seen), model.mimi.cfg.n_q)
    ours, _ = converse(model.mimi, pcm, None, count)
    agreement = agree(ours, seen[:count])
    shares = f"{agreement[0]:.0%} of the first codebook's codes are those of our encoder, {agreement.mean():.0%} of all"
    if agreement.mean() >= AGREES and len(seen) >= model.config.user_streams:
        chart.passed("codes_in", shares)
        return
    relation = relate(ours, seen[:count])
    if relation.disguised and relation.findings:
        _disguised(chart, relation.findings)
        return
    # Of what our encoder does not explain, a mistake made on purpose must explain most.
    enough = agreement.mean() + EXPLAINS * (1 - agreement.mean())
    for mistake in codec_mistakes(lambda: cluster_usage(model)):
        wrong = mistake.make(model.mimi, get_backend(model.backend.name))
        made, _ = converse(wrong, pcm, evidence.column("codes_out") if wrong.shared else None, count)
        got = agree(made, seen[:count])
        if got.mean() >= enough:
            chart.found(
                Finding(
                    mistake.called("encoder"),
                    "wrong audio path",
                    "codes_in",
                    mistake.what,
                    f"{agreement.mean():.0%} of the codes are our encoder's, and {got.mean():.0%} with this mistake made on "
                    f"purpose",
                    mistake.remedy,
                    CERTAIN,
                )
            )
            return
    if _count(chart, evidence, seen, agreement):
        return
    if agreement[0] >= NEARLY:
        chart.passed("codes_in", f"{shares} (a lower precision?)")
        return
    _unexplained(chart, ours, seen[:count], agreement)


def converse(codec: Codec, pcm: np.ndarray | None, codes: np.ndarray | None, count: int) -> tuple[np.ndarray, np.ndarray]:
    """One stream of the codec, as in a conversation: each step encodes pcm [T, frame_size] and decodes codes [T, K], where
    there are any. Returns codes [count, T] and sound [T, frame_size]; what was not asked for is empty, and a step without
    codes is silent."""
    steps = len(pcm) if pcm is not None else len(codes) if codes is not None else 0
    stream = codec.stream(max(count, 0 if codes is None else min(codes.shape[1], codec.cfg.n_q)))
    heard, said = [], []
    for t in range(steps):
        if pcm is not None:
            heard.append(stream.encode(np.nan_to_num(pcm[t].astype(np.float32)))[:count])
        if codes is not None:
            row = codes[t, : codec.cfg.n_q] if t < len(codes) else np.full(1, -2)
            good = ((row >= 0) & (row < codec.cfg.bins)).all()
            said.append(stream.decode(row) if good else np.zeros(codec.frame_size, np.float32))
    return np.stack(heard, 1) if heard else np.zeros((count, 0), np.int64), np.stack(said) if said else np.zeros(
        (0, codec.frame_size)
    )


def agree(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Share of equal codes per codebook of a and b [K, T], frames without a value left out."""
    length = min(a.shape[1], b.shape[1])
    there = (b[:, :length] >= 0).all(0)
    return (a[:, :length] == b[:, :length])[:, there].mean(1) if there.any() else np.zeros(len(a))


def cluster_usage(model: Model) -> Mapping[str, np.ndarray]:
    """How often each centroid was used in training [bins], by the name of the codebook's weight; none where unknown."""
    found = {}
    for name, tensor in open_tensors(model.checkpoint.mimi_path).items():
        if name.endswith("_codebook.cluster_usage"):
            target = name.removesuffix("cluster_usage") + "embedding"
            if target in model.mimi.weights:
                found[target] = tensor.read().dense(np.float32)
    return found


def _count(chart: Chart, evidence: Evidence, seen: np.ndarray, agreement: np.ndarray) -> bool:
    """Whether more or fewer codebooks were encoded than the model reads, or some that it reads never change."""
    wanted = 0 if evidence.model is None else evidence.model.config.user_streams
    still = [k for k in range(1, min(wanted, len(seen))) if agreement[k] < 0.5 and len(np.unique(seen[k])) == 1]
    if len(seen) >= wanted and not still:
        return False
    what = f"only {len(seen)} codebooks are encoded" if len(seen) < wanted else f"codebooks {_listed(still)} never change"
    chart.found(
        Finding(
            "wrong-codebook-count",
            "wrong audio path",
            "codes_in",
            f"{what}, the model reads {wanted}",
            f"agreement with our encoder per codebook: {', '.join(f'{share:.0%}' for share in agreement)}",
            f"encode with {wanted} codebooks",
            CERTAIN,
        )
    )
    return True


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _disguised(chart: Chart, findings: tuple[str, ...]) -> None:
    words = "; ".join(findings).replace(" of B", "").replace("B's ", "").replace("A's", "our").replace("in A", "by our encoder")
    offset = any("every token" in finding for finding in findings)
    permuted = any("permuted" in finding for finding in findings)
    name = "audio-vocabulary-offset" if offset else "codebooks-permuted" if permuted else "user-codes-shifted"
    chart.found(
        Finding(
            name,
            "wrong tokens",
            "codes_in",
            f"the user's codes are the right ones, moved: {words}",
            "found by relating the recorded codes to our encoder's",
            "undo it where codes are handed from the codec to the model",
            CERTAIN,
        )
    )


def _unexplained(chart: Chart, ours: np.ndarray, seen: np.ndarray, agreement: np.ndarray) -> None:
    constant = [k for k in range(len(seen)) if len(np.unique(seen[k])) == 1]
    good = [k for k in range(len(seen)) if agreement[k] > 0.5]
    period = _period(ours, seen)
    if len(constant) not in (0, len(seen)) or period:
        what = (
            f"only one frame in {period} holds the codes that belong there"
            if period
            else f"codebooks {', '.join(map(str, constant))} never change"
        )
        chart.found(
            Finding(
                "wrong-codebook-count",
                "wrong audio path",
                "codes_in",
                f"the codec's codebooks are not laid out as the model reads them: {what}",
                f"agreement with our encoder per codebook: {', '.join(f'{share:.0%}' for share in agreement)}",
                "encode with as many codebooks as the model reads, or cut [:, :n] after encoding; never reshape",
                LIKELY,
            )
        )
        return
    chart.found(
        Finding(
            "unexplained-encoder",
            "wrong audio path",
            "codes_in",
            "the user's codes are not what the codec makes of these samples",
            f"{agreement[0]:.0%} of the first codebook's codes agree with our encoder; codebooks that do: {good or 'none'}; "
            f"none of the known "
            "mistakes reproduces them",
            "compare the encoder layer by layer with `clearline compare --peers`",
            LIKELY,
        )
    )


def _period(ours: np.ndarray, seen: np.ndarray) -> int:
    """n if every n-th frame holds the codes that our encoder gives the frame n times earlier; 0 if none does."""
    for period in (2, 3, 4):
        length = min(seen.shape[1] // period, ours.shape[1])
        if length >= 5 and float((seen[:, : length * period : period] == ours[:, :length]).mean()) > 0.9:
            return period
    return 0
