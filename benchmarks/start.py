"""From nothing to the first sample with nano, memory, import time, and what an open session costs while nobody speaks.

    python benchmarks/start.py [--repeats 5] [--idle 20]

Each measurement is a fresh Python process; the first of each kind is thrown away (it warms the disk cache).
"""

import argparse
import json
import subprocess
import sys

import numpy as np
from timing import machine

IMPORT = "import time; t = time.perf_counter(); import clearline; print(time.perf_counter() - t)"
FIRST = """
import time; t = time.perf_counter()
import json, resource, numpy as np, clearline
model = clearline.load("nano")
with model.session() as session:
    while session.step(np.zeros(1920, np.float32)).pcm is None: pass
    first = time.perf_counter() - t
    for _ in range(50): session.step(np.zeros(1920, np.float32))
    cpu, idle = time.process_time(), {idle}
    time.sleep(idle)
    busy = (time.process_time() - cpu) / idle
print(json.dumps([first, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, busy]))
"""


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--idle", type=float, default=20, help="seconds an open session is left alone")
    args = parser.parse_args()
    imports = [float(python(IMPORT)) for _ in range(args.repeats + 1)][1:]
    starts = np.array([json.loads(python(FIRST.replace("{idle}", "0.5"))) for _ in range(args.repeats + 1)][1:])
    idle = json.loads(python(FIRST.replace("{idle}", str(args.idle))))[2]
    print(machine())
    print("\n| | median | worst |\n|---|---|---|")
    print(f"| import clearline | {np.median(imports) * 1e3:.0f} ms | {max(imports) * 1e3:.0f} ms |")
    print(f"| nano, cold start to the first sample | {np.median(starts[:, 0]):.2f} s | {starts[:, 0].max():.2f} s |")
    print(f"| memory of that process, at its most | {np.median(starts[:, 1]):.0f} MB | {starts[:, 1].max():.0f} MB |")
    print(f"| an open session that nobody steps, over {args.idle:g} s | {idle:.2%} of a core | |")


if __name__ == "__main__":
    main()
