"""Configuration of the Mimi codec."""

from dataclasses import dataclass

from clearline.config.transformer import TransformerConfig
from clearline.errors import ConfigError


@dataclass(frozen=True)
class MimiConfig:
    """Shape of a Mimi codec; the defaults are the released one (24 kHz, 12.5 Hz, up to 32 codebooks of 2048).

    `ratios` are in decoder order, as Kyutai writes them.
    """

    sample_rate: int = 24_000
    frame_rate: float = 12.5
    dimension: int = 512
    n_filters: int = 64
    n_residual_layers: int = 1
    ratios: tuple[int, ...] = (8, 6, 5, 4)
    kernel_size: int = 7
    residual_kernel_size: int = 3
    last_kernel_size: int = 3
    dilation_base: int = 2
    compress: int = 2
    true_skip: bool = True
    elu_alpha: float = 1.0
    pad_mode: str = "constant"
    transformer: TransformerConfig | None = None
    n_q: int = 32
    n_q_semantic: int = 1
    bins: int = 2048
    codebook_dim: int = 256

    def __post_init__(self) -> None:
        if self.pad_mode not in ("constant", "replicate"):
            raise ConfigError(f"Mimi pad_mode {self.pad_mode!r} is not supported; known: constant, replicate")
        if self.sample_rate / self.frame_rate % self.hop:
            raise ConfigError(
                f"Mimi ratios {list(self.ratios)} (hop {self.hop}) do not divide {self.sample_rate} Hz into whole frames "
                f"at {self.frame_rate} Hz"
            )
        if not 1 <= self.n_q_semantic < self.n_q:
            raise ConfigError(f"Mimi needs more codebooks ({self.n_q}) than semantic ones ({self.n_q_semantic})")

    @property
    def hop(self) -> int:
        """Samples per encoder step, before the last downsampling."""
        hop = 1
        for ratio in self.ratios:
            hop *= ratio
        return hop

    @property
    def frame_size(self) -> int:
        """Samples per frame: 1920 at 24 kHz and 12.5 Hz."""
        return int(self.sample_rate / self.frame_rate)

    @property
    def resample_stride(self) -> int:
        """Encoder steps per frame: 2 in the released codec (25 Hz to 12.5 Hz)."""
        return self.frame_size // self.hop
