"""Comparing configurations as implementations use them: every parameter that bears on the sound, and how much it matters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clearline.config.lm import LMConfig
from clearline.config.programs import Program, model_used
from clearline.config.rust import BackendFiles
from clearline.config.sampling import Sampling
from clearline.config.transformer import NORM_EPS, TransformerConfig
from clearline.errors import ConfigError

Severity = Literal["another model", "garbles audio", "changes results", "unknown", "harmless", "same"]
SEVERITIES: tuple[Severity, ...] = ("another model", "garbles audio", "changes results", "unknown", "harmless", "same")
NOT_STORED = "not stored in any file"


@dataclass(frozen=True)
class Setup:
    """One column of an audit: a model as a program uses it, `values` by parameter key; a missing key is unknown."""

    name: str
    values: dict[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parameter:
    """A row: what a difference in it means, and why."""

    key: str
    label: str
    severity: Severity | Callable[[Sequence[Any]], Severity]
    why: str


@dataclass(frozen=True)
class Finding:
    """One row of a finished audit; `values` in the order of the setups."""

    parameter: str
    values: tuple[Any, ...]
    severity: Severity
    why: str


_SHAPE = "it shows in the shapes of the tensors: the weights of one do not load into the other"
_HEADS = "tensors have the same shapes, but are cut into heads wrongly"
_DRAWN = "other tokens are drawn"
_TOP = "other tokens are drawn; with neither top-k nor top-p, unlikely ones too"
_TRAINED = "the weights were trained with one value; another computes something else from the first frame on"


def _codebooks(values: Sequence[Any]) -> Severity:
    return "harmless"


PARAMETERS: tuple[Parameter, ...] = (
    Parameter("acoustic_delay", "acoustic delay (frames)", "garbles audio",
        "the weights were trained with one delay between the semantic and the acoustic codebooks; with another, every frame is "
        "decoded from codes that do not belong together, while the text stays coherent"),
    Parameter("delays", "delays of all streams", "garbles audio", "streams are read and written at the wrong frames"),
    Parameter("dim", "model width (d_model)", "another model", _SHAPE),
    Parameter("layers", "layers", "another model", _SHAPE),
    Parameter("ffn", "feed-forward hidden size", "another model", _SHAPE),
    Parameter("kv_heads", "key/value heads", "another model", _SHAPE),
    Parameter("text_in", "text vocabulary in", "another model", _SHAPE),
    Parameter("text_out", "text vocabulary out", "another model", _SHAPE),
    Parameter("audio_vocabulary", "audio vocabulary", "another model", _SHAPE),
    Parameter("n_q", "audio codebooks, all", "another model", _SHAPE),
    Parameter("dep_q", "audio codebooks generated", "another model", _SHAPE),
    Parameter("user", "audio codebooks of the user", "another model", _SHAPE),
    Parameter("dep_dim", "depformer width", "another model", _SHAPE),
    Parameter("dep_layers", "depformer layers", "another model", _SHAPE),
    Parameter("dep_ffn", "depformer feed-forward hidden size", "another model", _SHAPE),
    Parameter("dep_schedule", "depformer weights of each step", "another model", _SHAPE),
    Parameter("dep_low_rank", "depformer low-rank embeddings", "another model", _SHAPE),
    Parameter("dep_norm", "depformer norms before the heads", "another model", _SHAPE),
    Parameter("conditioners", "conditioners", "another model", _SHAPE),
    Parameter("extra_heads", "extra heads", "another model", _SHAPE),
    Parameter("heads", "attention heads", "garbles audio", _HEADS),
    Parameter("dep_heads", "depformer attention heads", "garbles audio", _HEADS),
    Parameter("position", "positions", "garbles audio", _TRAINED),
    Parameter("max_period", "RoPE period", "garbles audio", _TRAINED),
    Parameter("dep_position", "depformer positions", "garbles audio", _TRAINED),
    Parameter("norm", "norm and its epsilon", "garbles audio", _TRAINED),
    Parameter("gating", "feed-forward activation", "garbles audio", _TRAINED),
    Parameter("text_initial", "first text token", "changes results", "the first row is not the one it was trained to begin with"),
    Parameter("text_padding", "text padding tokens", "changes results", "padding is printed as words, or words are hidden"),
    Parameter("codec", "codec frame and rate", "garbles audio", "codes stand for another stretch of sound"),
    Parameter("mimi_codebooks", "Mimi codebooks loaded", _codebooks,
        "the codes of k codebooks are the first k of more: loading 32 and slicing gives what loading 8 gives"),
    Parameter("mimi_slicing", "user codebooks fed to the model", "harmless",
        "cut before or after encoding, the same codes arrive, as long as as many arrive as the model expects"),
    Parameter("window", "keys a query sees", "changes results", "no difference until that many frames have passed"),
    Parameter("user_offset", "user's frame read at step s", "changes results",
        "the model hears the user 80 ms later; MLX and Rust do so, PyTorch, with which the model was trained, does not"),
    Parameter("first_frame", "first user frame", "changes results", "the model begins to hear one frame apart"),
    Parameter("text_temperature", "temperature (text)", "changes results", _DRAWN),
    Parameter("text_top_k", "top-k (text)", "changes results", _DRAWN),
    Parameter("text_top_p", "top-p (text)", "changes results", _DRAWN),
    Parameter("audio_temperature", "temperature (audio)", "changes results", _DRAWN),
    Parameter("audio_top_k", "top-k (audio)", "changes results", _TOP),
    Parameter("audio_top_p", "top-p (audio)", "changes results", _TOP),
    Parameter("repetition_penalty", "repetition penalty (text)", "changes results", _DRAWN),
    Parameter("padding_bonus", "padding bonus (text)", "changes results", "more or less silence"),
    Parameter("seed", "random seed", "changes results", "another sample of the same distribution: never a cause of garbling"),
    Parameter("numbers", "number format", "changes results", "rounding; a different choice where two tokens are nearly as likely"),
    Parameter("quantisation", "weights as stored", "changes results", "rounding of the weights"),
    Parameter("max_frames", "longest session (frames)", "changes results", "the program stops there"),
    Parameter("cached", "positions its cache holds", "changes results", "past that many frames MLX reads wrong slots"),
    Parameter("early_text", "text is shown", "harmless", "the same text, max-delay frames earlier or later"),
    Parameter("early_acoustic", "first frames' acoustic tokens", "harmless", "they are never heard nor read back"),
    Parameter("warm_up", "warm-up", "harmless", "its state is thrown away; with a shared generator it shifts the noise"),
)  # fmt: skip


def setup(
    name: str, program: Program, given: LMConfig | None, *, conditioners: Sequence[str] = (), backend: BackendFiles | None = None,
    text: Sampling | None = None, audio: Sampling | None = None, quantisation: str | None = None, dep_q: int | None = None,
) -> Setup:  # fmt: skip
    """What `program` does with the model it is given (None: its own). `text` and `audio`: sampling the checkpoint asks for.

    `dep_q`: codebooks that the stored depformer predicts, where they are more than are spoken.
    """
    cfg, note = model_used(program, given)
    generation, notes = program.generation, [note] if note else []
    delay = generation.acoustic_delay
    if backend is not None and backend.acoustic_delay is not None:
        delay = backend.acoustic_delay
        notes.append(f"acoustic_delay {delay} from its lm_config")
    delays = cfg.delays
    if delay is not None:
        delays = (0, *(0 if k in (0, cfg.dep_q) else delay for k in range(cfg.n_q)))
    text = text if text is not None and program.uses_checkpoint_sampling else generation.text
    audio = audio if audio is not None and program.uses_checkpoint_sampling else generation.audio
    codebooks = backend.mimi_num_codebooks if backend is not None else program.mimi_codebooks(cfg)
    values: dict[str, Any] = _model_values(cfg) | {
        "conditioners": ", ".join(conditioners) or "none",
        "delays": list(delays),
        "acoustic_delay": _acoustic(cfg, delays),
        "codec": "24 kHz, 12.5 Hz",
        "mimi_codebooks": codebooks,
        "mimi_slicing": program.mimi_slicing.format(user=cfg.user_streams),
        "window": cfg.transformer.context + program.window,
        "cached": 4096 if program.name.startswith("mlx:") else "as many as the window",
        "user_offset": f"s - {generation.user_offset}" if generation.user_offset else "s",
        "first_frame": {"once": "stepped once", "twice": "stepped twice", "restart": "stepped once, codec restarts"}[
            generation.first_frame
        ],
        "early_text": "when sampled" if generation.early_text else "with its audio",
        "early_acoustic": "forced to padding" if generation.pad_early_acoustic else "sampled",
        "seed": "drawn anew for each session" if program.seed is None else program.seed,
        "warm_up": program.warm_up,
        "max_frames": "unlimited" if program.max_frames is None else program.max_frames,
        "numbers": program.numbers,
        "quantisation": quantisation or NOT_STORED,
    }
    for stream, sampling in (("text", text), ("audio", audio)):
        values |= {
            f"{stream}_temperature": sampling.temperature,
            f"{stream}_top_k": sampling.top_k or "none",
            f"{stream}_top_p": sampling.top_p or "none",
        }
    values["dep_q"] = dep_q or program.dep_q or cfg.dep_q
    values |= {"repetition_penalty": text.repetition_penalty, "padding_bonus": text.padding_bonus}
    return Setup(name, values, tuple(notes))


def audit(setups: Sequence[Setup]) -> list[Finding]:
    """Every parameter of two or more setups, gravest differences first, those that are the same last."""
    if len(setups) < 2:
        raise ConfigError("an audit compares two or more configurations")
    findings = [_finding(parameter, setups) for parameter in PARAMETERS]
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def another_model(findings: Sequence[Finding]) -> list[str]:
    """The parameters in which these are not configurations of one model."""
    return [finding.parameter for finding in findings if finding.severity == "another model"]


def _finding(parameter: Parameter, setups: Sequence[Setup]) -> Finding:
    values = tuple(setup.values.get(parameter.key, NOT_STORED) for setup in setups)
    if all(value == values[0] for value in values):
        return Finding(parameter.label, values, "same", "")
    if NOT_STORED in values:
        known = [value for value in values if value != NOT_STORED]
        if all(value == known[0] for value in known):
            return Finding(parameter.label, values, "unknown", "one of them stores no value; compare the weights themselves")
    severity = parameter.severity if isinstance(parameter.severity, str) else parameter.severity(values)
    return Finding(parameter.label, values, severity, parameter.why)


def _acoustic(cfg: LMConfig, delays: Sequence[int]) -> int | str:
    """The one delay of all acoustic codebooks against their semantic one, or what there is instead."""
    own, user = delays[1 : cfg.dep_q + 1], delays[cfg.dep_q + 1 :]
    found = sorted({d - stream[0] for stream in (own, user) if stream for d in stream[1:]})
    if len(found) == 1:
        return found[0]
    return ", ".join(map(str, found)) if found else "no acoustic codebooks"


def _model_values(cfg: LMConfig) -> dict[str, Any]:
    dep = cfg.depformer
    inner = None if dep is None else dep.transformer
    values: dict[str, Any] = {
        "dim": cfg.transformer.dim,
        "layers": cfg.transformer.num_layers,
        "heads": cfg.transformer.num_heads,
        "kv_heads": cfg.transformer.num_kv_heads,
        "ffn": cfg.transformer.ffn_hidden[0],
        "position": cfg.transformer.position,
        "max_period": cfg.transformer.max_period,
        "norm": _norm(cfg.transformer),
        "gating": cfg.transformer.gating or "gelu, not gated",
        "text_in": cfg.text_card + 1,
        "text_out": cfg.text_card_out,
        "audio_vocabulary": cfg.card + 1,
        "n_q": cfg.n_q,
        "dep_q": cfg.dep_q,
        "user": cfg.user_streams,
        "extra_heads": f"{cfg.extra_heads} x {cfg.extra_heads_dim}" if cfg.extra_heads else "none",
        "text_initial": cfg.text_card,
        "text_padding": [cfg.text_padding, cfg.text_end_padding],
        "dep_dim": 0, "dep_layers": 0, "dep_heads": 0, "dep_ffn": 0, "dep_position": "none", "dep_schedule": "none",
        "dep_low_rank": "none", "dep_norm": "none",
    }  # fmt: skip
    if dep is not None and inner is not None:
        sizes = sorted(set(inner.ffn_hidden))
        values |= {
            "dep_dim": inner.dim,
            "dep_layers": inner.num_layers,
            "dep_heads": inner.num_heads,
            "dep_ffn": sizes[0] if len(sizes) == 1 else list(inner.ffn_hidden),
            "dep_position": inner.position,
            "dep_schedule": list(inner.schedule) if inner.schedule else ("its own" if inner.steps else "shared by all"),
            "dep_low_rank": dep.low_rank or "none",
            "dep_norm": dep.norm or "none",
        }
    return values


def _norm(cfg: TransformerConfig) -> str:
    return f"{cfg.norm.removesuffix('_f32')}, {NORM_EPS[cfg.norm]:g}"
