"""The other implementations that can be run beside Clearline, and what has to be known about each."""

from dataclasses import dataclass

from clearline.config import PRESETS, GenerationConfig, Sampling


@dataclass(frozen=True)
class Peer:
    """One implementation. `packages` must all be there; `script` runs it, in `foreign/`; `install` is how to get it.

    `preset` has its token alignment (None: a codec without a language model); `note` says what it cannot do.
    `needs_codes`: a language model that is given Clearline's codes. `has_layers`: it can be asked for every layer's output.
    """

    name: str
    packages: tuple[str, ...]
    script: str
    install: str
    preset: str | None = None
    note: str = ""
    needs_codes: bool = False
    has_layers: bool = False

    @property
    def settings(self) -> GenerationConfig | None:
        """Settings under which Clearline does what this peer does here: its alignment, greedy, since nobody can repeat
        another's random numbers."""
        if self.preset is None:
            return None
        chosen = PRESETS[self.preset]
        return GenerationConfig(
            text=Sampling.greedy(), audio=Sampling.greedy(), user_offset=chosen.user_offset, first_frame=chosen.first_frame
        )


_ALL = (
    Peer(
        "moshi", ("moshi", "torch"), "run_moshi.py",
        "pip install torch && pip install --no-deps moshi==0.2.13 && pip install numpy einops safetensors sentencepiece "
        "huggingface_hub sphn sounddevice aiohttp",
        "kyutai-pytorch", "PyTorch, CPU, float32", has_layers=True,
    ),
    Peer(
        "moshi_mlx", ("moshi_mlx", "mlx"), "run_moshi_mlx.py", "pip install moshi_mlx==0.3.0 && pip install 'mlx[cpu]==0.26.5'",
        "kyutai-mlx-run", "the language model, MLX, float32, on Clearline's codes: its programs use rustymimi", True, True,
    ),
    Peer(
        "moshi_mlx-codec", ("moshi_mlx", "mlx"), "run_moshi_mlx_codec.py",
        "pip install moshi_mlx==0.3.0 && pip install 'mlx[cpu]==0.26.5'", None,
        "moshi_mlx's own Mimi, which its programs do not use",
    ),
    Peer("rustymimi", ("rustymimi",), "run_rustymimi.py", "pip install rustymimi", None, "the released codec's shape only"),
    Peer(
        "transformers", ("transformers", "torch"), "run_transformers.py", "pip install torch transformers", None,
        "a codec folder in transformers' naming only; whole-file, since its decoder does not stream",
    ),
)  # fmt: skip
PEERS = {peer.name: peer for peer in _ALL}
