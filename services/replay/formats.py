"""Readers of click log formats; each yields rows of (line, user, item, time) as text.

csv           a header; `,` `;` tab or `|` between the columns
jsonl         one object per line
parquet       columns
sessions      one session per line: item ids separated by blanks, no users and no times
rsc15         RecSys Challenge 2015: `session,ISO time,item,category` without a header, or a
              table `SessionId ItemId Time` (unix seconds)
retailrocket  events.csv: `timestamp,visitorid,event,itemid,transactionid`; its views
diginetica    train-item-views.csv: `sessionId;userId;itemId;timeframe;eventdate`
otto          one session per line, `{"session", "events": [{"aid", "ts", "type"}]}`; its clicks
movielens     ratings.csv, ratings.dat (`::`) or u.data: `user item rating seconds`
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from nextclick.services.replay.lines import Line
from nextclick.shared.data_problems import Problems
from nextclick.shared.errors import ConfigurationError

FORMATS = (
    "parquet", "csv", "jsonl", "sessions", "rsc15", "retailrocket", "diginetica", "otto",
    "movielens",
)  # fmt: skip
ROLES = ("user", "item", "time")
_COMMON_NAMES = {
    "user": ("user_id", "userid", "user", "visitorid", "visitor_id", "session_id", "sessionid",
             "session", "customer_id"),
    "item": ("item_id", "itemid", "item", "product_id", "productid", "movieid", "aid", "sku"),
    "time": ("timestamp", "time", "ts", "event_time", "created_at", "datetime", "date"),
}  # fmt: skip
"""Role → common names of its column, in lower case; the first that exists is taken."""


class Row(NamedTuple):
    """A click as text, with its line number."""

    line: int
    user: str
    item: str
    time: str


Reader = Callable[[Iterable[Line], str, Problems], Iterator[Row]]


def columns_of(names: Sequence[str], mapping: Mapping[str, str], file: str) -> list[str]:
    """The names of the user, item and time columns: by the mapping, else by common names.

    Raises ConfigurationError that lists the columns of the file if one is missing.
    """
    found = []
    for role in ROLES:
        if role in mapping:
            if mapping[role] not in names:
                raise ConfigurationError(
                    f"{file} has no column {mapping[role]!r} (--map {role}=…); "
                    f"it has {', '.join(names)}"
                )
            found.append(mapping[role])
            continue
        by_name = {name.strip().lower(): name for name in reversed(names)}
        common = [by_name[name] for name in _COMMON_NAMES[role] if name in by_name]
        if not common:
            raise ConfigurationError(
                f"{file}: which column is the {role}? Use --map {role}=COLUMN; "
                f"it has {', '.join(names)}"
            )
        found.append(common[0])
    return found


def detect(lines: Sequence[Line]) -> str:
    """Detect the format from the first lines of a text file.

    Raises ConfigurationError if no format fits, or two do.
    """
    first = lines[0].text
    if first.lstrip().startswith("{"):
        try:
            keys = json.loads(first).keys()
        except (ValueError, AttributeError):
            return "jsonl"
        return "otto" if {"session", "events"} <= keys else "jsonl"
    names = {name.strip().strip('"').lower() for name in _split(first, _delimiter(first))}
    if {"timestamp", "visitorid", "event", "itemid"} <= names:
        return "retailrocket"
    if {"sessionid", "itemid", "timeframe", "eventdate"} <= names:
        return "diginetica"
    if {"userid", "movieid", "timestamp"} <= names:
        return "movielens"
    if {"sessionid", "itemid", "time"} == names:
        return "rsc15"
    if "::" in first and len(first.split("::")) == 4:
        return "movielens"
    cells = first.split(",")
    if len(cells) == 4 and cells[0].isdigit() and _is_time(cells[1]):
        return "rsc15"
    tabs = first.split("\t")
    if len(tabs) == 4 and all(cell.strip().isdigit() for cell in tabs):
        return "movielens"
    if _delimiter(first) != " " and len(names) > 2:
        return "csv"
    if all(_delimiter(line.text) == " " for line in lines):
        if _has_columns(first.split()):
            raise ConfigurationError(
                f"is this one session per line, or a table? Its first line is {first[:80]!r}; use "
                "--format sessions or --format csv"
            )
        return "sessions"
    raise ConfigurationError(
        f"which format is this? Its first line is {first[:80]!r}; use --format "
        + ", ".join(FORMATS)
    )


def csv_rows(
    lines: Iterable[Line], file: str, problems: Problems, mapping: Mapping[str, str]
) -> Iterator[Row]:
    """Read a table with a header."""
    rows = _cells(lines, file, problems)
    header = next(rows, None)
    if header is None:
        return
    names = [name.strip() for name in header[1]]
    places = [names.index(name) for name in columns_of(names, mapping, file)]
    yield from _rows_of_columns(rows, places, len(names), file, problems)


def jsonl_rows(
    lines: Iterable[Line], file: str, problems: Problems, mapping: Mapping[str, str]
) -> Iterator[Row]:
    """Read one JSON object per line."""
    columns: list[str] | None = None
    for line, found in _objects(lines, file, problems):
        if columns is None:
            columns = columns_of(list(found), mapping, file)
        values = [found.get(column) for column in columns]
        if any(value is None or isinstance(value, bool | dict | list) for value in values):
            problems.add(file, "line without a user, an item or a time", "left out", line)
            continue
        yield Row(line, *map(str, values))


def session_rows(lines: Iterable[Line], file: str, problems: Problems) -> Iterator[Row]:
    """Read one session per line, with invented users and times.

    Each line is one user, named after file and line, so that two files, such as a training and a
    test set, share no user. The first session begins in 2020, each one an hour after the one
    before; clicks are one second apart.
    """
    begins = 1_577_836_800
    name = file.removesuffix(".gz").removesuffix(".zst")[:100]
    for line in lines:
        for place, item in enumerate(line.text.split()):
            yield Row(line.number, f"{name}:{line.number}", item, str(begins + place))
        begins += 3600


def rsc15_rows(lines: Iterable[Line], file: str, problems: Problems) -> Iterator[Row]:
    """Read the original file, or the table that GRU4Rec's tools write."""
    rows = _cells(lines, file, problems)
    first = next(rows, None)
    if first is None:
        return
    if "SessionId" in first[1]:
        names = first[1]
        places = _column_indices(names, ["SessionId", "ItemId", "Time"], file)
        yield from _rows_of_columns(rows, places, len(names), file, problems)
    else:
        yield from _rows_of_columns(itertools.chain([first], rows), [0, 2, 1], 4, file, problems)


