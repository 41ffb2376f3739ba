"""What was wrong with a data set: counted, with the places of the first few. Pure."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field

from nextclick.shared.schemas import MAX_ID_LENGTH

SHOWN = 5
"""Places that are named; the rest is only counted."""


@dataclass
class Problem:
    """One kind of flaw in one file."""

    file: str
    what: str
    consequence: str
    """What was done about it, and whether it costs the methods anything."""
    count: int = 0
    first: list[int] = field(default_factory=list)
    """Where the first few are: line or row numbers, counted from 1."""
    more: bool = False
    """There are such flaws in other lines, too."""

    def __str__(self) -> str:
        """One line for a person."""
        places = ", ".join(map(str, self.first)) + (", …" if self.more else "")
        where = f"{self.file}, line {places}" if self.first else self.file
        return f"{self.count:,} × {self.what} ({where}): {self.consequence}"


class Problems:
    """Collects problems in the order in which they are first met."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Problem] = {}

    def add(self, file: str, what: str, consequence: str, place: int | None = None) -> None:
        """Count one flaw; `place` is its line or row, counted from 1."""
        problem = self._found.setdefault((file, what), Problem(file, what, consequence))
        problem.count += 1
        if place is not None and place not in problem.first:
            if len(problem.first) < SHOWN:
                problem.first.append(place)
            else:
                problem.more = True

    def listed(self) -> list[Problem]:
        """All that was found."""
        return list(self._found.values())


def why_unusable(item_id: str) -> str | None:
    """Why an item id cannot be one, by the rules of the topic `clicks`; None if it can.

    Control characters are refused too: in a file they are a sign of damage.
    """
    if not item_id:
        return "empty item id"
    if len(item_id) > MAX_ID_LENGTH:
        return f"item id of more than {MAX_ID_LENGTH} characters"
    if not item_id.isprintable():
        kinds = {unicodedata.category(c) for c in item_id}
        if "Cc" in kinds:
            return "item id with a control character"
        if "Cs" in kinds:  # JSON can say it, UTF-8 cannot
            return "item id with half a surrogate pair"
    return None
