"""Session state of the Quix Streams worker, with the rules of shared/redis/sessions.py. Pure."""

from __future__ import annotations

from nextclick.shared.redis import ENTRIES_KEPT
from nextclick.shared.windows import HISTORY_LENGTH, starts_new_session

Entry = list[str | int]
"""[event_id, item_id, session clock in ms, length of its history]; stored as JSON."""


def append(
    entries: list[Entry], event_id: str, item_id: str, timestamp: int, gap_ms: int
) -> list[str]:
    """Append a click to a user's entries, in place; returns its history, oldest first.

    A click that is already among them is not appended again, and gets the same history.
    """
    for position in range(len(entries) - 1, -1, -1):
        if entries[position][0] == event_id:
            return _history(entries, position)
    length, clock = 1, timestamp
    if entries:
        _, _, last_clock, last_length = entries[-1]
        if not starts_new_session(int(last_clock), timestamp, gap_ms):
            length = min(int(last_length) + 1, HISTORY_LENGTH)
        clock = max(int(last_clock), timestamp)
    entries.append([event_id, item_id, clock, length])
    del entries[:-ENTRIES_KEPT]
    return _history(entries, len(entries) - 1)


def _history(entries: list[Entry], position: int) -> list[str]:
    first = max(0, position - int(entries[position][3]) + 1)
    return [str(entry[1]) for entry in entries[first : position + 1]]
