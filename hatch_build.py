"""Compiles Clearline's own operations for ONNX Runtime (src/clearline/backends/native) when a wheel or an editable install is made.

Without a C compiler on the machine, one comes from PyPI (the package ziglang) for the time of the build. Where compiling
fails all the same the package is built without them: ONNX Runtime's own operations are used then, and every report says so.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("src/clearline/backends/native")
LIBRARY = NATIVE / "clearline_operations.so"
FLAGS = ["-O3", "-std=gnu11", "-Wno-psabi", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fvisibility=hidden"]
if sys.platform != "win32":
    FLAGS += ["-fPIC", "-pthread"]
# kernels.c is compiled once for each instruction set; operations.c picks one when the program runs.
AVX2 = ["-mavx2", "-mfma", "-mbmi2"]
X86 = {"avx512": [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vnni"))], "avx2": AVX2}
# Without a target it compiles for the processor it runs on.
ZIG = [sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline"]


def compiler() -> list[str] | None:
    """The C compiler of this machine."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    return next(([path] for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


def compile_library(root: Path, command: list[str]) -> None:
    """Make LIBRARY below `root`. Raises CalledProcessError or OSError."""
    native = root / NATIVE
    sets = {"plain": [], **(X86 if platform.machine().lower() in ("x86_64", "amd64") else {})}
    with tempfile.TemporaryDirectory() as folder:
        objects = [str(Path(folder) / f"{name}.o") for name in sets]
        for target, flags in zip(objects, sets.values(), strict=True):
            subprocess.run([*command, *FLAGS, *flags, "-c", str(native / "kernels.c"), "-o", target], check=True)
        made = Path(folder) / LIBRARY.name
        math = [] if sys.platform == "win32" else ["-lm"]
        subprocess.run([*command, *FLAGS, "-shared", str(native / "operations.c"), *objects, "-o", str(made), *math], check=True)
        # In one step: a program that runs meanwhile keeps the old one.
        shutil.copy(made, root / f"{LIBRARY}.new")
        (root / f"{LIBRARY}.new").replace(root / LIBRARY)


class NativeBuildHook(BuildHookInterface):
    """Hatchling's hook; see the module."""

    def dependencies(self) -> list[str]:
        return [] if compiler() else ["ziglang"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        try:
            compile_library(root, compiler() or ZIG)
        except (OSError, subprocess.CalledProcessError) as error:
            (root / LIBRARY).unlink(missing_ok=True)
            self.app.display_warning(f"Clearline's own operations were not compiled, ONNX Runtime's are used instead: {error}")
            return
        build_data["artifacts"].append(str(LIBRARY))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
