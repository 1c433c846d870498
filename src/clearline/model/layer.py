"""What every layer offers: the weights it needs and the state it keeps, under dotted paths."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from clearline.ops import StateSpec, WeightSpec


class Layer(Protocol):
    """A part of the model: names are relative, the owner prefixes them with the path it gives the part."""

    def weights(self) -> Iterator[WeightSpec]: ...
    def state(self, batch: int) -> Iterator[StateSpec]: ...


def weights_at(path: str, layer: Layer) -> Iterator[WeightSpec]:
    """The layer's weights below `path`."""
    return (WeightSpec(f"{path}.{spec.name}", spec.shape) for spec in layer.weights())


def state_at(path: str, layer: Layer, batch: int) -> Iterator[StateSpec]:
    """The layer's state leaves below `path`."""
    return (replace(spec, path=f"{path}.{spec.path}") for spec in layer.state(batch))
