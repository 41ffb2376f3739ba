"""The shop's catalogue: a CSV file with the columns item_id and category, and perhaps title.

Other columns are ignored. An item with several categories has several lines.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nextclick.shared.errors import ConfigurationError

Categories = Mapping[str, frozenset[str]]
"""Category → its item ids."""

_COLUMNS = ("item_id", "category")


@dataclass(frozen=True)
class Catalogue:
    """What a catalogue says."""

    categories: Categories = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    """Item id → its name for people; only items that have one."""


def read_catalogue(path: Path) -> Catalogue:
    """Read a catalogue.

    Raises ConfigurationError if the file cannot be read, lacks a column, or a line lacks a value.
    """
    items: defaultdict[str, set[str]] = defaultdict(set)
    titles: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file, strict=True)
            for column in _COLUMNS:
                if column not in (lines.fieldnames or ()):
                    raise ConfigurationError(
                        f"{path} has no column {column} in its first line; "
                        "a catalogue begins with item_id,category"
                    )
            for line in lines:
                if not (line["item_id"] and line["category"]):
                    raise ConfigurationError(
                        f"{path}, line {lines.line_num}: an item_id or a category is missing"
                    )
                items[line["category"]].add(line["item_id"])
                if title := line.get("title"):
                    titles[line["item_id"]] = title
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror})") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no CSV file in UTF-8 ({error})") from None
    return Catalogue({category: frozenset(ids) for category, ids in items.items()}, titles)
