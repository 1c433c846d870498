"""Mimi: one 80 ms frame of waveform to codes and back."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from clearline.config import MimiConfig, TransformerConfig
from clearline.model.conv import Conv1d, ConvTranspose1d
from clearline.model.layer import Layer, state_at, weights_at
from clearline.model.rvq import SplitRVQ
from clearline.model.seanet import SEANet, seanet_decoder, seanet_encoder
from clearline.model.transformer import Transformer
from clearline.ops import Array, InputSpec, Ops, State, StateSpec, Weights, WeightSpec


@dataclass(frozen=True)
class ProjectedTransformer:
    """A transformer on [B, T, dimension], with projections in and out where its width differs from `dimension`."""

    cfg: TransformerConfig
    dimension: int

    def weights(self) -> Iterator[WeightSpec]:
        if self.cfg.dim != self.dimension:
            yield WeightSpec("input_proj.weight", (self.cfg.dim, self.dimension))
            yield WeightSpec("output_projs.0.weight", (self.dimension, self.cfg.dim))
        yield from weights_at("transformer", Transformer(self.cfg))

    def state(self, batch: int) -> Iterator[StateSpec]:
        yield from state_at("transformer", Transformer(self.cfg), batch)

    def __call__(self, ops: Ops, w: Weights, s: State, x: Array, position: Array) -> Array:
        if self.cfg.dim != self.dimension:
            x = ops.linear(x, w["input_proj.weight"])
        x = Transformer(self.cfg)(ops, w.at("transformer"), s.at("transformer"), x, position)
        if self.cfg.dim != self.dimension:
            x = ops.linear(x, w["output_projs.0.weight"])
        return x


@dataclass(frozen=True)
class MimiEncoder:
    """pcm [B, frames * frame_size, 1] -> codes int64 [B, num_codebooks, frames] and latent [B, frames, dimension]."""

    cfg: MimiConfig
    num_codebooks: int
    frames: int = 1

    @property
    def seanet(self) -> SEANet:
        return seanet_encoder(self.cfg)

    @property
    def transformer(self) -> ProjectedTransformer | None:
        return _projected(self.cfg)

    @property
    def downsample(self) -> Conv1d | None:
        stride = self.cfg.resample_stride
        if stride == 1:
            return None
        dim = self.cfg.dimension
        return Conv1d(dim, dim, 2 * stride, stride=stride, bias=False, pad_mode="replicate")

    @property
    def parts(self) -> dict[str, Layer]:
        parts: dict[str, Layer | None] = {
            "encoder": self.seanet,
            "encoder_transformer": self.transformer,
            "downsample.conv": self.downsample,
            "quantizer": SplitRVQ(self.cfg, self.num_codebooks),
        }
        return {path: part for path, part in parts.items() if part is not None}

    def inputs(self, batch: int) -> dict[str, InputSpec]:
        return {"pcm": InputSpec((batch, self.frames * self.cfg.frame_size, 1))}

    def weights(self) -> Iterator[WeightSpec]:
        for path, part in self.parts.items():
            yield from weights_at(path, part)

    def state(self, batch: int) -> Iterator[StateSpec]:
        yield StateSpec("position", "position", (batch,))
        for path, part in self.parts.items():
            for spec in state_at(path, part, batch):
                yield replace(spec, rows=spec.rows * self.frames)

    def step(self, ops: Ops, w: Weights, s: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        position = s.take("position")
        x = self.seanet(ops, w.at("encoder"), s.at("encoder"), inputs["pcm"], position)
        if self.transformer is not None:
            at = position * self.cfg.resample_stride
            x = self.transformer(ops, w.at("encoder_transformer"), s.at("encoder_transformer"), x, at)
        if self.downsample is not None:
            x = self.downsample(ops, w.at("downsample.conv"), s.at("downsample.conv"), x, position)
        codes = SplitRVQ(self.cfg, self.num_codebooks).encode(ops, w.at("quantizer"), x)
        s.put("position", position + self.frames)
        return {"codes": codes, "latent": x}


@dataclass(frozen=True)
class MimiDecoder:
    """codes int64 [B, num_codebooks, frames] -> pcm [B, frames * frame_size, 1]."""

    cfg: MimiConfig
    num_codebooks: int
    frames: int = 1

    @property
    def upsample(self) -> ConvTranspose1d | None:
        stride = self.cfg.resample_stride
        if stride == 1:
            return None
        dim = self.cfg.dimension
        return ConvTranspose1d(dim, dim, 2 * stride, stride, channelwise=True, bias=False)

    @property
    def seanet(self) -> SEANet:
        return seanet_decoder(self.cfg)

    @property
    def transformer(self) -> ProjectedTransformer | None:
        return _projected(self.cfg)

    @property
    def parts(self) -> dict[str, Layer]:
        parts: dict[str, Layer | None] = {
            "quantizer": SplitRVQ(self.cfg, self.num_codebooks),
            "upsample.convtr": self.upsample,
            "decoder_transformer": self.transformer,
            "decoder": self.seanet,
        }
        return {path: part for path, part in parts.items() if part is not None}

    def inputs(self, batch: int) -> dict[str, InputSpec]:
        return {"codes": InputSpec((batch, self.num_codebooks, self.frames), ids=True)}

    def weights(self) -> Iterator[WeightSpec]:
        for path, part in self.parts.items():
            yield from weights_at(path, part)

    def state(self, batch: int) -> Iterator[StateSpec]:
        yield StateSpec("position", "position", (batch,))
        for path, part in self.parts.items():
            for spec in state_at(path, part, batch):
                yield replace(spec, rows=spec.rows * self.frames)

    def step(self, ops: Ops, w: Weights, s: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        position = s.take("position")
        x = SplitRVQ(self.cfg, self.num_codebooks).decode(ops, w.at("quantizer"), inputs["codes"])
        if self.upsample is not None:
            x = self.upsample(ops, w.at("upsample.convtr"), s.at("upsample.convtr"), x)
        if self.transformer is not None:
            at = position * self.cfg.resample_stride
            x = self.transformer(ops, w.at("decoder_transformer"), s.at("decoder_transformer"), x, at)
        x = self.seanet(ops, w.at("decoder"), s.at("decoder"), x, position)
        s.put("position", position + self.frames)
        return {"pcm": x}


def _projected(cfg: MimiConfig) -> ProjectedTransformer | None:
    return None if cfg.transformer is None else ProjectedTransformer(cfg.transformer, cfg.dimension)


def mimi_weights(cfg: MimiConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the codec, by Kyutai's name; each codebook as its quotient `embedding`, see `checkpoint.names`."""
    parts = [*MimiEncoder(cfg, cfg.n_q).weights(), *MimiDecoder(cfg, cfg.n_q).weights()]
    return {spec.name: spec.shape for spec in parts}
