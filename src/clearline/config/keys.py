"""Reading configuration mappings key by key, so that nothing in them is silently ignored."""

from collections.abc import Mapping
from typing import Any

from clearline.errors import ConfigError

MISSING = object()


class Keys:
    """A mapping whose keys are taken one by one; what is left over at the end is an error."""

    def __init__(self, raw: Any, where: str) -> None:
        if not isinstance(raw, Mapping):
            raise ConfigError(f"{where}: expected an object with keys, got {type(raw).__name__}")
        self.raw = raw
        self.where = where
        self._left = dict(raw)

    def take(self, name: str, default: Any = MISSING) -> Any:
        if name in self._left:
            return self._left.pop(name)
        if default is MISSING and name not in self.raw:
            raise ConfigError(f"{self.where}: the key {name!r} is missing")
        return self.raw.get(name, default)

    def whole(self, name: str, default: Any = MISSING, low: int = 0, high: int = 1 << 24) -> int:
        """A whole number in low..high."""
        value = self.take(name, default)
        if type(value) is not int or not low <= value <= high:
            raise ConfigError(f"{self.where}: {name} is {value!r}; expected a whole number in {low}..{high}")
        return value

    def whole_or_none(self, name: str, low: int = 1) -> int | None:
        return None if self.take(name, None) is None else self.whole(name, low=low)

    def wholes(self, name: str, default: Any = MISSING, low: int = 0) -> tuple[int, ...]:
        """A list of whole numbers."""
        values = self.take(name, default)
        if not isinstance(values, list | tuple) or not all(type(v) is int and low <= v <= 1 << 24 for v in values):
            raise ConfigError(f"{self.where}: {name} is {values!r}; expected a list of whole numbers from {low}")
        return tuple(values)

    def number(self, name: str, default: Any = MISSING, low: float = 0.0, high: float = 1e9) -> float:
        """A finite number in low..high."""
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ConfigError(f"{self.where}: {name} is {value!r}; expected a number in {low:g}..{high:g}")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.where}: {name} is {value!r}; expected true or false")
        return value

    def section(self, name: str, default: Any = MISSING) -> "Keys":
        """A nested object; null counts as the default, where there is one."""
        value = self.take(name, default)
        if value is None and default is not MISSING:
            value = default
        return Keys(value, f"{self.where} {name}")

    def text(self, name: str, default: Any = MISSING) -> Any:
        value = self.take(name, default)
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{self.where}: {name} is {value!r}; expected a string")
        return value

    def expect(self, name: str, value: Any) -> None:
        """The key may be absent, or must hold the one value that is supported."""
        found = self.take(name, value)
        if found != value:
            raise ConfigError(f"{self.where}: {name} is {found!r}; only {value!r} is supported")

    def ignore(self, *names: str) -> None:
        """Keys that matter for training or memory only."""
        for name in names:
            self._left.pop(name, None)

    def below(self, prefix: str) -> "Keys":
        """Every key that starts with `prefix`, without it."""
        chosen = {name: self._left.pop(name) for name in list(self._left) if name.startswith(prefix)}
        return Keys({name.removeprefix(prefix): value for name, value in chosen.items()}, f"{self.where} {prefix}*")

    def rest(self) -> dict[str, Any]:
        return dict(self._left)

    def done(self) -> None:
        if self._left:
            raise ConfigError(f"{self.where}: unknown keys {', '.join(sorted(self._left))}; nothing here knows what they change")
