"""The official programs: what each does to a model configuration, and what it adds that no file says.

Read in kyutai-labs/moshi (e6a55d2): PyTorch `server.py` and `run_inference.py`; MLX `local.py`, `local_web.py`,
`run_inference.py`; Rust `moshi-cli/src/gen.rs`, `moshi-backend/src/{standalone,stream_both}.rs`; `mimi-pyo3/src/lib.rs`.
And in NVIDIA/personaplex (3428dfd): `loaders.py`, `lm.py`, `offline.py`, `server.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from clearline.config.compact import acoustic_delays
from clearline.config.lm import DepformerConfig, LMConfig
from clearline.config.named import named_model
from clearline.config.presets import PRESETS, GenerationConfig
from clearline.config.rust import RUST_ACOUSTIC_DELAY
from clearline.config.transformer import TransformerConfig
from clearline.errors import ConfigError


@dataclass(frozen=True)
class Program:
    """One program. `own_model` names the model it always uses, whatever lies in the folder; `default_model` the one it
    uses when none is given. `as_used` turns a configuration file into what the program makes of it.

    `mimi` says how many of the codec's codebooks it loads and what it does with them; `seed` None: drawn anew each time.
    `max_frames` None: no end. `window` is how many keys a query of the temporal transformer sees beyond the context.
    `dep_q`: codebooks its depformer predicts, where they are more than it speaks.
    """

    name: str
    preset: str
    own_model: str | None = None
    default_model: str | None = None
    as_used: Callable[[LMConfig], LMConfig] = lambda cfg: cfg
    mimi_codebooks: Callable[[LMConfig], int] = lambda cfg: max(cfg.dep_q, cfg.user_streams)
    mimi_slicing: str = "the first {user} after encoding"
    seed: int | None = 0
    warm_up: str = "none"
    max_frames: int | None = None
    window: int = 0
    numbers: str = "bfloat16"
    uses_checkpoint_sampling: bool = False
    dep_q: int | None = None

    @property
    def generation(self) -> GenerationConfig:
        return PRESETS[self.preset]


def _mlx(cfg: LMConfig) -> LMConfig:
    """moshi_mlx's from_config_dict: the gated size is 11/4 dim whatever hidden_scale says, and several keys are not read."""
    main = cfg.transformer
    transformer = replace(
        main, ffn_hidden=(11 * main.dim // 4,), gating="silu", norm="rms_norm_f32", num_kv_heads=main.num_heads,
        position="rope" if main.position == "rope" else "none",
    )  # fmt: skip
    dep = cfg.depformer
    if dep is not None:
        inner: TransformerConfig = replace(dep.transformer, gating="silu", norm="rms_norm_f32", position="none")
        dep = DepformerConfig(inner, True, dep.low_rank)
    return replace(
        cfg, transformer=transformer, depformer=dep, text_card_out=cfg.text_card, norm_emb=False, bias_proj=False, text_padding=3,
        text_end_padding=0,
    )  # fmt: skip


def _rust(cfg: LMConfig) -> LMConfig:
    """moshi-cli: whatever the model's delays are, its generator has 2 for every acoustic codebook."""
    return replace(cfg, delays=acoustic_delays((cfg.dep_q, cfg.user_streams), RUST_ACOUSTIC_DELAY if cfg.dep_q else 0))


_WARM_UP_123 = "one step sampled with seed 123, thrown away"
_ALL = (
    Program("clearline", "kyutai-pytorch", numbers="float32", uses_checkpoint_sampling=True, seed=299792458),
    Program(
        "pytorch:server", "kyutai-pytorch-server", default_model="pytorch:moshi_7b_202409", seed=42424242,
        warm_up="4 frames of silence", uses_checkpoint_sampling=True,
    ),
    Program(
        "pytorch:run_inference", "kyutai-pytorch-run", default_model="pytorch:moshi_7b_202409", seed=4242,
        uses_checkpoint_sampling=True,
    ),
    Program(
        "mlx:local", "kyutai-mlx-local", own_model="mlx:config_v0_1", mimi_codebooks=lambda cfg: 8, seed=299792458,
        mimi_slicing="the first 8 after encoding", warm_up="one step and 4 frames of silence", max_frames=4005, window=1,
    ),
    Program(
        "mlx:local_web", "kyutai-mlx-local", default_model="mlx:config_v0_1", as_used=_mlx, mimi_codebooks=lambda cfg: cfg.dep_q,
        seed=299792458, warm_up="one step and some frames of silence", max_frames=4005, window=1,
    ),
    Program(
        "mlx:run_inference", "kyutai-mlx-run", as_used=_mlx, seed=299792458, warm_up="one step, thrown away", window=1,
    ),
    Program(
        "rust:moshi-cli", "kyutai-rust-cli", as_used=_rust, mimi_codebooks=lambda cfg: 8, mimi_slicing="none: 8 are loaded",
        seed=299792458, max_frames=2500, numbers="bfloat16 on CUDA, else float32",
    ),
    Program(
        "rust:moshi-backend", "kyutai-rust-backend", own_model="rust:v0_1_streaming(8)", mimi_codebooks=lambda cfg: 8,
        mimi_slicing="none: 8 are loaded", seed=None, warm_up=_WARM_UP_123, max_frames=4500,
        numbers="bfloat16 on CUDA, else float32",
    ),
    # Both of NVIDIA's programs; their attention loses the oldest key of a full ring.
    Program(
        "nvidia:personaplex", "nvidia-personaplex", own_model="nvidia:personaplex_7b_v1", mimi_codebooks=lambda cfg: 8,
        mimi_slicing="none: 8 are loaded", seed=None, warm_up="4 frames of silence", window=-1, dep_q=16,
    ),
)  # fmt: skip
PROGRAMS = {program.name: program for program in _ALL}
_ALIASES = {"rust:moshi-cli gen": "rust:moshi-cli", "rust:gen": "rust:moshi-cli", "rust:backend": "rust:moshi-backend"}


def program(name: str) -> Program | None:
    """The program called `name`, or None."""
    return PROGRAMS.get(_ALIASES.get(name, name))


def model_used(program: Program, given: LMConfig | None) -> tuple[LMConfig, str]:
    """The model a program runs when it is `given` one (None: nothing), and a note where that is not what it was given."""
    name = program.own_model or (program.default_model if given is None else None)
    if name is None:
        if given is None:
            raise ConfigError(f"{program.name} has no model of its own; name one, as in MODEL@{program.name}")
        return program.as_used(given), ""
    found = named_model(name)
    assert found is not None
    if given is None:
        return found[1], f"its own {found[0]}"
    return found[1], f"its own {found[0]}, whatever the folder says"
