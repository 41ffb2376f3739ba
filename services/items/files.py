"""Reads files of items: CSV with a header, JSON Lines, Parquet; packed and remote, as of clicks.

Columns have the names of the fields of `Item`; the id may also be called as in files of clicks
(`product_id`, `sku`, …). In CSV `categories` and `tags` are separated by `|`, and empty cells are
left out. A column `category` is one category of an item with several lines. Other columns are kept
as attributes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from nextclick.services.replay.formats import Line, candidates, json_objects, split_lines
from nextclick.services.replay.lines import read_lines
from nextclick.services.replay.sources import find_sources
from nextclick.shared.data_problems import Problems, invalid_item_id_reason
from nextclick.shared.errors import BadItem, ConfigurationError
from nextclick.shared.items import item_message
from nextclick.shared.schemas import Item

_PARQUET = b"PAR1"
_LISTS = ("categories", "tags")
_TRUE, _FALSE = ("true", "1", "yes", "t", "y"), ("false", "0", "no", "f", "n")
Attributes = dict[str, Any]


def read_item_files(data: Sequence[str], problems: Problems) -> dict[str, Item]:
    """Item id → item, of the files that the texts name (sources.py); the last line of an id counts.

    What is no item is left out and a problem. Raises ConfigurationError if a file cannot be read,
    or if no column is the id.
    """
    items: dict[str, Item] = {}
    for source in find_sources(data):
        with source.open() as file:
            for line, item in _items(file, source.name, problems):
                try:
                    item_message("", item.item_id, item)
                except BadItem as error:
                    problems.add(source.name, str(error), "left out", line)
                else:
                    items[item.item_id] = _united(items.get(item.item_id), item)
    return items


def _items(file: BinaryIO, name: str, problems: Problems) -> Iterator[tuple[int, Item]]:
    for line, row in _rows(file, name, problems):
        found = candidates("item", [*row], {})
        item_id = str(row.pop(found[0])) if found else ""
        if reason := invalid_item_id_reason(item_id):
            problems.add(name, reason, "left out", line)
            continue
        if isinstance(category := row.pop("category", None), str):
            row.setdefault("categories", [category])
        try:
            yield line, Item(**row | {"item_id": item_id})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            problems.add(name, f"{field}: {first['msg']}", "left out", line)


def _united(before: Item | None, item: Item) -> Item:
    """An item of several lines: the last line, with the categories of all."""
    if before is None or not before.categories:
        return item
    categories = list(dict.fromkeys([*before.categories, *item.categories]))
    return item.model_copy(update={"categories": categories})


def _rows(file: BinaryIO, name: str, problems: Problems) -> Iterator[tuple[int, Attributes]]:
    is_parquet = file.read(len(_PARQUET)) == _PARQUET
    file.seek(0)
    if is_parquet:
        return _parquet_rows(file, name)
    lines = read_lines(file, name, "utf-8", problems)
    first = next(lines, None)
    if first is None:
        raise ConfigurationError(f"{name} is empty")
    every: Iterable[Line] = itertools.chain([first], lines)
    if first.text.lstrip().startswith("{"):
        return json_objects(every, name, problems)
    return _csv_rows(every, name, problems)


def _csv_rows(
    lines: Iterable[Line], name: str, problems: Problems
) -> Iterator[tuple[int, Attributes]]:
    rows = split_lines(lines, name, problems)
    header = [column.strip() for column in next(rows)[1]]
    _check_columns(header, name)
    for line, cells in rows:
        if len(cells) != len(header):
            problems.add(name, f"line without {len(header)} cells", "left out", line)
            continue
        texts = {c: t.strip() for c, t in zip(header, cells, strict=True) if t.strip()}
        yield line, {c: _PARSE.get(c, str)(text) for c, text in texts.items()}


def _parquet_rows(file: BinaryIO, name: str) -> Iterator[tuple[int, Attributes]]:
    try:
        table = pq.ParquetFile(file)
        _check_columns(table.schema_arrow.names, name)
        line = 0
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                line += 1
                yield line, {c: _plain(value) for c, value in row.items() if not _is_none(value)}
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"{name} cannot be read as Parquet ({reason})") from None


def _check_columns(names: Sequence[str], file: str) -> None:
    if not candidates("item", names, {}):
        raise ConfigurationError(
            f"{file} has no column item_id; it begins with {', '.join(names)[:200]}"
        )


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # the field says that it is none


def _boolean(text: str) -> bool | str:
    return True if text.lower() in _TRUE else False if text.lower() in _FALSE else text


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split("|") if name.strip()]


_PARSE: Mapping[str, Callable[[str], Any]] = {
    "price": _number,
    "available": _boolean,
    **dict.fromkeys(_LISTS, _names),
}
"""Column of a CSV file → what makes a value of its text."""