def retailrocket_rows(lines: Iterable[Line], file: str, problems: Problems) -> Iterator[Row]:
    """Read the views; events of other kinds (carts, purchases) are skipped."""
    rows = _cells(lines, file, problems)
    header = next(rows, None)
    if header is None:
        return
    names = header[1]
    places = _column_indices(names, ["visitorid", "itemid", "timestamp"], file)
    (kind,) = _column_indices(names, ["event"], file)
    views = ((line, cells) for line, cells in rows if cells[kind : kind + 1] == ["view"])
    yield from _rows_of_columns(views, places, len(names), file, problems)


def diginetica_rows(lines: Iterable[Line], file: str, problems: Problems) -> Iterator[Row]:
    """Read item views; `timeframe` is ms since the session's first query, `eventdate` its day."""
    rows = _cells(lines, file, problems)
    header = next(rows, None)
    if header is None:
        return
    names = header[1]
    wanted = ["sessionId", "itemId", "timeframe", "eventdate"]
    session, item, frame, date = _column_indices(names, wanted, file)
    for line, cells in rows:
        try:
            day = datetime.fromisoformat(cells[date]).replace(tzinfo=UTC)
            millis = int(day.timestamp() * 1000) + int(cells[frame])
            yield Row(line, cells[session], cells[item], str(millis))
        except (ValueError, IndexError):
            problems.add(file, "line without a date and a time frame", "left out", line)


