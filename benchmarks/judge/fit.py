"""Makes the judge's calibration of measured recordings, and the picture and tables of docs/judge.md.

    python benchmarks/judge/fit.py measures*.jsonl

Logistic curves with a ridge penalty: one per witness over its measures, and one over the witnesses' log odds for every set of
witnesses that may be at hand. The packaged curves are fitted on all recordings. What is reported is held out twice: each
family of damage is judged by curves that saw neither that family nor any of the voices it is tried on.
"""

import itertools
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from curves_svg import panels

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "clearline" / "lab" / "judge"
MEASURES = {
    "garbled": {
        "sound": ("attack", "modulation", "bands_together", "voiced", "glide", "smooth", "contrast", "range"),
        "mos": ("mos",),
        "language": ("advantage", "fluency"),
        "text": ("z", "lead", "fit"),
        "codec": ("evidence", "share"),
    },
    "degraded": {"sound": ("smooth", "contrast", "range"), "mos": ("mos",), "language": ("advantage", "fluency")},
}
RIDGE, STRONGEST, UNDECIDED = 1.0, 5.0, (0.15, 0.85)
NEVER = 1e-9


def logistic(x: np.ndarray, y: np.ndarray, weight: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """Weights [features + 1], the last one the bias, of log odds for y in 0..1; Newton's method."""
    x = np.column_stack([x, np.ones(len(x))])
    w = np.zeros(x.shape[1])
    penalty = np.diag([ridge] * (x.shape[1] - 1) + [NEVER])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        gradient = x.T @ (weight * (p - y)) + penalty @ w
        hessian = (x * (weight * p * (1 - p) + 1e-6)[:, None]).T @ x + penalty
        step = np.linalg.solve(hessian, gradient)
        w -= step
        if np.abs(step).max() < 1e-8:
            break
    return w


def balanced(y: np.ndarray) -> np.ndarray:
    """Weights that make both truths equally common."""
    return np.where(y > 0, len(y) / (2 * max(1, y.sum())), len(y) / (2 * max(1, (1 - y).sum())))


class Fit:
    """Curves for one question on a set of rows."""

    def __init__(self, question: str, rows: list[dict]) -> None:
        self.question = question
        # What is misaligned is neither garbled nor understood with ease (see codec_conditions.py), but certainly not clear.
        left_out = "misaligned" if question == "garbled" else "garbled"
        self.rows = [row for row in rows if row["truth"] != left_out]
        self.curves = {name: self._curve(name, names) for name, names in MEASURES[question].items()}
        self.together = {}
        for count in range(1, len(self.curves) + 1):
            for chosen in itertools.combinations(sorted(self.curves), count):
                self.together["+".join(chosen)] = self._together(chosen)

    def _curve(self, name: str, names: tuple[str, ...]) -> dict:
        rows = [row for row in self.rows if name in row["witnesses"]]
        x = np.array([[row["witnesses"][name][m] for m in names] for row in rows])
        y = truth(rows, self.question)
        mean, scale = np.median(x, 0), np.maximum((np.percentile(x, 84, 0) - np.percentile(x, 16, 0)) / 2, 1e-6)
        w = logistic(np.clip((x - mean) / scale, -4, 4), y, balanced(y))
        return {"measures": names, "mean": list(mean), "scale": list(scale), "weights": list(w[:-1]), "bias": float(w[-1])}

    def odds(self, name: str, row: dict) -> float:
        c = self.curves[name]
        x = np.clip((np.array([row["witnesses"][name][m] for m in c["measures"]]) - c["mean"]) / np.array(c["scale"]), -4, 4)
        return float(np.clip(c["bias"] + x @ np.array(c["weights"]), -STRONGEST, STRONGEST))

    def _together(self, chosen: tuple[str, ...]) -> dict:
        rows = [row for row in self.rows if all(name in row["witnesses"] for name in chosen)]
        x, y = np.array([[self.odds(name, row) for name in chosen] for row in rows]), truth(rows, self.question)
        w = logistic(x, y, balanced(y))
        return {"weights": dict(zip(chosen, map(float, w), strict=False)), "bias": float(w[-1])}

    def probability(self, chosen: tuple[str, ...], row: dict) -> float:
        found = self.together["+".join(sorted(chosen))]
        total = found["bias"] + sum(found["weights"][name] * self.odds(name, row) for name in chosen)
        return float(1 / (1 + np.exp(-np.clip(total, -STRONGEST, STRONGEST))))


def truth(rows: list[dict], question: str) -> np.ndarray:
    names = (question,) if question == "garbled" else (question, "misaligned")
    return np.array([float(row["truth"] in names) for row in rows])


def verdict(garbled: Fit, degraded: Fit, chosen: tuple[str, ...], row: dict) -> str:
    p = garbled.probability(chosen, row)
    if p > UNDECIDED[1]:
        return "garbled"
    if p >= UNDECIDED[0]:
        return "undecided"
    others = tuple(name for name in chosen if name in degraded.curves)
    if defective(row) or (others and degraded.probability(others, row) > 0.5):
        return "degraded"
    wordless = tuple(name for name in chosen if name != "text")
    doubted = len(wordless) < len(chosen) and wordless and garbled.probability(wordless, row) >= UNDECIDED[0]
    return "degraded" if doubted else "clear"


def defective(row: dict) -> bool:
    from clearline.lab.judge.defects import CLICKS, CLIPPED, DOUBLED, GAPS, LOOPED, OFFSET

    d = row["defects"]
    return (
        d["clipped"] > CLIPPED
        or d["pattern"] > CLICKS
        or d["gaps"] > GAPS
        or d["looped"] >= LOOPED
        or d["offset"] > OFFSET
        or d.get("doubled", 0) >= DOUBLED
    )


def held_out(rows: list[dict]) -> list[tuple[dict, Fit, Fit]]:
    """Each row of the test voices, with curves that saw neither its family (but for intact sound) nor its voice."""
    out = []
    for family in sorted({row["family"] for row in rows}):
        train = [row for row in rows if row["split"] == "fit" and (row["family"] != family or row["truth"] == "clear")]
        fits = Fit("garbled", train), Fit("degraded", train)
        out += [(row, *fits) for row in rows if row["split"] == "test" and row["family"] == family]
    return out


def subsets(names: list[str]) -> list[tuple[str, ...]]:
    return [chosen for count in range(1, len(names) + 1) for chosen in itertools.combinations(sorted(names), count)]


def wrong(row: dict, said: str) -> bool:
    """Garbled sound called intelligible or the reverse. What is misaligned is only not clear."""
    if row["truth"] == "misaligned":
        return said == "clear"
    return said != "undecided" and (said == "garbled") != (row["truth"] == "garbled")


def rounded(value):
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float | np.floating) else value


