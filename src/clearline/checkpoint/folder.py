"""A model folder of any published kind: its configuration, the LM, Mimi and its config, and the text tokenizer."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearline.checkpoint import fit
from clearline.checkpoint.condition import CONDITIONER_PREFIX, conditioned, early_end_as_padding
from clearline.checkpoint.files import INDEX, member, open_tensors, pickled, read_json, shards
from clearline.checkpoint.hub import hub_file
from clearline.checkpoint.lazy import Lazy, LazyWeights
from clearline.checkpoint.names import lm_naming
from clearline.checkpoint.quantised import fold
from clearline.checkpoint.safetensors import file_hash
from clearline.config import MimiConfig
from clearline.config.checkpoint import BEST, CheckpointConfig
from clearline.config.huggingface import is_transformers, parse_transformers_mimi, parse_transformers_moshi
from clearline.config.kyutai import MOSHI_7B, official_mimi, parse_checkpoint, parse_mimi
from clearline.config.rust import read_toml
from clearline.errors import CheckpointError, ConfigError
from clearline.model import lm_weights, mimi_weights

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

_CODECS = ("tokenizer-*.safetensors", "mimi*.safetensors", "mimi*.gguf")
_WEIGHTS = ("model.safetensors", f"model{INDEX}", "model.q8.safetensors", "model.q4.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose configuration has been read; weights are opened, and checked, when asked for.

    `source` says in words where the configuration came from. `mimi_path` may be `lm_path` itself.
    """

    folder: Path
    config: CheckpointConfig
    mimi_config: MimiConfig
    lm_path: Path
    mimi_path: Path
    tokenizer_path: Path
    source: str = "config.json"
    _hashes: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def codec_inside(self) -> bool:
        """Whether the codec lies in the language model's file, as transformers saves them."""
        return self.mimi_path == self.lm_path

    @property
    def lm_bytes(self) -> int:
        """Size of the language model's files; 0 where there are none."""
        return sum(path.stat().st_size for path in shards(self.lm_path)) if self.lm_path.is_file() else 0

    def lm_tensors(self) -> dict[str, Lazy]:
        """The language model's tensors under Kyutai's names, LoRA fused, not yet checked."""
        tensors = fit.lm_tensors(self.lm_path, fold(self.lm_path, open_tensors(self.lm_path)), self.config.stored_lm)
        lora = self.config.lora
        if lora is None:
            return tensors
        path = member(self.folder, lora.name)
        update = fit.lm_tensors(path, open_tensors(path), self.config.stored_lm)
        return fit.with_lora(path, tensors, update, lora.scaling)

    def lm_weights(self, condition: str = BEST) -> LazyWeights:
        """The language model's weights, every one checked against the configuration, read when they are used.

        `condition` matters to conditioned models (Hibiki) only: the value whose vector is part of the text embeddings.
        """
        tensors: dict[str, Lazy] = dict(self.stored_weights().tensors)
        if self.config.model_type == "hibiki":
            tensors = early_end_as_padding(tensors)
        if self.config.conditioner is not None:
            tensors = conditioned(self.lm_path, tensors, self.config.conditioner, condition)
        return LazyWeights({name: tensors[name] for name in lm_weights(self.config.lm)})

    def stored_weights(self) -> LazyWeights:
        """The weights as they are stored, checked, a conditioner's own among them and nothing folded but a LoRA."""
        if self.config.cannot_run:
            raise ConfigError(f"{self.folder}: this version cannot run {'; '.join(self.config.cannot_run)}. It can be inspected")
        tensors = self.lm_tensors()
        own = {
            name: t for name, t in tensors.items() if self.config.conditioner is not None and name.startswith(CONDITIONER_PREFIX)
        }
        rest = {name: tensor for name, tensor in tensors.items() if name not in own}
        return LazyWeights(fit.checked(self.lm_path, rest, lm_weights(self.config.stored_lm)).tensors | own)

    def mimi_weights(self) -> LazyWeights:
        return _mimi_weights(self.mimi_path, self.mimi_config)

    def naming(self) -> str:
        """Whose tensor names the language model's file uses."""
        return lm_naming(open_tensors(self.lm_path))

    def tokenizer(self) -> "SentencePieceProcessor":
        """The SentencePiece model. Raises CheckpointError when unreadable or of another size than the weights."""
        tokenizer = read_tokenizer(self.tokenizer_path)
        expected = self.config.lm.text_card
        if tokenizer.vocab_size() != expected:
            raise CheckpointError(
                f"{self.tokenizer_path} has {tokenizer.vocab_size()} pieces, but the model's text vocabulary (text_card) has "
                f"{expected}: this tokenizer belongs to another model"
            )
        return tokenizer

    def hashes(self) -> dict[str, str]:
        """sha256 of the LM's weights, of the codec's, and of everything the configuration files say."""
        if not self._hashes:
            self._hashes["weights"] = _hash(shards(self.lm_path))
            self._hashes["codec_weights"] = _hash(shards(self.mimi_path))
            self._hashes["config"] = hashlib.sha256(repr((self.config, self.mimi_config)).encode()).hexdigest()
        return dict(self._hashes)


