"""A model folder in Kyutai's format: config.json, the LM, Mimi and its config, and the text tokenizer."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearline.checkpoint import safetensors
from clearline.config import MimiConfig
from clearline.config.kyutai import MOSHI_7B, CheckpointConfig, official_mimi, parse_checkpoint, parse_mimi
from clearline.errors import CheckpointError, ConfigError
from clearline.model import lm_weights, mimi_weights
from clearline.ops import Weight

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose configuration has been read; weights are read, and checked, when asked for."""

    folder: Path
    config: CheckpointConfig
    mimi_config: MimiConfig
    _hashes: dict[str, str] = field(default_factory=dict)

    @property
    def lm_path(self) -> Path:
        return self.folder / self.config.moshi_name

    @property
    def mimi_path(self) -> Path:
        return self.folder / self.config.mimi_name

    @property
    def tokenizer_path(self) -> Path:
        return self.folder / self.config.tokenizer_name

    def lm_weights(self) -> dict[str, Weight]:
        return safetensors.lm_weights(self.lm_path, lm_weights(self.config.lm))

    def mimi_weights(self) -> dict[str, Weight]:
        return safetensors.mimi_weights(self.mimi_path, mimi_weights(self.mimi_config))

    def tokenizer(self) -> "SentencePieceProcessor":
        """The SentencePiece model. Raises CheckpointError when unreadable or of another size than the weights."""
        from sentencepiece import SentencePieceProcessor

        if not self.tokenizer_path.is_file():
            raise CheckpointError(f"the text tokenizer {self.tokenizer_path} does not exist")
        tokenizer = SentencePieceProcessor()
        try:
            tokenizer.load(str(self.tokenizer_path))
        except (RuntimeError, OSError) as error:
            raise CheckpointError(f"{self.tokenizer_path} is not a SentencePiece model: {error}") from error
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
            self._hashes["weights"] = safetensors.file_hash(self.lm_path)
            self._hashes["codec_weights"] = safetensors.file_hash(self.mimi_path)
            self._hashes["config"] = hashlib.sha256(repr((self.config, self.mimi_config)).encode()).hexdigest()
        return dict(self._hashes)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read a folder's configuration files. Raises CheckpointError or ConfigError with the file and the key."""
    if not folder.exists():
        raise CheckpointError(f"there is no model at {folder}")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; a model is a folder with a config.json, its weights and its tokenizer")
    config = parse_checkpoint(_read_json(folder / "config.json") if (folder / "config.json").exists() else MOSHI_7B)
    mimi = official_mimi()
    if config.mimi_config_name is not None:
        mimi = parse_mimi(_read_json(folder / config.mimi_config_name))
    _check_codebooks(config, mimi)
    return Checkpoint(folder, config, mimi)


def read_mimi(path: Path) -> dict[str, Weight]:
    """The weights of a lone codec file of the released shape."""
    return safetensors.mimi_weights(path, mimi_weights(official_mimi()))


def _check_codebooks(config: CheckpointConfig, mimi: MimiConfig) -> None:
    needed = max(config.lm.dep_q, config.lm.user_streams)
    if needed > mimi.n_q:
        raise ConfigError(f"the language model uses {needed} codebooks, but its codec has {mimi.n_q}")
    if config.lm.card != mimi.bins:
        raise ConfigError(f"the language model has {config.lm.card} audio tokens a codebook, but its codec has {mimi.bins}")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist, though config.json names it") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
