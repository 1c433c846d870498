"""Numbers that JSON does not know."""

from math import isfinite
from typing import Any


def finite(value: Any) -> Any:
    """The same value of dicts, lists and plain things, with null where a number is infinite or none."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not isfinite(value) else value
