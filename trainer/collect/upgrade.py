"""Takes over an event log of the format before Delta Lake: Parquet files, named by offsets.

    clicks-g0002-p00003-000000000000001200-000000000000001317.parquet
        generation (a topic that is made anew is another), partition, first and last offset
    clicks-import-000000000000000000.parquet
        imported clicks, without offsets

A file whose offsets all lie within those of another one was merged into it, and is left out. The
rows go into the table in one commit, with the offsets at which each partition goes on, so an
upgrade that dies has done nothing, and one that is repeated adds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from nextclick.shared.errors import ConfigurationError
from nextclick.trainer.collect.click_table import (
    NO_PARTITION,
    SCHEMA,
    ClickTable,
    Commit,
    former_files,
)
from nextclick.trainer.collect.event_log import COLUMNS, offset_name

_NAME = re.compile(r"clicks-(?:g(\d{4})-)?p(\d{5})-(\d{18})-(\d{18})\.parquet")
_DONE = "nextclick/upgrade"


@dataclass(frozen=True, order=True)
class _File:
    """Sorts as the log was read: imports, then by generation, partition and offset."""

    generation: int
    partition: int
    first: int
    negative_last: int
    path: Path


def upgrade(url: str) -> int:
    """Add the clicks of the former files in a folder to a table there; returns how many.

    The files stay. Raises ConfigurationError if there are none or one is broken, Unavailable if
    the table cannot be written.
    """
    clicks = ClickTable(url)
    files = _files(former_files(clicks.folder))
    if not files:
        raise ConfigurationError(f"{clicks.url} holds no clicks-….parquet: nothing to upgrade")

    def prepare(table: DeltaTable) -> Commit | None:
        if table.transaction_version(_DONE) is not None:
            return None
        return pa.RecordBatchReader.from_batches(SCHEMA, _batches(files)), {
            _DONE: 1,
            **_next_offsets(files),
        }

    if not clicks.open():
        clicks.create()
    return clicks.append(prepare)


def _files(paths: Sequence[Path]) -> list[_File]:
    kept: list[_File] = []
    found = [(path, _NAME.fullmatch(path.name)) for path in paths]
    for file in sorted(
        _File(int(m[1] or 0), int(m[2]), int(m[3]), -int(m[4]), path)
        if m
        else _File(-1, NO_PARTITION, number, 0, path)
        for number, (path, m) in enumerate(found)
    ):
        covers = kept[-1] if kept else None
        if (
            covers is None
            or (covers.generation, covers.partition) != (file.generation, file.partition)
            or file.negative_last < covers.negative_last
            or file.partition == NO_PARTITION
        ):
            kept.append(file)
    return kept


def _next_offsets(files: Sequence[_File]) -> dict[str, int]:
    """The transactions of a log: topics are named in the footers, "" in the oldest logs."""
    ends: dict[str, int] = {}
    topics: dict[int, str] = {}
    for file in files:
        metadata = _schema(file.path).metadata or {}
        topic_id = metadata.get(b"nextclick.topic_id", b"").decode()
        topics[file.generation] = topic_id or topics.get(file.generation, "")
    for file in files:
        if file.partition != NO_PARTITION:
            name = offset_name(topics[file.generation], file.partition)
            ends[name] = max(ends.get(name, 0), 1 - file.negative_last)
    return ends


def _batches(files: Sequence[_File]) -> Iterator[pa.RecordBatch]:
    stream, newest = None, 0
    for file in files:
        if stream != (stream := (file.generation, file.partition)):
            newest = 0
        table = _read(file.path)
        arrival = table["arrival"].to_numpy()
        offset = np.full(len(arrival), NO_PARTITION, np.int64)
        if file.partition != NO_PARTITION:  # the order of the offsets; which had no row is unknown
            arrival = np.maximum.accumulate(np.r_[newest, arrival])[1:]
            newest = int(arrival.max(initial=newest))
            offset = file.first + np.arange(len(arrival))
        columns = [table[name] for name in COLUMNS[:-1]]
        partition = np.full(len(arrival), file.partition, np.int32)
        columns += [pa.chunked_array([values]) for values in (arrival, partition, offset)]
        yield from pa.Table.from_arrays(columns, schema=SCHEMA).to_batches()


def _read(path: Path) -> pa.Table:
    """COLUMNS; the oldest files lack the last two: clicks, which arrived when they happened."""
    try:
        table = pq.read_table(path)
        if "event_type" not in table.column_names:
            table = table.append_column("event_type", pa.array(["click"] * len(table)))
        if "arrival" not in table.column_names:
            table = table.append_column("arrival", table["timestamp"])
        return table.select(list(COLUMNS)).cast(pa.schema([SCHEMA.field(name) for name in COLUMNS]))
    except (OSError, KeyError, pa.ArrowException) as error:
        raise _broken(path, error) from None


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise _broken(path, error) from None


def _broken(path: Path, error: Exception) -> ConfigurationError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ConfigurationError(f"{path} cannot be read as Parquet ({reason}); remove or repair it")
