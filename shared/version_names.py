"""Names of what has answered: a model version, or one with a delta, `<version>+<number>`. Pure."""

from __future__ import annotations

_SEPARATOR = "+"


def name_of(base: str, number: int) -> str:
    """The name of a version with its delta of that number."""
    return f"{base}{_SEPARATOR}{number}"


def base_of(name: str) -> str:
    """The model version in a name with or without a delta."""
    return name.partition(_SEPARATOR)[0]


def number_of(name: str) -> int | None:
    """The number of the delta in a name; None if it holds none."""
    _, separator, number = name.partition(_SEPARATOR)
    return int(number) if separator and number.isdecimal() and number.isascii() else None
