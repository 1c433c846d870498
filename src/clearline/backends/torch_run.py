"""Steps run on PyTorch tensors: CUDA, Metal (MPS), or the CPU."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clearline.backends.torch_devices import checked_device, device_message, free_memory, memory_bandwidth, memory_message
from clearline.backends.torch_devices import devices as devices
from clearline.backends.torch_ops import TorchOps
from clearline.backends.torch_ring import TorchRing
from clearline.backends.torch_weights import TorchWeights
from clearline.backends.wanted import DTYPES, Wanted, only
from clearline.errors import BackendError
from clearline.ops import Backend, InputSpec, Leaf, Program, State, StateSpec, StepFunction, Weight, Weights, as_ops

# The float type of a device where nobody says; float32 on the others.
OWN_DTYPES = {"cuda": "bfloat16"}


class TorchProgram:
    """A step called anew each time, on tensors."""

    def __init__(
        self, backend: "Torch", step: StepFunction, weights: Mapping[str, Weight], inputs: Mapping[str, InputSpec]
    ) -> None:
        self._backend = backend
        self._step = step
        self._weights = Weights(weights)
        self._inputs = inputs

    def run(self, state: dict[str, Leaf], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with self._backend.running():
            given = {name: self._backend.tensor(inputs[name], spec.ids) for name, spec in self._inputs.items()}
            for path, leaf in state.items():
                if isinstance(leaf, np.ndarray):
                    state[path] = self._backend.tensor(leaf, leaf.dtype.kind == "i")
            outputs, new = self._backend.call(self._step, self._weights, state, given)
            state.update(new)
            return {name: to_numpy(value) for name, value in outputs.items()}


class Torch:
    """The backend object: one device, one float type, weights shared by all programs."""

    name = "torch"

    def __init__(self, device: torch.device, dtype: torch.dtype, compiles: bool = False) -> None:
        """compiles: whether whole frames go through torch.compile."""
        self.compiles = compiles
        self.device = str(device)
        self.dtype = str(dtype).removeprefix("torch.")
        # Numbered, since "cuda" is another card in a thread that has chosen one.
        numbered = torch.device("cuda", device.index or 0) if device.type == "cuda" else device
        self.weights = TorchWeights(numbered, dtype)

    def free_bytes(self) -> int | None:
        """Bytes free on the device; None where nobody says."""
        return free_memory(self.weights.device)

    def bandwidth(self) -> float | None:
        """GB/s that the device's own memory is read and written with; None where it has none, or nobody says."""
        return memory_bandwidth(self.weights.device)

    def state(self, specs: Iterable[StateSpec]) -> dict[str, Leaf]:
        return self.lanes(specs, full=False)

    def lanes(self, specs: Iterable[StateSpec], full: bool) -> dict[str, Leaf]:
        """Fresh leaves; with `full`, rings of their final size, which never move."""
        device, dtype = self.weights.device, self.weights.dtype
        with self.running():
            return {
                spec.path: TorchRing(spec, dtype, device, full, self.compiles)
                if spec.kind == "ring"
                else torch.zeros(spec.shape, dtype=torch.int64 if spec.kind == "position" else dtype, device=device)
                for spec in specs
            }

    def compile(
        self, step: StepFunction, weights: Mapping[str, Weight], state: Iterable[StateSpec], inputs: Mapping[str, InputSpec]
    ) -> Program:
        # One step on zeros: every weight is on the device now, or the error comes before anything is half loaded.
        inputs = dict(inputs)
        with self.running():
            given = {
                name: torch.zeros(spec.shape, dtype=torch.int64 if spec.ids else self.weights.dtype, device=self.weights.device)
                for name, spec in inputs.items()
            }
            self.call(step, Weights(weights), self.state(state), given)
        return TorchProgram(self, step, weights, inputs)

    def call(
        self,
        step: StepFunction,
        weights: Weights,
        state: Mapping[str, Leaf],
        inputs: Mapping[str, Tensor],
        ops: TorchOps | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Leaf]]:
        """One step on tensors, which stay on the device: its outputs, and the leaves it leaves (rings are written in place).

        `ops`: operations that remember an earlier call at the same position.
        """
        view = State(dict(state))
        outputs: dict[str, Any] = step(as_ops(ops or self.ops()), weights, view, inputs)
        return outputs, view.new

    def ops(self) -> TorchOps:
        """Operations for one step."""
        return TorchOps(self.weights, self.compiles)

    def tensor(self, array: np.ndarray, ids: bool) -> Tensor:
        """An array of ids (int64) or of samples and activations (the backend's float type) on the device."""
        wide = np.ascontiguousarray(array, np.int64 if ids else np.float64 if self.dtype == "float64" else np.float32)
        moved = torch.from_numpy(wide if wide.flags.writeable else wide.copy()).to(self.weights.device)
        return moved if ids else moved.to(self.weights.dtype)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Without gradients, on this device, and with its failures told as ours.

        Inference mode saves a sixth of a frame on the CPU; but graphs captured in it keep others of the process from being
        captured outside of it.
        """
        device = self.weights.device
        captures = device.type == "cuda"
        try:
            with torch.no_grad() if captures else torch.inference_mode(), torch.cuda.device(device) if captures else nullcontext():
                yield
        except RuntimeError as error:
            fault = memory_message(self.weights, error) or device_message(device, error)
            if not fault:
                raise
            raise BackendError(fault) from error


def to_numpy(x: Tensor) -> np.ndarray:
    """int64, float32 or float64, on the host."""
    if x.dtype in (torch.bfloat16, torch.float16):
        x = x.float()
    array: np.ndarray = x.cpu().numpy()
    return array


def make(wanted: Wanted) -> Backend:
    """A backend on the wanted device, or the best there is. Raises BackendError when there is no such device."""
    only("torch", Wanted(dtype=wanted.dtype, cache=wanted.cache, weights=wanted.weights), (), DTYPES)
    device = checked_device(wanted.device)
    if device.type == "cuda":
        # Ten bits of mantissa are not float32: the codec's codes would be others. Some environments ask for that.
        torch.set_float32_matmul_precision("highest")
    dtype = wanted.dtype or OWN_DTYPES.get(device.type, "float32")
    if device.type == "mps" and dtype == "float64":
        raise BackendError("Metal has no float64: use float32, or --device cpu")
    if wanted.threads is not None:
        torch.set_num_threads(wanted.threads)
    if wanted.compile and device.type == "mps":
        raise BackendError("--compile is for whole frames of lanes, which run on CUDA and the CPU, not on Metal")
    return Torch(device, getattr(torch, dtype), wanted.compile)