def open_checkpoint(folder: Path, lm_only: bool = False) -> Checkpoint:
    """Read a folder's configuration files. Raises CheckpointError or ConfigError with the file and the key.

    With `lm_only` the folder need not have a codec, and its configuration is not looked at.
    """
    if not folder.exists():
        raise CheckpointError(f"there is no model at {folder}")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; a model is a folder with a config.json, its weights and its tokenizer")
    config, mimi, source = read_config(folder)
    if mimi is None:
        mimi = official_mimi()
        if config.mimi_config_name is not None and not lm_only:
            mimi = _mimi(read_json(member(folder, config.mimi_config_name)))
    if not lm_only:
        _check_codebooks(config, mimi)
    lm_path = _choose(folder, config.moshi_name, _WEIGHTS, "model*.gguf", "language model weights (moshi_name)")
    if not lm_path.is_file():
        lm_path = pickled(folder) or lm_path
    inside = source == "transformers' config.json"
    mimi_path = lm_path if inside else _choose(folder, config.mimi_name, (), _CODECS, "codec weights (mimi_name)")
    tokenizer = _choose(folder, config.tokenizer_name, (), "tokenizer*.model", "text tokenizer (tokenizer_name)")
    return Checkpoint(folder, config, mimi, lm_path, mimi_path, tokenizer, source)


def read_config(folder: Path) -> tuple[CheckpointConfig, MimiConfig | None, str]:
    """A folder's configuration, its codec's where that lies in the same file, and in words where it was found."""
    path = folder / "config.json"
    if path.exists():
        raw = read_json(member(folder, "config.json"))
        if is_transformers(raw):
            config, mimi = parse_transformers_moshi(raw)
            return config, mimi, "transformers' config.json"
        return parse_checkpoint(raw), None, "config.json"
    toml = sorted(folder.glob("*.toml"))
    if len(toml) == 1:
        model = read_toml(member(folder, toml[0].name))
        kind = "moshi" if model.conditioner is None else "hibiki"
        blocked = (f"conditioners ({', '.join(model.conditioners)})",) if model.conditioners and kind == "moshi" else ()
        config = CheckpointConfig(
            model.lm, kind, conditioners=model.conditioners, conditioner=model.conditioner, cannot_run=blocked
        )
        return config, None, toml[0].name
    return parse_checkpoint(MOSHI_7B), None, "no config.json: assumed to be the released 7B, as Kyutai's loader assumes"


