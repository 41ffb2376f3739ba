"""What the shop says of its items: a CSV file with the columns item_id and category.

Other columns are ignored. An item may stand on several lines, and then it is of several categories.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from nextclick.shared.errors import ConfigurationError

Categories = Mapping[str, frozenset[str]]
"""The item ids of each category."""

_COLUMNS = ("item_id", "category")


def read_categories(path: Path) -> Categories:
    """Read the file.

    Raises ConfigurationError if it cannot be read, lacks a column, or a line lacks a value.
    """
    items: defaultdict[str, set[str]] = defaultdict(set)
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
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror})") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no CSV file in UTF-8 ({error})") from None
    return {category: frozenset(ids) for category, ids in items.items()}
