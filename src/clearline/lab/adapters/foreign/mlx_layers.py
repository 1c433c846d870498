"""Looking into moshi_mlx: every layer's output at one frame, under the name of its weight in Kyutai's PyTorch files."""

from typing import Any

import mlx.core as mx
import numpy as np
from layer_names import pytorch_name


class Layers:
    """Keeps what modules with weights of their own give while `on`. Values are numbers only once taken: MLX is lazy."""

    def __init__(self, model: Any) -> None:
        self.on = False
        self._seen: dict[str, Any] = {}
        self._names = {}
        for name, module in model.named_modules():
            if any(isinstance(value, mx.array) for value in module.values()):
                self._names[id(module)] = pytorch_name(name)
        for kind in {type(module) for _, module in model.named_modules() if id(module) in self._names}:
            self._listen(kind)

    def _listen(self, kind: Any) -> None:
        plain = kind.__call__

        def call(module: Any, *arguments: Any, **named: Any) -> Any:
            out = plain(module, *arguments, **named)
            name = self._names.get(id(module))
            if self.on and name is not None:
                self._seen.setdefault(name, out)
            return out

        kind.__call__ = call  # Python looks special methods up in the class

    def taken(self) -> dict[str, np.ndarray]:
        return {name: np.array(value.astype(mx.float32)).reshape(-1) for name, value in self._seen.items()}
