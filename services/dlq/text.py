"""Dead letters as text. Pure.

The content of a dead letter is untrusted, its headers included, so all of it goes through
`printable` before it reaches a terminal.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from nextclick.services.dlq.dead_letters import DeadLetter
from nextclick.shared.runtime import masking

COLUMNS = ("place", "time", "reason", "error", "key", "begins")
"""The columns of the table on a terminal; `row` has more."""


def printable(raw: bytes | str) -> str:
    """Decode and escape: one line without control characters."""
    text = raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
    return masking.printable(text)


def row(letter: DeadLetter) -> dict[str, Any]:
    """A short form of a dead letter, for `dlq list`; missing values are None."""
    key, value = letter.message.key, letter.message.value or b""
    return {
        "place": letter.place,
        "time": _time(letter),
        "reason": letter.reason,
        "error": _short(letter.error, 60),
        "from": _short(letter.origin, 60),
        "key": None if key is None else _short(key, 24),
        "bytes": len(value),
        "redriven": letter.redriven,
        "begins": _short(value, 60),
    }


def page(letter: DeadLetter) -> str:
    """The complete dead letter, for `dlq show`."""
    key, value = letter.message.key, letter.message.value
    lines = [
        f"place     {letter.place}",
        f"reason    {letter.reason}",
        f"error     {printable(letter.error)}",
        f"from      {printable(letter.origin)}",
        f"time      {_time(letter) or '–'}",
        f"redriven  {letter.redriven}",
        f"key       {'–' if key is None else printable(key)}",
        f"bytes     {len(value or b''):,}" + (" (cut)" if letter.cut else ""),
        "headers",
        *(
            f"  {printable(name)}: {printable(text or b'')}"
            for name, text in letter.message.headers
        ),
        "value",
        *(f"  {line}" for line in _value(value)),
    ]
    return "\n".join(lines)


def _value(value: bytes | None) -> list[str]:
    """Lines of a value: the text, or a hex dump if it is not UTF-8."""
    if not value:
        return ["(none)" if value is None else "(empty)"]
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return [f"{at:06x}  {value[at : at + 16].hex(' ')}" for at in range(0, len(value), 16)]
    return [printable(line) for line in text.split("\n")]


def _time(letter: DeadLetter) -> str | None:
    if letter.time_ms is None:
        return None
    return f"{datetime.fromtimestamp(letter.time_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _short(raw: bytes, length: int) -> str:
    text = printable(raw[: 4 * length + 4])  # a character has at most four bytes
    return text if len(text) <= length else text[: length - 1] + "…"
