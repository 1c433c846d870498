"""Alignment: which token of which stream was fed and put together at which step, measured from the tokens themselves."""

import numpy as np

from clearline.config import LMConfig
from clearline.lab.doctor.evidence import Evidence
from clearline.lab.doctor.finding import CERTAIN, LIKELY, Chart, Finding
from clearline.lab.doctor.links import Link, link

DELAY_REMEDY = (
    "take the delays from the checkpoint's config.json (`delays`); for the released Moshi the acoustic delay is 1, 2 is Hibiki's"
)


def look_at_alignment(evidence: Evidence, chart: Chart) -> None:
    """Rows against codes in and tokens sampled, codes out against tokens sampled, all against the checkpoint's delays."""
    model = evidence.model
    if model is None:
        return
    cfg = model.config
    row, codes_in = evidence.column("row"), evidence.column("codes_in")
    tokens, text, out = evidence.column("audio_tokens"), evidence.column("text_token"), evidence.column("codes_out")
    if row is not None and row.shape[1:] != (cfg.streams,):
        chart.found(
            Finding(
                "config-of-another-model",
                "wrong configuration",
                "row",
                "the rows are not this model's",
                f"a row has {row.shape[1]} streams, the weights read {cfg.streams}",
                "use the configuration beside the weights",
                CERTAIN,
            )
        )
        return
    # What is heard first: the delay undone before decoding is the audible half of a wrong delay.
    if tokens is not None and out is not None and cfg.dep_q > 1:
        _read(chart, cfg, tokens, out)
    if row is not None and codes_in is not None and codes_in.shape[1] >= cfg.user_streams > 0:
        _user(chart, cfg, row, codes_in)
    if row is not None and tokens is not None and text is not None:
        _own(chart, cfg, row, tokens, text)


def _user(chart: Chart, cfg: LMConfig, row: np.ndarray, codes: np.ndarray) -> None:
    first = 1 + cfg.dep_q
    wanted = cfg.delays[first:]
    links = _user_links(cfg, row[:, first:], codes, wanted)
    if not links[0].believed:
        chart.found(_unexplained("row", "the user's streams of the row are not the user's codes", links))
        return
    _offset(chart, "row", "user's codes", links)
    lags = [found.lag - links[0].lag for found in links if found.believed]
    expected = [delay - wanted[0] for delay, found in zip(wanted, links, strict=True) if found.believed]
    if lags != expected:
        _delay(chart, "row", "the user's acoustic codes are fed {} late", "the model hears other codes", lags, expected)
    else:
        chart.passed("row", f"the user's acoustic codes arrive {max(lags)} after the semantic ones, as the checkpoint's delays say")
    if links[0].lag - wanted[0] not in (0, 1):
        chart.found(
            Finding(
                "user-codes-shifted",
                "wrong tokens",
                "row",
                f"the user is heard {links[0].lag - wanted[0]} frames late",
                f"the row's semantic code is the user's of {links[0].lag} frames before in {links[0].share:.0%} of the steps",
                "feed the user's frame s at step s",
                CERTAIN,
            )
        )
    elif links[0].lag - wanted[0] == 1:
        chart.found(
            Finding(
                "user-heard-late",
                "note",
                "row",
                "the user is heard one frame (80 ms) late, as MLX and Rust do it",
                f"lag {links[0].lag} in {links[0].share:.0%} of the steps",
                "harmless; PyTorch has no such lag",
                CERTAIN,
            )
        )


def _user_links(cfg: LMConfig, row: np.ndarray, codes: np.ndarray, wanted: tuple[int, ...]) -> list[Link]:
    """The user's streams, under the offset (PyTorch's 0, or MLX's and Rust's 1) that agrees best with the delays wanted: the
    semantic codes alone do not tell it where they stand still."""
    tried = []
    for offset in (0, 1):
        links = [link(row[:, 0], codes[:, 0], cfg.card, wanted[0] + offset)]
        relative = [links[0].lag + delay - wanted[0] for delay in wanted]
        links += [link(row[:, k], codes[:, k], cfg.card, relative[k]) for k in range(1, cfg.user_streams)]
        apart = sum(abs(found.lag - lag) for found, lag in zip(links, relative, strict=True) if found.believed)
        tried.append((apart, abs(links[0].lag - wanted[0]), links))
    return min(tried, key=lambda trial: trial[:2])[2]


