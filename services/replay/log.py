"""Loads a click log: validates all clicks and sorts them by time, before any is sent.

A log is one file or several (sources.py). All is held in memory: 24 bytes per click, and each id
once. So all problems are known before the first click is sent, and clicks are sent in order of time
even if the files are not sorted.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nextclick.services.replay import formats, times
from nextclick.services.replay.formats import FORMATS, TEXT_READERS, Line, Row
from nextclick.services.replay.lines import read_lines
from nextclick.services.replay.sources import Source, find_sources
from nextclick.shared.data_problems import Problem, Problems, invalid_item_id_reason
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.event_types import weight_of, weights_of
from nextclick.shared.schemas import LATEST_TIMESTAMP

CLICK = "click"
"""The type of an event whose file has no types."""
NO_USER = ("", "null", "nan", "na", "n/a", "none", "<na>", "\\n")
"""How missing users are written, in lower case."""
GUESTS = ("drop", "each", "keep")
"""drop: leave them out; each: every event is of a guest of its own; keep: NO_USER are users."""
_LINES_FOR_DETECTION = 20
_PARQUET = b"PAR1"

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class ClickFile:
    """The clicks of a file, or of several, sorted by time (stable)."""

    data: Sequence[str]
    """The paths, folders, patterns and URLs that were read; "-": standard input."""
    format: str
    time_unit: str
    users: Codes
    """Shape [clicks]: indices into user_ids."""
    items: Codes
    """Shape [clicks]: indices into item_ids."""
    times: npt.NDArray[np.int64]
    """Shape [clicks], epoch ms, ascending."""
    types: Codes
    """Shape [clicks]: indices into event_types."""
    user_ids: list[str]
    item_ids: list[str]
    event_types: list[str]
    read: int
    """Events in the file, with those that were left out."""
    unsorted: bool
    problems: list[Problem]
    read_types: dict[str, tuple[int, float]]
    """Event type → its events in the file, and its weight."""

    def __len__(self) -> int:
        return len(self.times)

    @property
    def name(self) -> str:
        """What was read, for messages."""
        return " ".join(self.data)

    def event_id(self, place: int, salt: str = "") -> str:
        """The id of the click at an index; see `event_id`."""
        user, item = self.user_ids[self.users[place]], self.item_ids[self.items[place]]
        return event_id(user, item, int(self.times[place]), self.event_type(place), salt)

    def event_type(self, place: int) -> str:
        """The event type of the click at an index."""
        return self.event_types[int(self.types[place])]


def event_id(user: str, item: str, time_ms: int, event_type: str = CLICK, salt: str = "") -> str:
    """A hash of the click (32 hex digits), so that a click that is sent twice counts once."""
    text = f"{salt}|{len(user)}|{user}{len(item)}|{item}{time_ms}"
    if event_type != CLICK:
        text += f"|{event_type}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class ReadOptions:
    """How to read a file; the defaults recognise most."""

    format: str = "auto"
    """auto, or one of FORMATS."""
    mapping: Mapping[str, str] = field(default_factory=dict)
    """Role (user, item, time, type) → column, if it is not a common name."""
    columns: Sequence[str] = ()
    """Names of the columns of a CSV without a header."""
    time_unit: str = "auto"
    time_format: str = ""
    """Format of strptime; overrules `time_unit`."""
    encoding: str = "utf-8"
    guests: str = "drop"
    """What to do with events without a user: one of GUESTS."""
    event_weights: Mapping[str, float] = field(default_factory=dict)
    """What differs from the default weights of event types."""
    label_weights: Mapping[str, float] = field(default_factory=dict)
    """What differs from those as targets; reading does not depend on it."""
    latest_ms: int = LATEST_TIMESTAMP
    """Clicks of a later time (epoch ms) are left out."""


def load(data: str | Path | Sequence[str], options: ReadOptions = ReadOptions()) -> ClickFile:
    """Read and validate the files that `data` names: paths, folders, patterns, URLs (sources.py).

    Invalid clicks are left out and listed in `problems`, events of weight 0 in `read_types`.

    Raises ConfigurationError if a file cannot be read to its end, has another format, or if there
    is no valid click.
    """
    if options.format not in ("auto", *FORMATS):
        raise ConfigurationError(
            f"--format {options.format}: use auto or one of {', '.join(FORMATS)}"
        )
    if options.guests not in GUESTS:
        raise ConfigurationError(f"--guests {options.guests}: use one of {', '.join(GUESTS)}")
    texts = [str(data)] if isinstance(data, str | Path) else data
    clicks = _Clicks(options)
    for source in find_sources(texts):
        clicks.add(source)
    return clicks.sorted(texts)


def _rows(
    file: BinaryIO, name: str, options: ReadOptions, problems: Problems
) -> tuple[str, Iterable[Row]]:
    """The format of a file and its rows. Raises ConfigurationError."""
    format, mapping, columns = options.format, options.mapping, options.columns
    is_parquet = file.read(len(_PARQUET)) == _PARQUET
    file.seek(0)
    if format == "parquet" or (format == "auto" and is_parquet):
        if columns:
            raise ConfigurationError(f"--columns goes with csv; {name} is parquet")
        return "parquet", _parquet_rows(file, name, mapping)
    lines = iter(read_lines(file, name, options.encoding, problems))
    first = list(itertools.islice(lines, _LINES_FOR_DETECTION))
    if not first:
        raise ConfigurationError(f"{name} is empty")
    if format == "auto":
        format = "csv" if columns else _detect(name, first)
    if mapping and format not in ("csv", "jsonl"):
        raise ConfigurationError(f"--map goes with parquet, csv and jsonl; {name} is {format}")
    if columns and format != "csv":
        raise ConfigurationError(f"--columns goes with csv; {name} is {format}")
    all_lines: Iterator[Line] = itertools.chain(first, lines)
    if format == "csv":
        return format, formats.csv_rows(all_lines, name, problems, mapping, columns)
    if format == "jsonl":
        return format, formats.jsonl_rows(all_lines, name, problems, mapping)
    return format, TEXT_READERS[format](all_lines, name, problems)


def _detect(name: str, lines: Sequence[Line]) -> str:
    try:
        return formats.detect(lines)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from None


def _parquet_rows(file: BinaryIO, name: str, mapping: Mapping[str, str]) -> Iterator[Row]:
    try:
        table = pq.ParquetFile(file)
        found = formats.columns_of(table.schema_arrow.names, mapping, name)
        line = 0
        for batch in table.iter_batches(columns=[column for column in found if column]):
            texts_of = [
                _as_text(batch.column(column)) if column else itertools.repeat("")
                for column in found
            ]
            for texts in zip(*texts_of, strict=False):
                line += 1
                yield Row(line, *(text or "" for text in texts))
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"{name} cannot be read as Parquet ({reason})") from None


def _as_text(column: pa.Array) -> list[str | None]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms", column.type.tz), safe=False).cast(pa.int64())
    texts: list[str | None] = column.cast(pa.string()).to_pylist()
    return texts


class _Clicks:
    """Gathers the valid clicks of files."""

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self._to_millis = times.from_format(options.time_format) if options.time_format else None
        self._weights = weights_of(options.event_weights)
        self._weight_of_type: dict[str, float] = {}
        self._type_counts = Counter[str]()
        self._users, self._items, self._types = _Ids("user"), _Ids("item"), _Ids("event type")
        self._problems = Problems()
        self._formats: dict[str, str] = {}
        """Format → the first file that has it."""
        self._time_units: dict[str, None] = {}
        self._read = 0
        self._columns = array("i"), array("i"), array("q"), array("i")
        """User, item, time and type of each click."""
        self._lines = array("q")
        self._begins: list[tuple[int, str]] = []
        """Where the clicks of each file begin, and its name."""
        self._id_hashes = array("q")
        """Of the file's own event ids; 0 if it has none."""

    def add(self, source: Source) -> None:
        """Read a file. Raises ConfigurationError."""
        with source.open() as file:
            format, rows = _rows(file, source.name, self._options, self._problems)
            self._formats.setdefault(format, source.name)
            if len(self._formats) > 1:
                (one, first), (other, second) = self._formats.items()
                raise ConfigurationError(
                    f"{first} is {one}, but {second} is {other}: read them one by one, or say "
                    "--format"
                )
            self._add(source.name, format, rows)

    def _add(self, name: str, format: str, rows: Iterable[Row]) -> None:
        options, problems = self._options, self._problems
        self._begins.append((len(self._lines), name))
        time_unit = options.time_unit
        if time_unit == "auto":
            time_unit = formats.TIME_UNITS.get(format, "auto")
        to_millis = self._to_millis
        if to_millis is None and time_unit != "auto":
            to_millis = times.to_millis(time_unit)
        # Local names and few calls: this loop reads millions of rows.
        weights, type_counts = self._weight_of_type, self._type_counts
        users, items, types = self._users.codes, self._items.codes, self._types.codes
        add_user, add_item, add_time, add_type = (column.append for column in self._columns)
        add_line, add_hash = self._lines.append, self._id_hashes.append
        keeps_guests, latest_ms = options.guests == "keep", options.latest_ms
        for line, user, item, time, event_type, event_id in rows:
            self._read += 1
            event_type = event_type or CLICK
            if event_type not in weights:
                weights[event_type] = weight_of(event_type, self._weights)
            type_counts[event_type] += 1
            if weights[event_type] == 0:
                continue
            if not keeps_guests and user.strip().casefold() in NO_USER:
                consequence = "left out; see --guests" if options.guests == "drop" else "one by one"
                problems.add(name, "click of a guest, without a user", consequence, line)
                if options.guests == "drop":
                    continue
                user = f"guest-{name}-{line}"
            try:
                if to_millis is None:
                    time_unit = times.unit_of(time)
                    to_millis = times.to_millis(time_unit)
                moment = to_millis(time)
            except ValueError:
                hint = "left out; see --time-unit and --time-format"
                problems.add(name, "click without a readable time", hint, line)
                continue
            if moment > latest_ms:
                problems.add(name, "click of a time to come", "left out; see --time-unit", line)
                continue
            codes: tuple[int, int, int] | None
            try:
                codes = users[user], items[item], types[event_type]
            except KeyError:
                codes = None
            if codes is None or min(codes) < 0:  # new or invalid
                codes = self._codes(name, line, user, item, event_type)
                if codes is None:
                    continue
            add_user(codes[0])
            add_item(codes[1])
            add_time(moment)
            add_type(codes[2])
            add_line(line)
            add_hash(hash(event_id) if event_id else 0)
        self._time_units[options.time_format or time_unit] = None

    def _codes(
        self, name: str, line: int, user: str, item: str, event_type: str
    ) -> tuple[int, int, int] | None:
        """The codes of user, item and type; None if one of them is invalid."""
        ids = []
        for text, known in ((user, self._users), (item, self._items)):
            if text.endswith(".0") and text[:-2].isdigit():
                what = f"{known.role} id with .0, as floats are written"
                self._problems.add(name, what, f"read as the integer: {text[:-2]}", line)
                text = text[:-2]
            ids.append(known.code(text))
        codes = ids[0], ids[1], self._types.code(event_type)
        for code, known in zip(codes, (self._users, self._items, self._types), strict=True):
            if code < 0:
                self._problems.add(name, known.flaws[code], "left out", line)
                return None
        return codes

    def sorted(self, data: Sequence[str]) -> ClickFile:
        """All clicks that were added, each once. Raises ConfigurationError if there are none."""
        users, items, types = (np.array(self._columns[place], np.int32) for place in (0, 1, 3))
        moments = np.array(self._columns[2], np.int64)
        duplicate = _duplicates(users, items, moments, types)
        for place in np.flatnonzero(duplicate):
            self._problems.add(
                self._name(int(place)), "duplicate click", "counts once", self._lines[place]
            )
        kept = np.flatnonzero(~duplicate)
        for place in kept[_repeated(np.array(self._id_hashes, np.int64)[kept])]:
            what = "click with the event id of another click"
            self._problems.add(self._name(int(place)), what, "both count", self._lines[place])
        if len(kept) == 0:
            why = "; ".join(map(str, self._problems.listed()))
            found = ", ".join(self._formats)
            text = " ".join(data)
            raise ConfigurationError(f"{text} holds no click ({found}){': ' + why if why else ''}")
        order = kept[np.argsort(moments[kept], kind="stable")]
        return ClickFile(
            data=data,
            format=", ".join(self._formats),
            time_unit=", ".join(self._time_units),
            users=users[order],
            items=items[order],
            times=moments[order],
            types=types[order],
            user_ids=self._users.ids,
            item_ids=self._items.ids,
            event_types=self._types.ids,
            read=self._read,
            unsorted=bool((np.diff(moments[kept]) < 0).any()),
            problems=self._problems.listed(),
            read_types={
                name: (count, self._weight_of_type[name])
                for name, count in self._type_counts.most_common()
            },
        )

    def _name(self, place: int) -> str:
        """The file of a click."""
        file = bisect.bisect_right(
            self._begins, place, key=lambda begin_and_name: begin_and_name[0]
        )
        return self._begins[file - 1][1]


