"""Flaws found in a data set: counted, with the line numbers of the first few. Pure."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field

from nextclick.shared.schemas import MAX_ID_LENGTH

MAX_PLACES = 5
"""Places recorded per problem; further ones are only counted."""


@dataclass
class Problem:
    """One kind of flaw in one file."""

    file: str
    what: str
    consequence: str
    """What was done about it, for example "skipped"."""
    count: int = 0
    first: list[int] = field(default_factory=list)
    """Line or row numbers of the first few, counted from 1."""
    more: bool = False
    """Whether there are more such lines than `first` holds."""

    def __str__(self) -> str:
        """Count, flaw, places and consequence on one line."""
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
            if len(problem.first) < MAX_PLACES:
                problem.first.append(place)
            else:
                problem.more = True

    def listed(self) -> list[Problem]:
        """All problems, in the order in which they were first found."""
        return list(self._found.values())


def invalid_item_id_reason(item_id: str) -> str | None:
    """Why the topic `clicks` would refuse an item id; None if it would not.

    Ids with control characters are invalid here, too: in a file they are a sign of damage.
    """
    if not item_id:
        return "empty item id"
    if len(item_id) > MAX_ID_LENGTH:
        return f"item id of more than {MAX_ID_LENGTH} characters"
    if not item_id.isprintable():
        kinds = {unicodedata.category(c) for c in item_id}
        if "Cc" in kinds:
            return "item id with a control character"
        if "Cs" in kinds:  # JSON can encode it, UTF-8 cannot
            return "item id with half a surrogate pair"
    return None
