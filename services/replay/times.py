"""Parses timestamps of files to epoch milliseconds. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.schemas import LATEST_TIMESTAMP

ToMillis = Callable[[str], int]
"""Text → epoch ms; raises ValueError for an invalid time."""

_PER_MILLISECOND = {"s": 0.001, "ms": 1, "us": 1000, "ns": 1_000_000}
UNITS = (*_PER_MILLISECOND, "iso", "compact")
"""compact: YYYYMMDDhhmmss. As milliseconds such a number would be of a year after 2600."""
_COMPACT = "%Y%m%d%H%M%S"
_ZONES = (" UTC", " GMT", "Z")


def unit_of(text: str) -> str:
    """Guess the unit of a timestamp: one of UNITS.

    The unit of a number follows from its size, correctly for the years 1973 to 5000. Raises
    ValueError for an invalid time, and for a number that is too small, so that one such line at the
    beginning does not decide for a whole file.
    """
    if _is_compact(text):
        return "compact"
    try:
        size = abs(float(text))
    except ValueError:
        _from_iso(text)
        return "iso"
    for unit, least in (("s", 1e8), ("ms", 1e11), ("us", 1e14), ("ns", 1e17)):
        if least <= size < 1000 * least:
            return unit
    raise ValueError(f"{text} is not an epoch time of a year after 1973")


def to_millis(unit: str) -> ToMillis:
    """A function that converts timestamps of a unit to epoch milliseconds.

    Raises ConfigurationError for an unknown unit.
    """
    if unit == "iso":
        return _checked(_from_iso)
    if unit == "compact":
        return _checked(lambda text: _millis(datetime.strptime(text.strip(), _COMPACT)))
    if unit not in _PER_MILLISECOND:
        raise ConfigurationError(f"--time-unit {unit}: use one of {', '.join(UNITS)}")
    divisor = _PER_MILLISECOND[unit]

    def convert(text: str) -> int:
        try:
            return round(int(text) / divisor)  # int first: a float would lose digits
        except ValueError:
            return round(float(text) / divisor)

    return _checked(convert)


def from_format(time_format: str) -> ToMillis:
    """A function that reads times by a format of strptime; UTC if that has no %z."""
    return _checked(lambda text: _millis(datetime.strptime(text.strip(), time_format)))


def _from_iso(text: str) -> int:
    """Parse ISO 8601, also with a blank and `UTC` behind it; UTC if there is no time zone."""
    text = text.strip()
    for zone in _ZONES:
        text = text.removesuffix(zone)
    return _millis(datetime.fromisoformat(text))


def _millis(moment: datetime) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def _is_compact(text: str) -> bool:
    text = text.strip()
    if len(text) != 14 or not text.isdigit():
        return False
    try:
        return 1970 <= datetime.strptime(text, _COMPACT).year <= 2200
    except ValueError:
        return False


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