def main() -> None:
    rows = [json.loads(line) for path in sys.argv[1:] for line in Path(path).read_text().splitlines()]
    rows = [row for row in rows if row["family"] != "left out"]
    print(len(rows), "recordings;", Counter(row["truth"] for row in rows), Counter(row["split"] for row in rows))
    tried = held_out(rows)
    rates: dict[str, dict[str, dict[str, int]]] = {}
    for chosen in subsets(list(MEASURES["garbled"])):
        counts: dict[str, dict[str, int]] = defaultdict(lambda: {"verdicts": 0, "wrong": 0})
        for row, garbled, degraded in tried:
            if all(name in row["witnesses"] for name in chosen):
                said = verdict(garbled, degraded, chosen, row)
                counts[said]["verdicts"] += 1
                counts[said]["wrong"] += int(wrong(row, said))
        rates["+".join(chosen)] = dict(counts)
    fits = {question: Fit(question, rows) for question in ("garbled", "degraded")}
    report = {
        "recordings": dict(Counter(row["truth"] for row in rows)) | {"held out": len(tried)},
        **{question: {"witnesses": fit.curves, "together": fit.together} for question, fit in fits.items()},
        "rates": rates,
    }
    (PACKAGE / "calibration.json").write_text(json.dumps(rounded(report), indent=1) + "\n")
    tables(rows, tried, rates)
    curves = {}
    for name in MEASURES["garbled"]:
        curves[name] = predicted(tried, (name,))
    curves["mos, language, sound"] = predicted(tried, ("language", "mos", "sound"))
    curves["the same and the text"] = predicted(tried, ("language", "mos", "sound", "text"))
    (ROOT / "docs" / "judge-calibration.svg").write_text(panels(curves))


def predicted(tried, chosen: tuple[str, ...]) -> list[tuple[float, bool]]:
    asked = [
        (row, garbled)
        for row, garbled, _ in tried
        if row["truth"] != "misaligned" and all(name in row["witnesses"] for name in chosen)
    ]
    return [(garbled.probability(chosen, row), row["truth"] == "garbled") for row, garbled in asked]


def tables(rows, tried, rates) -> None:
    """The tables of docs/judge.md, as Markdown on standard output."""
    sets = {
        "bare": ("language", "mos", "sound"), "with text": ("language", "mos", "sound", "text"),
        "no mos": ("language", "sound"), "no mos, text": ("language", "sound", "text"), "sound only": ("sound",),
    }  # fmt: skip
    for title, chosen in sets.items():
        table: dict[str, Counter] = defaultdict(Counter)
        by: dict[str, Counter] = defaultdict(Counter)
        for row, garbled, degraded in tried:
            said = verdict(garbled, degraded, chosen, row)
            table[row["truth"]][said] += 1
            by[f"{row['truth']} | {row['condition']}"][said] += 1
        print(f"\n{title} ({', '.join(chosen)})\n\n| truth | clear | degraded | undecided | garbled |\n|---|---|---|---|---|")
        for name, counts in [
            *((true, table[true]) for true in ("clear", "degraded", "misaligned", "garbled")),
            *sorted(by.items()),
        ]:
            print(f"| {name} | " + " | ".join(str(counts[said]) for said in ("clear", "degraded", "undecided", "garbled")) + " |")
    print("\nwith codec")
    for chosen in (("codec",), ("codec", "language", "mos", "sound"), ("codec", "language", "mos", "sound", "text")):
        print("+".join(chosen), rates["+".join(chosen)])
    clean = [row for row in rows if row["truth"] == "clear"]
    print("clear recordings with a defect by rule:", sum(map(defective, clean)), "of", len(clean))


if __name__ == "__main__":
    main()
