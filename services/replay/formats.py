"""Readers of click log formats; each yields rows of (line, user, item, time, type) as text.

csv           `,` `;` tab or `|` between the columns; a header, or --columns
jsonl         one object per line
parquet       columns
sessions      one session per line: item ids separated by blanks, no users and no times
rsc15         RecSys Challenge 2015: `session,ISO time,item,category` without a header, or a
              table `SessionId ItemId Time` (unix seconds)
retailrocket  events.csv: `timestamp,visitorid,event,itemid,transactionid`
diginetica    train-item-views.csv: `sessionId;userId;itemId;timeframe;eventdate`
otto          one session per line, `{"session", "events": [{"aid", "ts", "type"}]}`
movielens     ratings.csv, ratings.dat (`::`) or u.data: `user item rating seconds`
"""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from nextclick.shared.data_problems import Problems
from nextclick.shared.errors import ConfigurationError

FORMATS = (
    "parquet", "csv", "jsonl", "sessions", "rsc15", "retailrocket", "diginetica", "otto",
    "movielens",
)  # fmt: skip
ROLES = ("user", "item", "time", "type", "id")
"""What a column can be: of a user, an item, …, an event id. A file needs the first three."""
_NEEDED = ROLES[:3]
_COMMON_NAMES = {
    "user": ("user_id", "userid", "user", "visitorid", "visitor_id", "session_id", "sessionid",
             "session", "customer_id"),
    "item": ("item_id", "itemid", "item", "product_id", "productid", "movieid", "aid", "sku"),
    "time": ("timestamp", "time", "ts", "event_time", "created_at", "datetime", "date"),
    "type": ("event_type", "eventtype", "event", "behavior", "behaviour", "behavior_type",
             "action"),
    "id": ("event_id", "eventid", "message_id", "messageid"),
}  # fmt: skip
"""Role → common names of its column, in lower case; the first that exists is taken."""


LINES_THAT_DECIDE = 20
"""First lines of jsonl that decide which keys hold what."""
MAX_SESSION = 1000
"""Most clicks of a session in one line."""


class Line(NamedTuple):
    """One line, without its line break; numbers start at 1."""

    number: int
    text: str


class Row(NamedTuple):
    """An event as text, with its line number."""

    line: int
    user: str
    item: str
    time: str
    type: str = ""
    """The event type; empty if the file has none."""
    event_id: str = ""
    """Only to tell of clicks that share one: our own ids are made of the click (`event_id`)."""


Reader = Callable[[Iterable[Line], str, Problems], Iterator[Row]]


def columns_of(names: Sequence[str], mapping: Mapping[str, str], file: str) -> list[str | None]:
    """The column of each of the ROLES: by the mapping, else by common names; None: there is none.

    Raises ConfigurationError that lists the columns of the file if one is missing.
    """
    found: list[str | None] = []
    for role in ROLES:
        wanted = candidates(role, names, mapping)
        if not wanted and role in mapping:
            raise ConfigurationError(
                f"{file} has no column {mapping[role]!r} (--map {role}=…); "
                f"it has {', '.join(names)}"
            )
        if not wanted and role in _NEEDED:
            raise _no_column(file, role, names)
        found.append(wanted[0] if wanted else None)
    return found


def candidates(role: str, names: Sequence[str], mapping: Mapping[str, str]) -> list[str]:
    """The columns that may hold a role, the likeliest first."""
    if role in mapping:
        return [name for name in mapping[role].split("|") if name in names]
    by_name = {name.strip().lower(): name for name in reversed(names)}
    return [by_name[name] for name in _COMMON_NAMES[role] if name in by_name]


def _no_column(file: str, role: str, names: Iterable[str]) -> ConfigurationError:
    return ConfigurationError(
        f"{file}: which column is the {role}? It begins with {', '.join(names)}. If these are "
        f"names, use --map {role}=COLUMN; if they are values, name the columns: "
        "--columns user,item,type,time (any name for the others)"
    )


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
    lines: Iterable[Line],
    file: str,
    problems: Problems,
    mapping: Mapping[str, str],
    columns: Sequence[str] = (),
) -> Iterator[Row]:
    """Read a table with a header, or without one if the names of its columns are given."""
    rows = split_lines(lines, file, problems)
    names = list(columns)
    if not names:
        header = next(rows, None)
        if header is None:
            return
        names = [name.strip() for name in header[1]]
    places = [None if n is None else names.index(n) for n in columns_of(names, mapping, file)]
    yield from _rows_of_columns(rows, places, len(names), file, problems)


