"""A model that clients may choose by its name."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from clearline.config import GenerationConfig
from clearline.errors import ConfigError
from clearline.generate.lanes import Lanes
from clearline.server.conversation import Engine


@dataclass(frozen=True)
class Offer:
    """open_engine makes the state of a new conversation; defaults are its settings unless a client says otherwise, and preset
    is what they are called, if anything. frame_size in samples, sample_rate in Hz: those of the codec. batch: the lanes that step
    its conversations together, if any do."""

    name: str
    open_engine: Callable[[GenerationConfig], Engine]
    defaults: GenerationConfig
    frame_size: int
    sample_rate: int
    preset: str | None = None
    batch: Lanes | None = None


def by_name(offers: Iterable[Offer]) -> dict[str, Offer]:
    """The offers of one server, in their order. Raises ConfigError when they cannot be told apart, or do not sound alike."""
    named: dict[str, Offer] = {}
    for offer in offers:
        if offer.name in named:
            raise ConfigError(f"two models are called {offer.name!r}: give one of them another name, as --model NAME={offer.name}")
        named[offer.name] = offer
    formats = {(offer.sample_rate, offer.frame_size) for offer in named.values()}
    if len(formats) > 1:
        known = "; ".join(f"{offer.name} {offer.sample_rate} Hz, {offer.frame_size} samples" for offer in named.values())
        raise ConfigError(f"the models of one server must agree in their codec's rate and frame: {known}")
    return named
