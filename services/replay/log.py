"""Loads a click log: validates all clicks and sorts them by time, before any is sent.

The whole file is held in memory: 20 bytes per click, and each id once. So all problems are known
before the first click is sent, and clicks are sent in order of time even if the file is not sorted.
"""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
    user_ids: list[str]
    item_ids: list[str]
    read: int
    """Clicks in the file, with those that were left out."""
    unsorted: bool
    problems: list[Problem]

    def __len__(self) -> int:
        return len(self.times)

    def event_id(self, place: int, salt: str = "") -> str:
        """The id of the click at an index; see `event_id`."""
        user, item = self.user_ids[self.users[place]], self.item_ids[self.items[place]]
        return event_id(user, item, int(self.times[place]), salt)


def event_id(user: str, item: str, time_ms: int, salt: str = "") -> str:
    """A hash of the click (32 hex digits), so that a click that is sent twice counts once."""
    text = f"{salt}|{len(user)}|{user}{len(item)}|{item}{time_ms}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def load(
    path: Path,
    format: str = "auto",
    mapping: Mapping[str, str] | None = None,
    time_unit: str = "auto",
    encoding: str = "utf-8",
) -> ClickFile:
    """Read and validate a file.

    mapping: role (user, item, time) → column name, if it is not a common one. Invalid clicks are
    left out and listed in `problems`.

    Raises ConfigurationError if the file cannot be read to its end, has another format, or holds no
    valid click.
    """
    mapping = mapping or {}
    problems = Problems()
    if format not in ("auto", *FORMATS):
        raise ConfigurationError(f"--format {format}: use auto or one of {', '.join(FORMATS)}")
    if path.is_dir():
        raise ConfigurationError(f"{path} is a folder; give a file")
    format, rows = _rows(path, format, mapping, encoding, problems)
    if mapping and format not in ("parquet", "csv", "jsonl"):
        raise ConfigurationError(f"--map goes with parquet, csv and jsonl; {path} is {format}")
    if time_unit == "auto":
        time_unit = formats.TIME_UNITS.get(format, "auto")
    return _collect(path, format, rows, time_unit, problems)


def _rows(
    path: Path, format: str, mapping: Mapping[str, str], encoding: str, problems: Problems
) -> tuple[str, Iterable[Row]]:
    if format == "parquet" or (format == "auto" and _first_bytes(path).startswith(_PARQUET)):
        return "parquet", _parquet_rows(path, mapping)
    lines = iter(read_lines(path, encoding, problems))
    first = list(itertools.islice(lines, _LINES_FOR_DETECTION))
    if not first:
        raise ConfigurationError(f"{path} is empty")
    if format == "auto":
        format = formats.detect(first)
    all_lines: Iterator[Line] = itertools.chain(first, lines)
    if format == "csv":
        return format, formats.csv_rows(all_lines, path.name, problems, mapping)
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
        columns = formats.columns_of(file.schema_arrow.names, mapping, path.name)
        line = 0
        for batch in file.iter_batches(columns=columns):
            named = [_as_text(batch.column(batch.schema.names.index(name))) for name in columns]
            for user, item, time in zip(*named, strict=True):
                line += 1
                yield Row(line, user or "", item or "", time or "")
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"{path} cannot be read as Parquet ({reason})") from None


def _as_text(column: pa.Array) -> list[str | None]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms", column.type.tz), safe=False).cast(pa.int64())
    texts: list[str | None] = column.cast(pa.string()).to_pylist()
    return texts


def _collect(
    path: Path, format: str, rows: Iterable[Row], time_unit: str, problems: Problems
) -> ClickFile:
    user_codes, item_codes = _Ids("user"), _Ids("item")
    users, items, moments, lines = array("i"), array("i"), array("q"), array("q")
    to_millis = None if time_unit == "auto" else times.to_millis(time_unit)
    read = 0
    for line, user, item, time in rows:
        read += 1
        try:
            if to_millis is None:
                time_unit = times.unit_of(time)
                to_millis = times.to_millis(time_unit)
            moment = to_millis(time)
        except ValueError:
            hint = "left out; see --time-unit" if to_millis is None else "left out"
            problems.add(path.name, "click without a readable time", hint, line)
            continue
        user_code, item_code = user_codes.code(user), item_codes.code(item)
        for code, ids in ((user_code, user_codes), (item_code, item_codes)):
            if code < 0:
                problems.add(path.name, ids.flaws[code], "left out", line)
                break
        else:
            users.append(user_code)
            items.append(item_code)
            moments.append(moment)
            lines.append(line)
    columns = np.array(users, np.int32), np.array(items, np.int32), np.array(moments, np.int64)
    duplicate = _duplicates(*columns)
    for place in np.flatnonzero(duplicate):
        problems.add(path.name, "duplicate click", "counts once", lines[place])
    kept = np.flatnonzero(~duplicate)
    if len(kept) == 0:
        why = "; ".join(map(str, problems.listed()))
        raise ConfigurationError(f"{path} holds no click ({format}){': ' + why if why else ''}")
    in_file = columns[2][kept]
    order = kept[np.argsort(in_file, kind="stable")]
    return ClickFile(
        path,
        format,
        time_unit,
        columns[0][order],
        columns[1][order],
        columns[2][order],
        user_codes.ids,
        item_codes.ids,
        read,
        bool((np.diff(in_file) < 0).any()),
        problems.listed(),
    )


class _Ids:
    """Assigns codes to ids: indices into `ids`, or negative keys of `flaws` for invalid ids."""

    def __init__(self, role: str) -> None:
        self._role = role
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
                self.flaws[code] = flaw.replace("item id", f"{self._role} id")
            self._codes[text] = code
        return code


def _duplicates(
    users: Codes, items: Codes, moments: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Bool [clicks]: True for a click with the same user, item and time as an earlier one."""
    order = np.lexsort((np.arange(len(users)), items, users, moments))
    same = np.ones(max(0, len(users) - 1), bool)
    for column in (users, items, moments):
        ordered = column[order]
        same &= ordered[1:] == ordered[:-1]
    duplicate = np.zeros(len(users), bool)
    duplicate[order[1:][same]] = True
    return duplicate
