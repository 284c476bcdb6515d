"""The values that a setting takes, declared beside its default, and checked whenever a configuration is made."""

import dataclasses
import numbers
import typing
from dataclasses import dataclass, field
from typing import Any

from mvgenvs.errors import UserError

MANY = 10**9  # of what only patience limits
WIDEST = 4096  # channels of a layer
COUNTS = {1: "one", 2: "two", 3: "three"}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, and how many of them if the setting is a tuple."""

    low: int | float
    high: int | float
    above: bool = False  # whether `low` itself is excluded
    below: bool = False  # whether `high` is
    multiple: int = 1
    count: tuple[int, int] = (0, 64)

    def has(self, value: Any) -> bool:
        """Whether a number is within; NaN is not."""
        low_fits = value > self.low if self.above else value >= self.low
        high_fits = value < self.high if self.below else value <= self.high
        return low_fits and high_fits and (self.multiple == 1 or value % self.multiple == 0)

    def describe(self) -> str:
        """The span in words, such as "above 0 and at most 8"."""
        low = f"{'above' if self.above else 'of at least'} {self.low:g}"
        high = f"{'below' if self.below else 'at most'} {self.high:g}"
        return f"{low} and {high}" + (f", a multiple of {self.multiple}" if self.multiple > 1 else "")


def ranged(default: Any, low: int | float, high: int | float, **options: Any) -> Any:
    """A dataclass field that takes numbers; the options are those of `Range`."""
    return field(default=default, metadata={"range": Range(low, high, **options)})


def named(default: str, *names: str) -> Any:
    """A dataclass field that takes one of some names."""
    return field(default=default, metadata={"names": names})


class Checked:
    """A dataclass whose fields are checked when it is made: types, ranges, names. Raises `UserError`."""

    def __post_init__(self) -> None:
        section = type(self).__name__.removesuffix("Config").removesuffix("Options").lower()
        hints = typing.get_type_hints(type(self))
        fields: Any = dataclasses.fields(self)  # type: ignore[arg-type]
        for each in fields:
            check(each, hints[each.name], getattr(self, each.name), f"{section}.{each.name}")


def check(each: "dataclasses.Field[Any]", hint: Any, value: Any, name: str) -> None:
    """Raises `UserError` unless the value is one that the field takes; `name` is what users call it."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, typing.cast(type, hint)):
            raise UserError(f"'{name}' must hold fields, not {value!r:.80}")
        return
    items = value if typing.get_origin(hint) is tuple else (value,)
    kind = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
    if not isinstance(items, tuple) or not all(_is_a(kind, item) for item in items):
        expected = f"a tuple of {kind.__name__}" if kind is not hint else kind.__name__
        raise UserError(f"setting '{name}' must be {expected}, not {value!r:.80}")
    if (names := each.metadata.get("names")) and value not in names:
        raise UserError(f"setting '{name}' must be {', '.join(names[:-1])} or {names[-1]}, not '{value!s:.80}'")
    span: Range | None = each.metadata.get("range")
    if span is None:
        return
    low, high = span.count
    if kind is not hint and not low <= len(items) <= high:
        count = COUNTS.get(low, str(low)) if low == high else f"{low} to {high}"
        raise UserError(f"setting '{name}' must be {count} numbers, not {len(items)}")
    if not all(span.has(item) for item in items):
        noun = "a whole number" if kind is int else "a number"
        if kind is not hint:
            noun = f"{COUNTS.get(low, str(low))} numbers" if low == high else "numbers"
        shown = list(value) if kind is not hint else value
        raise UserError(f"setting '{name}' must be {noun} {span.describe()}, not {shown!r:.80}")


def _is_a(kind: type, value: Any) -> bool:
    if kind in (int, float):
        wanted = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, wanted) and not isinstance(value, bool)
    return isinstance(value, kind)
