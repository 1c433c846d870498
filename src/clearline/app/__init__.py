"""The public API: load a model, run a recording through it, or hold a session frame by frame."""

from clearline.app.loading import load, load_codec, model_folder, nano_folder
from clearline.app.model import ALIGNMENT, Model, code_version, preset_name

__all__ = ["ALIGNMENT", "Model", "code_version", "load", "load_codec", "model_folder", "nano_folder", "preset_name"]
