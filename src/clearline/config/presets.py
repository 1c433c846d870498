"""Named sets of generation settings: what each official program does by default.

Sources, read in kyutai-labs/moshi: PyTorch `server.py`, `run_inference.py` and `LMGen`; MLX `local.py`,
`local_web.py`, `run_inference.py` and `LmGen`; Rust `moshi-cli/src/gen.rs`, `moshi-backend/src/stream_both.rs`.
And in NVIDIA/personaplex: `lm.py`, `offline.py`.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from clearline.config.sampling import Sampling, plain_numbers, within
from clearline.errors import ConfigError

DEFAULT_SEED = 299792458

FirstFrame = Literal["once", "twice", "restart"]


@dataclass(frozen=True)
class GenerationConfig:
    """Sampling, seed and the quirks of one official program.

    `user_offset`: 0, the user's frame s is read at step s (PyTorch); 1, frame s-1 is (MLX, Rust).
    `first_frame`: the first user frame is stepped once (a bare `LMGen`), twice so that the model hears it
        (`run_inference.py`), or stepped once and the codec restarted after it, so that its left padding comes again
        where the model begins to hear (`server.py`).
    `acoustic_delay`: None takes the checkpoint's delays; a number replaces them, 0 for text and for the first codebook of
        each speaker and the number for the rest, as Rust's generator does whatever the weights were trained with.
    `pad_early_acoustic`: during the first max-delay steps, acoustic tokens are forced to padding in the depformer (Rust).
    `guidance`: classifier-free guidance of a conditioned model (Hibiki): logits are moved from those of the worst condition
        towards, and past, those of the best; 1 is the best condition alone.
    `early_text`: text is reported when it is sampled, max-delay frames before its audio (MLX, Rust).
    """

    text: Sampling = Sampling(temperature=0.7, top_k=25)
    audio: Sampling = Sampling(temperature=0.8, top_k=250)
    seed: int = DEFAULT_SEED
    user_offset: Literal[0, 1] = 0
    first_frame: FirstFrame = "twice"
    acoustic_delay: int | None = None
    pad_early_acoustic: bool = False
    early_text: bool = False
    guidance: float = 1.0

    def __post_init__(self) -> None:
        plain_numbers(self)
        for name, sampling in (("text", self.text), ("audio", self.audio)):
            if not isinstance(sampling, Sampling):
                raise ConfigError(f"{name} is {sampling!r}; it must be a Sampling, as Sampling(temperature=0.7, top_k=25)")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**64:
            raise ConfigError(f"seed is {self.seed!r}; it must be a whole number in 0..2^64-1")
        if self.user_offset not in (0, 1):
            raise ConfigError(f"user_offset is {self.user_offset!r}; known: 0, 1")
        if self.first_frame not in get_args(FirstFrame):
            raise ConfigError(f"first_frame is {self.first_frame!r}; known: {', '.join(get_args(FirstFrame))}")
        if self.acoustic_delay is not None and not 0 <= self.acoustic_delay <= 64:
            raise ConfigError(f"acoustic delay is {self.acoustic_delay}; it must lie in 0..64 frames")
        within("guidance", self.guidance, 0.0, 100.0)


_TOP_P = Sampling(temperature=0.8, top_p=0.95)
_TOP_K = Sampling(temperature=0.8, top_k=250)
_PYTORCH = GenerationConfig()
_MLX = GenerationConfig(text=_TOP_P, audio=_TOP_P, user_offset=1, first_frame="once", early_text=True)
_RUST = GenerationConfig(
    text=_TOP_K, audio=_TOP_K, user_offset=1, first_frame="once", early_text=True, acoustic_delay=2, pad_early_acoustic=True
)

# NVIDIA's LMGen writes the user's frame into the column that the model is about to sample, and reads it one step later.
PERSONAPLEX_ALIGNMENT: dict[str, Any] = {"user_offset": 1, "first_frame": "once"}

PRESETS: dict[str, GenerationConfig] = {
    "kyutai-pytorch": _PYTORCH,
    "kyutai-pytorch-run": replace(_PYTORCH, seed=4242),
    "kyutai-pytorch-server": replace(_PYTORCH, seed=42424242, first_frame="restart"),
    "kyutai-mlx-local": _MLX,
    "kyutai-mlx-run": replace(_MLX, text=Sampling(temperature=0.8, top_k=25), audio=_TOP_K),
    "kyutai-rust-cli": _RUST,
    "kyutai-rust-backend": _RUST,
    "nvidia-personaplex": replace(_PYTORCH, **PERSONAPLEX_ALIGNMENT),
    "greedy": replace(_PYTORCH, text=Sampling.greedy(), audio=Sampling.greedy()),
}


def preset(name: str) -> GenerationConfig:
    """The settings named `name`. Raises ConfigError with the known names when there is no such preset."""
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]
