"""Dead letters as text. Pure.

The content of a dead letter is untrusted, its headers included, so all of it goes through
`printable` before it reaches a terminal.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from nextclick.services.dlq.dead_letters import DeadLetter
from nextclick.shared.runtime import masking

COLUMNS = ("position", "time", "reason", "error", "key", "preview")
"""The columns of the table on a terminal; `row` has more."""


def printable(raw: bytes | str) -> str:
    """Decode and escape: one line without control characters."""
    text = raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
    return masking.printable(text)


def row(dead_letter: DeadLetter) -> dict[str, Any]:
    """A short form of a dead letter, for `dlq list`; missing values are None."""
    key, value = dead_letter.message.key, dead_letter.message.value or b""
    return {
        "position": dead_letter.position,
        "time": _time(dead_letter),
        "reason": dead_letter.reason,
        "error": _short(dead_letter.error, 60),
        "from": _short(dead_letter.origin, 60),
        "key": None if key is None else _short(key, 24),
        "bytes": len(value),
        "redriven": dead_letter.redriven,
        "preview": _short(value, 60),
    }


def page(dead_letter: DeadLetter) -> str:
    """The complete dead letter, for `dlq show`."""
    key, value = dead_letter.message.key, dead_letter.message.value
    lines = [
        f"position  {dead_letter.position}",
        f"reason    {dead_letter.reason}",
        f"error     {printable(dead_letter.error)}",
        f"from      {printable(dead_letter.origin)}",
        f"time      {_time(dead_letter) or '–'}",
        f"redriven  {dead_letter.redriven}",
        f"key       {'–' if key is None else printable(key)}",
        f"bytes     {len(value or b''):,}" + (" (cut)" if dead_letter.cut else ""),
        "headers",
        *(
            f"  {printable(name)}: {printable(text or b'')}"
            for name, text in dead_letter.message.headers
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


def _time(dead_letter: DeadLetter) -> str | None:
    if dead_letter.time_ms is None:
        return None
    return f"{datetime.fromtimestamp(dead_letter.time_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _short(raw: bytes, length: int) -> str:
    text = printable(raw[: 4 * length + 4])  # a character has at most four bytes
    return text if len(text) <= length else text[: length - 1] + "…"
