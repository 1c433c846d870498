"""Clearline: run Moshi, Mimi and their siblings, and prove that what comes out is right.

>>> import clearline
>>> model = clearline.load("nano")
>>> result = model.run_file("hello.wav")        # doctest: +SKIP
>>> with model.session(seed=1) as session:      # doctest: +SKIP
...     frame = session.step(pcm1920)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clearline.app import Model, load, load_codec
    from clearline.config import PRESETS, GenerationConfig, Sampling, preset
    from clearline.errors import ClearlineError
    from clearline.generate import Batch, Codec, CodecStream, Frame, Generator, LMFrame, Persona, Result, Session

_HOME = {
    "clearline.app": ("Model", "load", "load_codec"),
    "clearline.config": ("PRESETS", "GenerationConfig", "Sampling", "preset"),
    "clearline.errors": ("ClearlineError",),
    "clearline.generate": ("Batch", "Codec", "CodecStream", "Frame", "Generator", "LMFrame", "Persona", "Result", "Session"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "PRESETS",
    "Batch",
    "ClearlineError",
    "Codec",
    "CodecStream",
    "Frame",
    "GenerationConfig",
    "Generator",
    "LMFrame",
    "Model",
    "Persona",
    "Result",
    "Sampling",
    "Session",
    "load",
    "load_codec",
    "preset",
]


def __getattr__(name: str) -> Any:
    # Imported at first use: `import clearline` alone stays under 0.15 s.
    if name in _MODULE_OF:
        from importlib import import_module

        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'clearline' has no attribute {name!r}")
