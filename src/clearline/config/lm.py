"""Configuration of the language model: temporal transformer, depformer, streams and their delays."""

from dataclasses import dataclass

from clearline.config.transformer import TransformerConfig
from clearline.errors import ConfigError

ZERO_TOKEN = -1  # no input: embeds to an exact zero row
UNGENERATED = -2  # not generated yet; as a forced token: "sample this one"


@dataclass(frozen=True)
class DepformerConfig:
    """The depth transformer that writes the audio codebooks of one frame, one codebook a step."""

    transformer: TransformerConfig
    multi_linear: bool = False
    low_rank: int | None = None
    norm: str | None = None


@dataclass(frozen=True)
class LMConfig:
    """Streams, vocabularies and transformers of a Moshi-family language model.

    Streams of a row, in order: text, `dep_q` generated audio codebooks, then the user's. `delays[k]` is in frames.
    """

    transformer: TransformerConfig
    depformer: DepformerConfig | None
    n_q: int
    dep_q: int
    card: int
    text_card: int
    text_card_out: int
    delays: tuple[int, ...]
    norm_emb: bool = False
    bias_proj: bool = False
    text_padding: int = 3
    text_end_padding: int = 0
    extra_heads: int = 0
    extra_heads_dim: int = 6

    def __post_init__(self) -> None:
        if self.n_q < 1:
            raise ConfigError(f"n_q is {self.n_q}; a model reads at least one audio codebook")
        if not 0 <= self.dep_q <= self.n_q:
            raise ConfigError(f"dep_q is {self.dep_q}; it must lie in 0..n_q = {self.n_q}")
        if (self.depformer is None) != (self.dep_q == 0):
            raise ConfigError(f"dep_q is {self.dep_q}, so the model must {'not ' if self.dep_q == 0 else ''}have a depformer")
        if len(self.delays) != self.n_q + 1:
            raise ConfigError(f"delays has {len(self.delays)} entries; text and n_q = {self.n_q} codebooks need {self.n_q + 1}")
        if min(self.delays) < 0:
            raise ConfigError(f"delays must not be negative, got {list(self.delays)}")
        for name in ("card", "text_card", "text_card_out"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")

        if self.text_card_out > self.text_card + 1:
            raise ConfigError(
                f"text_card_out is {self.text_card_out}: the model could say text tokens that it cannot read, which end at "
                f"text_card = {self.text_card}"
            )

    @property
    def streams(self) -> int:
        """Tokens in a row: text plus every audio codebook."""
        return self.n_q + 1

    @property
    def user_streams(self) -> int:
        """Audio codebooks that come from the user."""
        return self.n_q - self.dep_q

    @property
    def max_delay(self) -> int:
        return max(self.delays)

    @property
    def initial_row(self) -> tuple[int, ...]:
        """The tokens fed before a stream has begun: text_card, then card on every codebook."""
        return (self.text_card, *([self.card] * self.n_q))
