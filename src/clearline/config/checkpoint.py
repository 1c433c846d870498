"""What a checkpoint folder's configuration says besides the network: its files, its type, its defaults, its extras."""

from dataclasses import dataclass, replace

from clearline.config.lm import LMConfig
from clearline.config.presets import GenerationConfig

# Hibiki is conditioned on the quality of its training data's alignment: generated at the best, guided away from the worst.
CONDITIONER, BEST, WORST = "description", "very_good", "very_bad"


@dataclass(frozen=True)
class LoraConfig:
    """A low-rank update to be added to every linear: W + scaling * B A, from the file `name`."""

    name: str
    rank: int = 128
    scaling: float = 2.0


@dataclass(frozen=True)
class LutConditioner:
    """A table of `n_bins` + 1 rows of `dim` and a projection, added to every step's input: Hibiki's `description`."""

    name: str
    n_bins: int
    dim: int
    values: tuple[str, ...]


@dataclass(frozen=True)
class CheckpointConfig:
    """Everything a checkpoint folder's config.json says: the model, its files, and its defaults.

    `cannot_run` lists, in words, what this version does not support; such a model can be inspected and audited. `file_lm` is
    the network in the file where that has more than `lm`, which is what is run.
    """

    lm: LMConfig
    model_type: str = "moshi"
    moshi_name: str = "model.safetensors"
    mimi_name: str = "tokenizer-e351c8d8-checkpoint125.safetensors"
    mimi_config_name: str | None = None
    tokenizer_name: str = "tokenizer_spm_32k_3.model"
    generation: GenerationConfig = GenerationConfig()
    stt_prefix_seconds: float = 0.0
    stt_delay_seconds: float = 0.0
    lora: LoraConfig | None = None
    conditioners: tuple[str, ...] = ()
    conditioner: LutConditioner | None = None
    cannot_run: tuple[str, ...] = ()
    file_lm: LMConfig | None = None

    @property
    def stored_lm(self) -> LMConfig:
        """The network as its file has it, which may have depformer steps that need not be run; see `own_codebooks`."""
        return self.file_lm or self.lm


def own_codebooks(lm: LMConfig) -> LMConfig:
    """A PersonaPlex without the depformer steps that predict the user's half of the codebooks.

    They come after the model's own, and what they predict is replaced by what the user says, so nothing depends on them.
    """
    own = lm.n_q // 2
    if lm.depformer is None or lm.dep_q <= own:
        return lm
    inner = lm.depformer.transformer
    schedule = inner.schedule[:own] if inner.schedule else None
    sets = (max(schedule) + 1 if schedule else own) if inner.steps else 1
    inner = replace(
        inner,
        steps=own if inner.steps else 0,
        schedule=schedule,
        ffn_hidden=inner.ffn_hidden[:sets],
        context=min(inner.context, own),
    )
    return replace(lm, dep_q=own, depformer=replace(lm.depformer, transformer=inner))
