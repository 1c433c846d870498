"""Streaming causal convolutions: a chunk in, its share of the output out, the tail carried to the next chunk."""

from collections.abc import Iterator
from dataclasses import dataclass

from clearline.ops import Array, Ops, State, StateSpec, Weights, WeightSpec


@dataclass(frozen=True)
class Conv1d:
    """y = conv([tail of the past, x]); the carry is the last d(k-1)+1-stride inputs.

    x [B, T, channels] with T a multiple of the stride -> [B, T / stride, out]. Before the first row the past is zeros,
    or the first row repeated with pad_mode "replicate".
    """

    channels: int
    out: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    bias: bool = True
    pad_mode: str = "constant"

    @property
    def tail(self) -> int:
        return (self.kernel - 1) * self.dilation + 1 - self.stride

    def weights(self) -> Iterator[WeightSpec]:
        yield WeightSpec("conv.conv.weight", (self.out, self.channels, self.kernel))
        if self.bias:
            yield WeightSpec("conv.conv.bias", (self.out,))

    def state(self, batch: int) -> Iterator[StateSpec]:
        if self.tail:
            yield StateSpec("tail", "carry", (batch, self.tail, self.channels))

    def __call__(self, ops: Ops, w: Weights, s: State, x: Array, position: Array) -> Array:
        if self.tail:
            past = s.take("tail")
            if self.pad_mode == "replicate":
                past = ops.where_equal(position, 0, ops.slice(x, 1, 0, 1), past)
            x = ops.concat((past, x), 1)
            s.put("tail", ops.slice(x, 1, x.shape[1] - self.tail, x.shape[1]))
        y = ops.conv1d(x, w["conv.conv.weight"], self.stride, self.dilation)
        return ops.bias(y, w["conv.conv.bias"]) if self.bias else y


@dataclass(frozen=True)
class ConvTranspose1d:
    """Overlap-add: the last k-stride outputs of a chunk are unfinished and are carried, without bias, to the next.

    x [B, T, channels] -> [B, T * stride, out]; channel-wise when `channelwise`, then out = channels.
    """

    channels: int
    out: int
    kernel: int
    stride: int
    channelwise: bool = False
    bias: bool = True

    @property
    def overlap(self) -> int:
        return self.kernel - self.stride

    def weights(self) -> Iterator[WeightSpec]:
        yield WeightSpec("convtr.convtr.weight", (self.channels, 1 if self.channelwise else self.out, self.kernel))
        if self.bias:
            yield WeightSpec("convtr.convtr.bias", (self.out,))

    def state(self, batch: int) -> Iterator[StateSpec]:
        if self.overlap:
            yield StateSpec("overlap", "carry", (batch, self.overlap, self.out))

    def __call__(self, ops: Ops, w: Weights, s: State, x: Array) -> Array:
        finished = x.shape[1] * self.stride
        y = ops.conv_transpose1d(x, w["convtr.convtr.weight"], self.stride)
        if self.overlap:
            begun, rest = ops.split(y, (self.overlap, finished), 1)
            y = ops.concat((begun + s.take("overlap"), rest), 1)
            y, unfinished = ops.split(y, (finished, self.overlap), 1)
            s.put("overlap", unfinished)
        return ops.bias(y, w["convtr.convtr.bias"]) if self.bias else y