def otto_rows(lines: Iterable[Line], file: str, problems: Problems) -> Iterator[Row]:
    """Read the clicks; events of other kinds (carts, orders) are skipped."""
    for line, found in _objects(lines, file, problems):
        try:
            for event in found["events"]:
                if event["type"] == "clicks":
                    yield Row(line, str(found["session"]), str(event["aid"]), str(event["ts"]))
        except (KeyError, TypeError):
            problems.add(file, "line that is not an OTTO session", "left out", line)


def movielens_rows(lines: Iterable[Line], file: str, problems: Problems) -> Iterator[Row]:
    """Read ratings; each counts as a click."""
    for line in lines:
        delimiter = "::" if "::" in line.text else "\t" if "\t" in line.text else ","
        cells = line.text.split(delimiter)
        if cells[0].strip('"').lower() == "userid":
            continue
        if len(cells) != 4:
            problems.add(file, "line without four cells", "left out", line.number)
            continue
        yield Row(line.number, cells[0], cells[1], cells[3].strip())


TEXT_READERS: dict[str, Reader] = {
    "sessions": session_rows,
    "rsc15": rsc15_rows,
    "retailrocket": retailrocket_rows,
    "diginetica": diginetica_rows,
    "otto": otto_rows,
    "movielens": movielens_rows,
}
TIME_UNITS = {
    "sessions": "s", "retailrocket": "ms", "diginetica": "ms", "otto": "ms", "movielens": "s",
}  # fmt: skip
"""Formats with a fixed time unit; for others it is detected from the first timestamp."""


def _column_indices(names: Sequence[str], wanted: Sequence[str], file: str) -> list[int]:
    for name in wanted:
        if name not in names:
            raise ConfigurationError(f"{file} has no column {name}; it has {', '.join(names)}")
    return [names.index(name) for name in wanted]


def _delimiter(line: str) -> str:
    counts = {delimiter: line.count(delimiter) for delimiter in ",;\t|"}
    best = max(counts, key=lambda delimiter: counts[delimiter])
    return best if counts[best] else " "


def _split(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _has_columns(names: Sequence[str]) -> bool:
    known = {name.lower() for name in names}
    return all(known & set(common) for common in _COMMON_NAMES.values())


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _cells(lines: Iterable[Line], file: str, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """Split lines at the delimiter of the first line; a line break within a cell is a problem."""
    delimiter = None
    for line in lines:
        delimiter = delimiter or _delimiter(line.text)
        if '"' not in line.text:
            yield line.number, line.text.split(delimiter)
            continue
        try:
            yield line.number, next(csv.reader([line.text], delimiter=delimiter, strict=True))
        except csv.Error:
            problems.add(file, "line with an open quote", "left out", line.number)


def _rows_of_columns(
    rows: Iterable[tuple[int, list[str]]],
    places: Sequence[int],
    width: int,
    file: str,
    problems: Problems,
) -> Iterator[Row]:
    user, item, time = places
    for line, cells in rows:
        if len(cells) != width:
            problems.add(file, f"line without {width} cells", "left out", line)
            continue
        yield Row(line, cells[user].strip(), cells[item].strip(), cells[time].strip())


def _objects(
    lines: Iterable[Line], file: str, problems: Problems
) -> Iterator[tuple[int, dict[str, Any]]]:
    for line in lines:
        try:
            found = json.loads(line.text)
        except (ValueError, RecursionError):
            problems.add(file, "line that is not JSON", "left out", line.number)
            continue
        if isinstance(found, dict):
            yield line.number, found
        else:
            problems.add(file, "line that is not a JSON object", "left out", line.number)
