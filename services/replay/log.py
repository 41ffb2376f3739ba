"""Loads a click log: validates all clicks and sorts them by time, before any is sent.

The whole file is held in memory: 24 bytes per click, and each id once. So all problems are known
before the first click is sent, and clicks are sent in order of time even if the file is not sorted.
"""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nextclick.services.replay import formats, times
from nextclick.services.replay.formats import FORMATS, TEXT_READERS, Row
from nextclick.services.replay.lines import Line, read_lines
from nextclick.shared.data_problems import Problem, Problems, invalid_item_id_reason
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.event_types import weight_of, weights_of

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
    """The clicks of a file, sorted by time (stable)."""

    path: Path
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


def load(path: Path, options: ReadOptions = ReadOptions()) -> ClickFile:
    """Read and validate a file.

    Invalid clicks are left out and listed in `problems`, events of weight 0 in `read_types`.

    Raises ConfigurationError if the file cannot be read to its end, has another format, or holds no
    valid click.
    """
    problems = Problems()
    if options.format not in ("auto", *FORMATS):
        raise ConfigurationError(
            f"--format {options.format}: use auto or one of {', '.join(FORMATS)}"
        )
    if options.guests not in GUESTS:
        raise ConfigurationError(f"--guests {options.guests}: use one of {', '.join(GUESTS)}")
    if path.is_dir():
        raise ConfigurationError(f"{path} is a folder; give a file")
    format, rows = _rows(path, options, problems)
    if options.mapping and format not in ("parquet", "csv", "jsonl"):
        raise ConfigurationError(f"--map goes with parquet, csv and jsonl; {path} is {format}")
    if options.columns and format != "csv":
        raise ConfigurationError(f"--columns goes with csv; {path} is {format}")
    unit = options.time_unit
    if unit == "auto":
        unit = formats.TIME_UNITS.get(format, "auto")
    to_millis = times.from_format(options.time_format) if options.time_format else None
    return _collect(path, format, rows, unit, to_millis, options, problems)


def _rows(path: Path, options: ReadOptions, problems: Problems) -> tuple[str, Iterable[Row]]:
    format, mapping = options.format, options.mapping
    if format == "parquet" or (format == "auto" and _first_bytes(path).startswith(_PARQUET)):
        return "parquet", _parquet_rows(path, mapping)
    lines = iter(read_lines(path, options.encoding, problems))
    first = list(itertools.islice(lines, _LINES_FOR_DETECTION))
    if not first:
        raise ConfigurationError(f"{path} is empty")
    if format == "auto":
        format = "csv" if options.columns else formats.detect(first)
    all_lines: Iterator[Line] = itertools.chain(first, lines)
    if format == "csv":
        return format, formats.csv_rows(all_lines, path.name, problems, mapping, options.columns)
    if format == "jsonl":
        return format, formats.jsonl_rows(all_lines, path.name, problems, mapping)
    return format, TEXT_READERS[format](all_lines, path.name, problems)


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None


def _parquet_rows(path: Path, mapping: Mapping[str, str]) -> Iterator[Row]:
    try:
        file = pq.ParquetFile(path)
        found = formats.columns_of(file.schema_arrow.names, mapping, path.name)
        columns = [column for column in found if column is not None]
        line = 0
        for batch in file.iter_batches(columns=columns):
            named = [_as_text(batch.column(batch.schema.names.index(name))) for name in columns]
            for texts in zip(*named, strict=True):
                line += 1
                yield Row(line, *(text or "" for text in texts))
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"{path} cannot be read as Parquet ({reason})") from None


def _as_text(column: pa.Array) -> list[str | None]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms", column.type.tz), safe=False).cast(pa.int64())
    texts: list[str | None] = column.cast(pa.string()).to_pylist()
    return texts