def _own(chart: Chart, cfg: LMConfig, row: np.ndarray, tokens: np.ndarray, text: np.ndarray) -> None:
    said = link(row[:, 0], text, cfg.text_card, 1)
    links = [link(row[:, 1 + k], tokens[:, k], cfg.card, 1) for k in range(cfg.dep_q)]
    if said.believed and said.offset:
        chart.found(
            Finding(
                "text-vocabulary-offset",
                "wrong tokens",
                "row",
                f"the text token fed back is {said.offset:+d} of the one sampled",
                f"in {said.share:.0%} of the steps",
                "feed the sampled id back unchanged",
                CERTAIN,
            )
        )
    elif not said.believed and len(np.unique(text)) > 1:
        chart.found(_unexplained("row", "the text fed back is not the text that was sampled", [said]))
    _offset(chart, "row", "model's own audio tokens", links)
    if not any(found.believed for found in links):
        chart.found(_unexplained("row", "the audio tokens fed back are not those sampled", links))
    elif any(found.believed and found.lag != 1 for found in links):
        lags = [found.lag for found in links]
        chart.found(
            Finding(
                "own-tokens-shifted",
                "wrong tokens",
                "row",
                "the model's own tokens are not fed back in the next step",
                f"lags per codebook: {lags}; every one should be 1",
                "write what is sampled at step t into the row of step t + 1",
                CERTAIN,
            )
        )
    else:
        chart.passed("row", "text and audio tokens are fed back one step after they are sampled")


def _read(chart: Chart, cfg: LMConfig, tokens: np.ndarray, out: np.ndarray) -> None:
    """The undoing of the delays: the acoustic delay that was taken back is the semantic codebook's lag less the acoustic one's."""
    delays = cfg.delays[1:]
    links = [link(out[:, 0], tokens[:, 0], cfg.card, cfg.max_delay - delays[0])]
    links += [
        link(out[:, k], tokens[:, k], cfg.card, links[0].lag + delays[0] - delays[k])
        for k in range(1, min(cfg.dep_q, out.shape[1]))
    ]
    if not links[0].believed or not any(found.believed for found in links[1:]):
        order = _permutation(tokens, out, cfg.card)
        if order:
            chart.found(
                Finding(
                    "codebooks-permuted",
                    "wrong tokens",
                    "codes_out",
                    "the codebooks go to the decoder in another order",
                    f"codebook k of the frame decoded is the sampled one number {order}",
                    "keep the order of the depformer's steps",
                    CERTAIN,
                )
            )
        else:
            chart.found(_unexplained("codes_out", "the codes that are decoded are not the tokens that were sampled", links))
        return
    _offset(chart, "codes_out", "codes sent to the decoder", links)
    undone = [links[0].lag - found.lag for found in links if found.believed]
    wanted = [delay - delays[0] for delay, found in zip(delays, links, strict=False) if found.believed]
    if undone != wanted:
        _delay(
            chart,
            "codes_out",
            "the acoustic delay undone before decoding is {}",
            "every frame is decoded from codes that do not belong together",
            undone,
            wanted,
        )
    else:
        chart.passed("codes_out", f"the delay undone before decoding is {max(undone)}, the checkpoint's")


def _permutation(tokens: np.ndarray, out: np.ndarray, initial: int) -> list[int]:
    order = []
    for k in range(out.shape[1]):
        shares = [link(out[:, k], tokens[:, j], initial) for j in range(tokens.shape[1])]
        best = int(np.argmax([found.share for found in shares]))
        if not shares[best].believed:
            return []
        order.append(best)
    return order if order != sorted(order) else []


def _offset(chart: Chart, boundary: str, whose: str, links: list[Link]) -> None:
    moved = [k for k, found in enumerate(links) if found.believed and found.offset]
    if moved:
        by = links[moved[0]].offset
        chart.found(
            Finding(
                "audio-vocabulary-offset",
                "wrong tokens",
                boundary,
                f"the {whose} are {by:+d} of what they should be",
                f"in codebooks {moved}, in {min(links[k].share for k in moved):.0%} of the steps at least",
                "audio tokens are 0..card-1 and the initial token is card: no offset anywhere",
                CERTAIN,
            )
        )


def _delay(chart: Chart, boundary: str, what: str, then: str, found: list[int], wanted: list[int]) -> None:
    used, right = sorted(set(found[1:])), sorted(set(wanted[1:]))
    chart.found(
        Finding(
            "acoustic-delay",
            "wrong tokens",
            boundary,
            f"{what.format(_list(used) + ' frames')}, but the weights were trained with {_list(right)}: {then}, while the text "
            "stays coherent",
            f"measured from the tokens, per codebook: {found}; the checkpoint's: {wanted}",
            DELAY_REMEDY,
            CERTAIN,
        )
    )


def _list(values: list[int]) -> str:
    return " or ".join(map(str, values)) or "no"


def _unexplained(boundary: str, what: str, links: list[Link]) -> Finding:
    shares = ", ".join(f"{found.share:.0%} at {found.lag:+d}" for found in links)
    return Finding(
        "unexplained-alignment",
        "wrong tokens",
        boundary,
        what,
        f"best agreement at any lag, per stream: {shares}",
        "print the row of three steps in a row and follow one token through them",
        LIKELY,
    )