def jsonl_rows(
    lines: Iterable[Line], file: str, problems: Problems, mapping: Mapping[str, str]
) -> Iterator[Row]:
    """Read one JSON object per line; each may have other keys.

    mapping: `a.b` is the key b of the object a; `a|b` is a, or b where a is missing or null.
    """
    objects = json_objects(lines, file, problems)
    first = list(itertools.islice(objects, LINES_THAT_DECIDE))
    paths = [_paths(role, [found for _, found in first], mapping) for role in ROLES]
    for role, of_role in zip(_NEEDED, paths, strict=False):
        if not of_role and first:
            raise _no_column(file, role, dict.fromkeys(key for _, one in first for key in one))
    for line, found in itertools.chain(first, objects):
        user, item, time, kind, event_id = (_value_of(found, of_role) for of_role in paths)
        if user is None and any(path in found for path in paths[0]):
            user = ""  # a guest
        if user is None or item is None or time is None:
            problems.add(file, "line without a user, an item or a time", "left out", line)
        else:
            yield Row(line, user, item, time, kind or "", event_id or "")


def _paths(role: str, objects: Sequence[dict[str, Any]], mapping: Mapping[str, str]) -> list[str]:
    """Where the value of a role is: by the mapping, else the common name that most objects have."""
    if role in mapping:
        return mapping[role].split("|")
    counts = Counter(name for found in objects for name in candidates(role, [*found], {}))
    return [name for name, _ in counts.most_common(1)]


def _value_of(found: dict[str, Any], paths: Sequence[str]) -> str | None:
    """The text at the first path that leads to a text or a number."""
    for path in paths:
        value: Any = found
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value)
    return None


def session_rows(lines: Iterable[Line], file: str, problems: Problems) -> Iterator[Row]:
    """Read one session per line, with invented users and times.

    Each line is one user, named after file and line, so that two files, such as a training and a
    test set, share no user. The first session begins in 2020, each one an hour after the one
    before; clicks are one second apart. Nobody clicks MAX_SESSION times: what follows is a bot's.
    """
    begins = 1_577_836_800
    name = file.removesuffix(".gz").removesuffix(".zst")[:100]
    for line in lines:
        items = line.text.split()
        for place, item in enumerate(items[:MAX_SESSION]):
            yield Row(line.number, f"{name}:{line.number}", item, str(begins + place))
        for _ in items[MAX_SESSION:]:
            problems.add(
                file,
                f"click of a bot, after {MAX_SESSION:,} of one session",
                "left out",
                line.number,
            )
        begins += 3600


def rsc15_rows(lines: Iterable[Line], file: str, problems: Problems) -> Iterator[Row]:
    """Read the original file, or the table that GRU4Rec's tools write."""
    rows = split_lines(lines, file, problems)
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
    """Read the events: views, carts and transactions."""
    rows = split_lines(lines, file, problems)
    header = next(rows, None)
    if header is None:
        return
    names = header[1]
    places = _column_indices(names, ["visitorid", "itemid", "timestamp", "event"], file)
    yield from _rows_of_columns(rows, places, len(names), file, problems)


def diginetica_rows(lines: Iterable[Line], file: str, problems: Problems) -> Iterator[Row]:
    """Read item views; `timeframe` is ms since the session's first query, `eventdate` its day."""
    rows = split_lines(lines, file, problems)
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
    """Read the events: clicks, carts and orders."""
    for line, found in json_objects(lines, file, problems):
        try:
            for event in found["events"]:
                session, item, time = found["session"], event["aid"], event["ts"]
                yield Row(line, str(session), str(item), str(time), str(event["type"]))
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
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:  # a cell of more than 128 KiB
        return line.split(delimiter)


def _has_columns(names: Sequence[str]) -> bool:
    known = {name.lower() for name in names}
    return all(known & set(_COMMON_NAMES[role]) for role in _NEEDED)


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def split_lines(
    lines: Iterable[Line], file: str, problems: Problems
) -> Iterator[tuple[int, list[str]]]:
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
    places: Sequence[int | None],
    width: int,
    file: str,
    problems: Problems,
) -> Iterator[Row]:
    for line, cells in rows:
        if len(cells) != width:
            problems.add(file, f"line without {width} cells", "left out", line)
            continue
        yield Row(line, *("" if place is None else cells[place].strip() for place in places))


def json_objects(
    lines: Iterable[Line], file: str, problems: Problems
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read lines as JSON objects, with their line numbers."""
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
