"""The semantic operations the model is written against, its weights, and its streaming state."""

from clearline.ops.interface import (
    Array,
    Backend,
    InputSpec,
    LazyBackend,
    LazyProgram,
    Ops,
    Program,
    StepFunction,
    as_ops,
    lazy,
)
from clearline.ops.state import Leaf, Ring, State, StateSpec, initial_state
from clearline.ops.weight import Weight, Weights, WeightSpec

__all__ = [
    "Array",
    "Backend",
    "InputSpec",
    "LazyBackend",
    "LazyProgram",
    "Leaf",
    "Ops",
    "Program",
    "Ring",
    "State",
    "StateSpec",
    "StepFunction",
    "Weight",
    "WeightSpec",
    "Weights",
    "as_ops",
    "initial_state",
    "lazy",
]