def find_mimi(path: Path) -> tuple[MimiConfig, Path]:
    """Shape and file of a codec: of a model folder, of a folder with nothing else in it, or one file.

    A lone codec has the shape that the config.json (or mimi_config.json) beside it says, transformers' or Kyutai's; without
    one, the released shape.
    """
    config, alone = _mimi_beside(path if path.is_dir() else path.parent)
    if path.is_file():
        return config, path
    if path.is_dir() and alone:
        return config, _choose(path, "mimi.safetensors", (), (*_CODECS, "model.safetensors"), "codec weights")
    checkpoint = open_checkpoint(path)
    return checkpoint.mimi_config, checkpoint.mimi_path


def read_mimi(path: Path) -> tuple[MimiConfig, LazyWeights]:
    """A codec without its language model, found as `find_mimi` does."""
    config, file = find_mimi(path)
    return config, _mimi_weights(file, config)


def mimi_hash(path: Path) -> str:
    """sha256 of a codec's weights, found as `find_mimi` does."""
    return _hash(shards(find_mimi(path)[1]))


def _mimi_weights(path: Path, config: MimiConfig) -> LazyWeights:
    return fit.checked(path, fit.mimi_tensors(open_tensors(path), config), mimi_weights(config))


def _mimi_beside(folder: Path) -> tuple[MimiConfig, bool]:
    """A codec's shape by the configuration files of its folder, and whether that describes a codec and nothing else."""
    name: Any = next((name for name in ("config.json", "mimi_config.json") if (folder / name).is_file()), None)
    raw = read_json(member(folder, name)) if name else {}
    alone = isinstance(raw, dict) and ("seanet" in raw or raw.get("model_type") == "mimi")
    if not alone:
        name = raw.get("mimi_config_name") if isinstance(raw, dict) else None
        raw = read_json(member(folder, name)) if isinstance(name, str) else None
    return official_mimi() if raw is None else _mimi(raw), alone


def _mimi(raw: Any) -> MimiConfig:
    written = isinstance(raw, dict) and raw.get("model_type") == "mimi"
    return parse_transformers_mimi(raw) if written else parse_mimi(raw)


def read_tokenizer(path: Path) -> "SentencePieceProcessor":
    """A SentencePiece model. Raises CheckpointError when it is not there or not readable."""
    from sentencepiece import SentencePieceProcessor

    if not path.is_file():
        raise CheckpointError(f"the text tokenizer {path} does not exist")
    tokenizer = SentencePieceProcessor()
    try:
        tokenizer.load(str(path))
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{path} is not a SentencePiece model: {error}") from error
    return tokenizer


def _choose(folder: Path, named: str, names: Sequence[str], patterns: str | Sequence[str], what: str) -> Path:
    """The file the configuration names; if it is not there, the only one of the usual names that is."""
    if named.startswith("hf://"):
        repository, _, name = named.removeprefix("hf://").rpartition("/")
        local = member(folder, name)
        return local if local.is_file() else hub_file(repository, name)
    path = member(folder, named)
    if path.is_file():
        return path
    patterns = [patterns] if isinstance(patterns, str) else patterns
    found = [folder / name for name in names if (folder / name).is_file()]
    found += [other for pattern in patterns for other in sorted(folder.glob(pattern)) if other not in found]
    if len(found) > 1:
        raise CheckpointError(
            f"{what}: {path.name} is not in {folder}, which has {', '.join(p.name for p in found)}: name one in config.json"
        )
    return member(folder, found[0].name) if found else path


def _hash(paths: Sequence[Path]) -> str:
    if len(paths) == 1:
        return file_hash(paths[0])
    return hashlib.sha256("".join(file_hash(path) for path in paths).encode()).hexdigest()


def _check_codebooks(config: CheckpointConfig, mimi: MimiConfig) -> None:
    needed = max(config.lm.dep_q, config.lm.user_streams)
    if needed > mimi.n_q:
        raise ConfigError(f"the language model uses {needed} codebooks, but its codec has {mimi.n_q}")
    if config.lm.card != mimi.bins:
        raise ConfigError(f"the language model has {config.lm.card} audio tokens a codebook, but its codec has {mimi.bins}")