class _Ids:
    """Assigns codes to ids: indices into `ids`, or negative keys of `flaws` for invalid ids."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.codes: dict[str, int] = {}
        self.ids: list[str] = []
        self.flaws: dict[int, str] = {}

    def code(self, text: str) -> int:
        code = self.codes.get(text)
        if code is None:
            flaw = invalid_item_id_reason(text)
            if flaw is None:
                code = len(self.ids)
                self.ids.append(text)
            else:
                code = -1 - len(self.flaws)
                self.flaws[code] = flaw.replace("item id", f"{self.role} id")
            self.codes[text] = code
        return code


def _duplicates(
    users: Codes, items: Codes, moments: npt.NDArray[np.int64], types: Codes
) -> npt.NDArray[np.bool_]:
    """Bool [clicks]: True for a click with the same user, item, time and type as an earlier one."""
    order = np.lexsort((np.arange(len(users)), types, items, users, moments))
    same = np.ones(max(0, len(users) - 1), bool)
    for column in (users, items, moments, types):
        ordered = column[order]
        same &= ordered[1:] == ordered[:-1]
    duplicate = np.zeros(len(users), bool)
    duplicate[order[1:][same]] = True
    return duplicate


def _repeated(hashes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Bool [clicks]: True where an earlier click has the same hash; 0 is no hash."""
    _, first = np.unique(hashes, return_index=True)
    repeated: npt.NDArray[np.bool_] = hashes != 0
    repeated[first] = False
    return repeated
