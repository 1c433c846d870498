"""Weights on a device, in the layouts that PyTorch's operations want; made at first use, shared by all programs of a model."""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from clearline.backends.torch_quantised import Linear, linear
from clearline.ops import Weight


class TorchWeights:
    """The weights of one backend; `dtype` is that of every dense tensor."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype
        self._made: dict[tuple[int, str], tuple[Weight, Any]] = {}
        self._constants: dict[bytes, Tensor] = {}

    def dense(self, weight: Weight) -> Tensor:
        """As stored, dequantised where needed."""
        return self._once(weight, "dense", lambda: self._tensor(weight))

    def table(self, weight: Weight) -> Tensor:
        """A row of zeros, then the rows: what is looked up at id + 1."""
        return self._once(weight, "table", lambda: torch.nn.functional.pad(self._tensor(weight), (0, 0, 1, 0)))

    def linear(self, weight: Weight) -> Linear:
        """What multiplies by a matrix [out, in], dense or quantised."""
        return self._once(weight, "linear", lambda: linear(weight, self.dense, self.device, self.dtype))

    def taps(self, weight: Weight) -> Tensor:
        """A convolution's [out, in, k] as a matrix [out, k in]."""
        return self._once(weight, "taps", lambda: self._tensor(weight).permute(0, 2, 1).reshape(weight.shape[0], -1).contiguous())

    def spread(self, weight: Weight) -> Tensor:
        """A transposed convolution's [in, out, k] as a matrix [k out, in]."""
        return self._once(weight, "spread", lambda: self._tensor(weight).permute(2, 1, 0).reshape(-1, weight.shape[0]).contiguous())

    def channelwise(self, weight: Weight) -> Tensor:
        """A channel-wise [C, 1, k] as [k, C]."""
        return self._once(weight, "channelwise", lambda: self._tensor(weight)[:, 0].T.contiguous())

    def half_norms(self, codebook: Weight) -> Tensor:
        """Half the squared length of every row, summed in float64."""
        return self._once(codebook, "half norms", lambda: self._half_norms(codebook))

    def constant(self, value: np.ndarray) -> Tensor:
        """A float32 constant on the device."""
        key = value.tobytes()
        if key not in self._constants:
            self._constants[key] = torch.from_numpy(value.astype(np.float32)).to(self.device)
        return self._constants[key]

    @property
    def bytes(self) -> int:
        """Bytes of everything made so far."""
        return sum(tensor.nbytes for _, made in self._made.values() for tensor in tensors(made))

    def _once(self, weight: Weight, layout: str, make: Callable[[], Any]) -> Any:
        key = (id(weight), layout)
        if key not in self._made:
            # The weight is kept beside it: an id is only its own while it lives.
            self._made[key] = (weight, make())
        return self._made[key][1]

    def _half_norms(self, codebook: Weight) -> Tensor:
        return torch.from_numpy(0.5 * np.sum(codebook.dense(np.float64) ** 2, -1)).to(self.dtype).to(self.device)

    def _tensor(self, weight: Weight) -> Tensor:
        if weight.bits:
            wide = np.float64 if self.dtype == torch.float64 else np.float32
            return torch.from_numpy(weight.dense(wide)).to(self.device, self.dtype)
        return from_numpy(weight.data).to(self.device, self.dtype)


def from_numpy(array: np.ndarray) -> Tensor:
    """The same bytes as a tensor; NumPy's bfloat16 is a guest type that PyTorch does not know."""
    array = np.array(array) if not array.flags.writeable or not array.flags.c_contiguous else array
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def tensors(made: Any) -> list[Tensor]:
    """The tensors of a layout: itself, or those a `Linear` holds and nobody else does."""
    return [made] if isinstance(made, Tensor) else list(getattr(made, "own", ()))
