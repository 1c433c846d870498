"""The confusion matrix of docs/faults.md: every fault, pairs of faults, healthy runs, and another program's codes and sound.

    python benchmarks/faults.py                      # everything, about 20 minutes of one core, writes docs/faults.md
    python benchmarks/faults.py --pairs 5 --healthy 10 --dry      # a look

With CLEARLINE_PEERS naming an environment with Kyutai's `moshi`, the foreign codes are its own; otherwise they are Clearline's,
handed over as a log, of which nothing else is known.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

import clearline
from clearline.app import code_version
from clearline.errors import ClearlineError
from clearline.lab.adapters import PEERS, find_peers
from clearline.lab.faults import FAULTS, rig
from clearline.lab.faults.foreign import ForeignCase, foreign_trial
from clearline.lab.faults.trial import Outcome, Plan, blind_trial, joined, summary, table
from clearline.lab.live import Live, run_peer_on
from clearline.trace import Trace

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "faults.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="*", type=Path, help="what the user says; by default the examples")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--healthy", type=int, default=200)
    parser.add_argument("--only", default="", help="names of faults, separated by commas")
    parser.add_argument("--no-foreign", action="store_true")
    parser.add_argument("--dry", action="store_true", help="print only, leave docs/faults.md alone")
    asked = parser.parse_args()
    paths = asked.recordings or sorted((ROOT / "examples").glob("*.wav"))
    begun, begun_cpu = time.time(), time.process_time()
    model = clearline.load(asked.model, threads=1)
    chosen = tuple(fault for fault in FAULTS if not asked.only or fault.name in asked.only.split(","))

    def told(number: int, of: int, what: str) -> None:
        print(f"\r{number + 1}/{of} {time.time() - begun:5.0f} s  {what[:60]:<60}", end="", file=sys.stderr, flush=True)

    outcome = blind_trial(model, joined(paths), Plan(chosen, tuple(range(1, asked.seeds + 1)), asked.pairs), told)
    # Health is asked of short runs: many of them, each with a tail just long enough for the reply.
    rig.TAIL = 25
    outcome.cases += blind_trial(model, joined(paths[-1:]), Plan(faults=(), healthy=asked.healthy), told).cases
    foreign, origin = ([], "") if asked.no_foreign else foreign_cases(model, asked.model, paths, told)
    print(file=sys.stderr)
    lines = [
        f"Clearline {code_version()}, model {asked.model}, {time.process_time() - begun_cpu:.0f} s of CPU time; recordings: "
        f"{', '.join(path.name for path in paths)}. Intervals are Wilson's, 95%.",
        "", "| | |", "|---|---|", *summary(outcome), "", *table(outcome), *wrong(outcome), *foreign_lines(foreign, origin),
    ]  # fmt: skip
    print("\n".join(lines))
    if not asked.dry:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{rest.partition(END)[2]}")
    sys.exit(0 if outcome.passed else 1)


def foreign_cases(model, name, paths, told) -> tuple[list[ForeignCase], str]:
    codes, text, origin = foreign_codes(model, name, paths)
    cases = []
    for case in foreign_trial(model, codes, text):
        cases.append(case)
        told(len(cases) - 1, 40, f"foreign: {case.description}, {case.given}")
    return cases, origin


def foreign_codes(model, name, paths) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Codes [K, T] of several replies, one after the other, of Kyutai's own program where it is installed."""
    if any(found.peer.name == "moshi" for found in find_peers()):
        try:
            traces = [run_peer_on(PEERS["moshi"], Live(path, name, frames=110)) for path in paths]
            codes = np.concatenate([trace.frames("codes_out").T for trace in traces], 1)
            return codes, None, "Kyutai's `moshi` (PyTorch), run on the recordings"
        except ClearlineError as error:
            print(f"moshi could not run: {error}", file=sys.stderr)
    results = [model.run_file(path) for path in paths]
    codes = np.concatenate([result.codes_out for result in results], 1)
    text = np.concatenate([result.text_tokens[: result.codes_out.shape[1]] for result in results])
    trace = Trace({"codes_out": codes.T})
    return trace.columns["codes_out"].T, text, "Clearline's, as a log would hold them"


def wrong(outcome: Outcome) -> list[str]:
    """Every case that was not named exactly, so that nobody has to guess."""
    bad = [c for c in outcome.cases if (c.truth and c.effect and not c.exact) or (not c.truth and c.named)]
    if not bad:
        return []
    lines = ["", "Not named exactly:", ""]
    lines += [f"- {' + '.join(c.described) or 'healthy'} (seed {c.seed}): {', '.join(c.named) or 'called well'}" for c in bad]
    return lines


def foreign_lines(cases: list[ForeignCase], origin: str) -> list[str]:
    if not cases:
        return []
    lines = ["", f"Another program's codes ({origin}) and sound, nothing else known:", ""]
    lines += ["| fault | from the codes | from codes and sound | from the sound |", "|---|---|---|---|"]
    for description in dict.fromkeys(case.description for case in cases):
        row = {case.given: case for case in cases if case.description == description}
        said = [
            "not in the codes" if given not in row else ", ".join(row[given].named) or row[given].kind.removeprefix("all is ")
            for given in ("codes", "codes and sound", "sound")
        ]
        lines.append(f"| {description} | {' | '.join(said)} |")
    return lines


if __name__ == "__main__":
    main()