def _collect(
    path: Path,
    format: str,
    rows: Iterable[Row],
    time_unit: str,
    to_millis: times.ToMillis | None,
    options: ReadOptions,
    problems: Problems,
) -> ClickFile:
    user_codes, item_codes, type_codes = _Ids("user"), _Ids("item"), _Ids("event type")
    weights, type_counts = weights_of(options.event_weights), Counter[str]()
    weight_of_type: dict[str, float] = {}
    columns = array("i"), array("i"), array("q"), array("i")
    lines = array("q")
    if to_millis is None and time_unit != "auto":
        to_millis = times.to_millis(time_unit)
    read = 0
    for line, user, item, time, event_type in rows:
        read += 1
        event_type = event_type or CLICK
        if event_type not in weight_of_type:
            weight_of_type[event_type] = weight_of(event_type, weights)
        type_counts[event_type] += 1
        if weight_of_type[event_type] == 0:
            continue
        if options.guests != "keep" and user.strip().casefold() in NO_USER:
            consequence = "left out; see --guests" if options.guests == "drop" else "one by one"
            problems.add(path.name, "click of a guest, without a user", consequence, line)
            if options.guests == "drop":
                continue
            user = f"guest-{path.name}-{line}"
        try:
            if to_millis is None:
                time_unit = times.unit_of(time)
                to_millis = times.to_millis(time_unit)
            moment = to_millis(time)
        except ValueError:
            hint = "left out; see --time-unit and --time-format"
            problems.add(path.name, "click without a readable time", hint, line)
            continue
        ids = []
        for text, known in ((user, user_codes), (item, item_codes)):
            if text.endswith(".0") and text[:-2].isdigit():
                what = f"{known.role} id with .0, as floats are written"
                problems.add(path.name, what, f"read as the integer: {text[:-2]}", line)
                text = text[:-2]
            ids.append(known.code(text))
        ids.append(type_codes.code(event_type))
        for code, known in zip(ids, (user_codes, item_codes, type_codes), strict=True):
            if code < 0:
                problems.add(path.name, known.flaws[code], "left out", line)
                break
        else:
            for column, value in zip(columns, (ids[0], ids[1], moment, ids[2]), strict=True):
                column.append(value)
            lines.append(line)
    users, items, types = (np.array(columns[place], np.int32) for place in (0, 1, 3))
    moments = np.array(columns[2], np.int64)
    duplicate = _duplicates(users, items, moments, types)
    for place in np.flatnonzero(duplicate):
        problems.add(path.name, "duplicate click", "counts once", lines[place])
    kept = np.flatnonzero(~duplicate)
    if len(kept) == 0:
        why = "; ".join(map(str, problems.listed()))
        raise ConfigurationError(f"{path} holds no click ({format}){': ' + why if why else ''}")
    order = kept[np.argsort(moments[kept], kind="stable")]
    return ClickFile(
        path=path,
        format=format,
        time_unit=options.time_format or time_unit,
        users=users[order],
        items=items[order],
        times=moments[order],
        types=types[order],
        user_ids=user_codes.ids,
        item_ids=item_codes.ids,
        event_types=type_codes.ids,
        read=read,
        unsorted=bool((np.diff(moments[kept]) < 0).any()),
        problems=problems.listed(),
        read_types={
            name: (count, weight_of_type[name]) for name, count in type_counts.most_common()
        },
    )


class _Ids:
    """Assigns codes to ids: indices into `ids`, or negative keys of `flaws` for invalid ids."""

    def __init__(self, role: str) -> None:
        self.role = role
        self._codes: dict[str, int] = {}
        self.ids: list[str] = []
        self.flaws: dict[int, str] = {}

    def code(self, text: str) -> int:
        code = self._codes.get(text)
        if code is None:
            flaw = invalid_item_id_reason(text)
            if flaw is None:
                code = len(self.ids)
                self.ids.append(text)
            else:
                code = -1 - len(self.flaws)
                self.flaws[code] = flaw.replace("item id", f"{self.role} id")
            self._codes[text] = code
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
