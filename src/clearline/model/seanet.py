"""SEANet: Mimi's convolutional encoder (24 kHz to 25 Hz) and decoder (back), numbered as in Kyutai's checkpoints."""

from collections.abc import Iterator
from dataclasses import dataclass

from clearline.config import MimiConfig
from clearline.model.conv import Conv1d, ConvTranspose1d
from clearline.model.layer import state_at, weights_at
from clearline.ops import Array, Ops, State, StateSpec, Weights, WeightSpec


@dataclass(frozen=True)
class ResidualBlock:
    """x + conv1(ELU(conv_k(ELU(x)))); the skip is the identity, or a 1x1 convolution without true_skip."""

    cfg: MimiConfig
    channels: int
    dilation: int

    @property
    def parts(self) -> dict[str, Conv1d]:
        cfg, hidden = self.cfg, self.channels // self.cfg.compress
        parts = {
            "block.1": Conv1d(self.channels, hidden, cfg.residual_kernel_size, dilation=self.dilation, pad_mode=cfg.pad_mode),
            "block.3": Conv1d(hidden, self.channels, 1),
        }
        if not cfg.true_skip:
            parts["shortcut"] = Conv1d(self.channels, self.channels, 1)
        return parts

    def weights(self) -> Iterator[WeightSpec]:
        for path, part in self.parts.items():
            yield from weights_at(path, part)

    def state(self, batch: int) -> Iterator[StateSpec]:
        for path, part in self.parts.items():
            yield from state_at(path, part, batch)

    def __call__(self, ops: Ops, w: Weights, s: State, x: Array, position: Array) -> Array:
        y = x
        for path in ("block.1", "block.3"):
            y = ops.activation(y, "elu", self.cfg.elu_alpha)
            y = self.parts[path](ops, w.at(path), s.at(path), y, position)
        if not self.cfg.true_skip:
            x = self.parts["shortcut"](ops, w.at("shortcut"), s.at("shortcut"), x, position)
        return x + y


Part = Conv1d | ConvTranspose1d | ResidualBlock | None  # None is an ELU: it has a number but no weights


@dataclass(frozen=True)
class SEANet:
    """A numbered sequence of convolutions, residual blocks and ELUs. x [B, T, C] -> [B, T', C']."""

    parts: tuple[Part, ...]
    elu_alpha: float

    def weights(self) -> Iterator[WeightSpec]:
        for i, part in enumerate(self.parts):
            if part is not None:
                yield from weights_at(f"model.{i}", part)

    def state(self, batch: int) -> Iterator[StateSpec]:
        for i, part in enumerate(self.parts):
            if part is not None:
                yield from state_at(f"model.{i}", part, batch)

    def __call__(self, ops: Ops, w: Weights, s: State, x: Array, position: Array) -> Array:
        for i, part in enumerate(self.parts):
            path = f"model.{i}"
            if part is None:
                x = ops.activation(x, "elu", self.elu_alpha)
            elif isinstance(part, ConvTranspose1d):
                x = part(ops, w.at(path), s.at(path), x)
            else:
                x = part(ops, w.at(path), s.at(path), x, position)
        return x


def seanet_encoder(cfg: MimiConfig) -> SEANet:
    """Waveform [B, T, 1] to latent [B, T / hop, dimension]."""
    channels = cfg.n_filters
    parts: list[Part] = [Conv1d(1, channels, cfg.kernel_size, pad_mode=cfg.pad_mode)]
    for ratio in reversed(cfg.ratios):
        parts += [ResidualBlock(cfg, channels, cfg.dilation_base**j) for j in range(cfg.n_residual_layers)]
        parts += [None, Conv1d(channels, 2 * channels, 2 * ratio, stride=ratio, pad_mode=cfg.pad_mode)]
        channels *= 2
    parts += [None, Conv1d(channels, cfg.dimension, cfg.last_kernel_size, pad_mode=cfg.pad_mode)]
    return SEANet(tuple(parts), cfg.elu_alpha)


def seanet_decoder(cfg: MimiConfig) -> SEANet:
    """Latent [B, T, dimension] to waveform [B, T * hop, 1]."""
    channels = cfg.n_filters * 2 ** len(cfg.ratios)
    parts: list[Part] = [Conv1d(cfg.dimension, channels, cfg.kernel_size, pad_mode=cfg.pad_mode)]
    for ratio in cfg.ratios:
        parts += [None, ConvTranspose1d(channels, channels // 2, 2 * ratio, ratio)]
        channels //= 2
        parts += [ResidualBlock(cfg, channels, cfg.dilation_base**j) for j in range(cfg.n_residual_layers)]
    parts += [None, Conv1d(channels, 1, cfg.last_kernel_size, pad_mode=cfg.pad_mode)]
    return SEANet(tuple(parts), cfg.elu_alpha)
