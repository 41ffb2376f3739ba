"""Times in files, as epoch milliseconds. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.schemas import LATEST_TIMESTAMP

ToMillis = Callable[[str], int]
"""Raises ValueError for what is no time."""

_PER_MILLISECOND = {"s": 0.001, "ms": 1, "us": 1000, "ns": 1_000_000}
UNITS = (*_PER_MILLISECOND, "iso")


def unit_of(text: str) -> str:
    """Guess the unit by a time of a file: one of UNITS.

    A number is of seconds, milliseconds, … by its size, which is right for the years 1973 to 5000.
    Raises ValueError for what is no time, and for a number too small to tell: one such line at the
    beginning must not decide for a whole file.
    """
    try:
        size = abs(float(text))
    except ValueError:
        _from_iso(text)
        return "iso"
    for unit, least in (("s", 1e8), ("ms", 1e11), ("us", 1e14), ("ns", 1e17)):
        if least <= size < 1000 * least:
            return unit
    raise ValueError(f"{text} is no epoch time of a year after 1973")


def to_millis(unit: str) -> ToMillis:
    """What turns a time of this unit into milliseconds.

    Raises ConfigurationError for a unit that is none.
    """
    if unit == "iso":
        return _checked(_from_iso)
    if unit not in _PER_MILLISECOND:
        raise ConfigurationError(f"--time-unit {unit}: use one of {', '.join(UNITS)}")
    divisor = _PER_MILLISECOND[unit]

    def convert(text: str) -> int:
        try:
            return round(int(text) / divisor)  # exact, also where a float would not be
        except ValueError:
            return round(float(text) / divisor)

    return _checked(convert)


def _from_iso(text: str) -> int:
    """ISO 8601; without a time zone it is UTC."""
    moment = datetime.fromisoformat(text.strip())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def _checked(convert: ToMillis) -> ToMillis:
    def checked(text: str) -> int:
        try:
            millis = convert(text)
        except OverflowError:
            raise ValueError(text) from None
        if not 0 <= millis <= LATEST_TIMESTAMP:
            raise ValueError(text)
        return millis

    return checked
