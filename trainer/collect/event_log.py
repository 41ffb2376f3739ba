"""The event log: clicks on disk, as Parquet files that are named by Kafka offsets.

A file holds one contiguous offset range of one partition of one topic, and is named after it
(`event_log_files`). It is written under a temporary name, fsynced and renamed. So the log itself
determines the next offset to read, and no click is logged twice, even after a crash between file
and commit; committed offsets only serve lag monitors. Imported clicks, which have no offsets, are
files of partition "import" and come before all others.

The memory for reading depends on the clicks that are requested, not on the size of the log: footers
tell the age of the rows, and files that are too old are not opened. `compact` merges small files.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from nextclick.shared.errors import ConfigurationError
from nextclick.trainer.collect import compaction, event_log_files
from nextclick.trainer.collect.compaction import Compacted
from nextclick.trainer.collect.event_log_files import (
    SCHEMA,
    TOPIC_ID,
    OffsetFile,
    RowGroup,
    files_of,
    horizon,
    locked,
    name_of,
    offset_files,
    stream_of,
    topic_id_of,
)

_SOURCE = b"nextclick.source"


class Row(NamedTuple):
    """One click: the columns of SCHEMA."""

    event_id: str
    user_id: str
    item_id: str
    timestamp: int
    """Epoch ms, the time that counts for sessions (`click_rules`)."""
    event_type: str
    arrival: int
    """When Kafka got it, epoch ms. No producer can claim a later one than when it was read."""


class EventLog:
    """A folder of Parquet files."""

    def __init__(self, folder: str, *, read_only: bool = False) -> None:
        """Open the log; create the folder, and remove what crashed writers left behind.

        read_only: change nothing; the folder may be in use by a trainer.

        Raises ConfigurationError if the folder cannot be written.
        """
        self.folder = Path(folder)
        self.topic_id = ""
        """Id of the topic that `append` and `next_offset` refer to, see `use_topic`."""
        self._generation = 0
        self._footers: dict[Path, list[RowGroup]] = {}
        if read_only:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
            probe = self.folder / f".{secrets.token_hex(4)}.tmp"
            probe.touch()
            probe.unlink(missing_ok=True)  # another starting trainer may have removed it
        except OSError as error:
            raise ConfigurationError(
                f"NEXTCLICK_TRAINER__EVENT_LOG = {folder!r} cannot be written ({error})"
            ) from None

    def use_topic(self, topic_id: str) -> None:
        """Set the topic that offsets refer to from now on.

        An unknown topic starts a new generation of files, because offsets of different topics are
        unrelated. If the newest files name no topic, they are assumed to be of this one.
        """
        with locked(self.folder):
            files = offset_files(self.folder)
            generations = sorted({file.generation for file in files}) or [0]
            known = {g: _topic_id_of(files, g) for g in generations}
        self.topic_id, newest = topic_id, generations[-1]
        if topic_id in known.values():
            self._generation = max(g for g in generations if known[g] == topic_id)
        elif topic_id and known[newest]:
            self._generation = newest + 1
        else:
            self._generation = newest

    def next_offset(self, partition: int) -> int | None:
        """The offset after the newest one in the log for a partition; None if there is none."""
        with locked(self.folder):
            files = offset_files(self.folder)
        stream = (self._generation, partition)
        last_offsets = [file.last for file in files if file.stream == stream]
        return max(last_offsets) + 1 if last_offsets else None

    def append(
        self, partition: int, first_offset: int, last_offset: int, rows: Sequence[Row]
    ) -> None:
        """Write the clicks of one offset range as a file. Raises Unavailable.

        rows: the valid clicks in the range, in order; other offsets (invalid clicks, events that
        are none, transaction markers) have no row.
        """
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(SCHEMA)
        arrays = [
            pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)
        ]
        table = pa.Table.from_arrays(arrays, schema=SCHEMA)
        table = table.replace_schema_metadata({TOPIC_ID: self.topic_id})
        name = name_of(self._generation, partition, first_offset, last_offset)
        event_log_files.write(self.folder, name, table)

    def import_clicks(self, frame: pd.DataFrame, source: str = "") -> None:
        """Add clicks that are not from Kafka.

        frame: columns as in SCHEMA; `event_type` ("click") and `arrival` (the timestamp) may be
        missing. source: an identifier that `imported_sources` will list. Raises Unavailable.
        """
        frame = with_defaults(frame)
        table = pa.Table.from_pandas(frame, SCHEMA, preserve_index=False)
        table = table.replace_schema_metadata({_SOURCE: source})
        while True:
            name = event_log_files.next_import(self.folder)
            try:
                return event_log_files.write(self.folder, name, table, replace=False)
            except FileExistsError:
                continue  # another process imports, too: take the next number

    def imported_sources(self) -> set[str]:
        """The `source` identifiers of all imports."""
        footers = map(pq.read_schema, self.folder.glob("clicks-import-*.parquet"))
        sources = ((footer.metadata or {}).get(_SOURCE, b"") for footer in footers)
        return {source.decode() for source in sources if source}

    def count(self) -> int:
        """Number of logged clicks; reads only the footers of files, each once."""
        with locked(self.folder):
            footers = self._read_footers()
        return sum(group.rows for groups in footers.values() for group in groups)

    def read(self, newest: int | None = None) -> pd.DataFrame:
        """A frame of the clicks, or of those `newest` that arrived last, in order of arrival.

        Columns as in SCHEMA. Clicks of one partition keep their order on it, so the result does not
        depend on when files were written, imported or merged. Of a user's clicks with one event_id
        only the first is returned.
        """
        with locked(self.folder):
            frame = self._newest(newest)
        return frame if newest is None else frame.tail(newest).reset_index(drop=True)

    def compact(self) -> Compacted:
        """Merge small files; see `compaction`."""
        return compaction.compact(self.folder)

    def _newest(self, newest: int | None) -> pd.DataFrame:
        """At least this many of the newest clicks, or all."""
        footers = self._read_footers()
        groups = [group for of_file in footers.values() for group in of_file]
        wanted = newest
        while True:
            since = None if wanted is None else horizon(groups, wanted)
            frame = _load(footers, since)
            if since is None or newest is None or wanted is None or len(frame) >= newest:
                return frame
            wanted = 2 * max(wanted, 1)  # some were duplicates: read further back

    def _read_footers(self) -> dict[Path, list[RowGroup]]:
        """The files in order, with their footers; these are cached, because files never change."""
        known = self._footers
        self._footers = {
            path: known[path] if path in known else _footer(path) for path in files_of(self.folder)
        }
        return self._footers


def _topic_id_of(files: Sequence[OffsetFile], generation: int) -> str:
    """The topic id of a generation, from the newest file that has one; "" if none has."""
    of_generation = (file for file in files if file.generation == generation)
    newest_first = sorted(of_generation, key=lambda file: -file.last)
    return next((found for file in newest_first if (found := topic_id_of(file.path))), "")


def _load(footers: dict[Path, list[RowGroup]], since: int | None) -> pd.DataFrame:
    """The clicks in order of arrival, without duplicates.

    since: row groups in which nothing arrived after it (epoch ms) are not read.
    """
    wanted = {
        path: [n for n, group in enumerate(groups) if since is None or group.newest >= since]
        for path, groups in footers.items()
    }
    read = [(path, groups) for path, groups in wanted.items() if groups]
    frames = [
        _in_order(_read_files(dict(files)), from_kafka=stream is not None)
        for stream, files in groupby(read, lambda file: stream_of(file[0]))
    ]
    frame: pd.DataFrame = pd.concat(frames or [SCHEMA.empty_table().to_pandas()])
    frame = frame.sort_values("arrival", kind="stable", ignore_index=True)
    return frame.drop_duplicates(["user_id", "event_id"], ignore_index=True)


def _read_files(row_groups: Mapping[Path, list[int]]) -> pd.DataFrame:
    """The rows of some row groups of each file."""
    try:
        files = ds.dataset([str(path) for path in row_groups], schema=SCHEMA, format="parquet")
        fragments = [
            fragment.subset(row_group_ids=groups)
            for fragment, groups in zip(files.get_fragments(), row_groups.values(), strict=True)
        ]
        chosen = ds.FileSystemDataset(fragments, SCHEMA, files.format, files.filesystem)
        table = chosen.to_table()
    except (OSError, pa.ArrowException) as error:
        folder = next(iter(row_groups)).parent
        raise event_log_files.unreadable(folder, error) from None
    # Files of older versions lack both: null.
    for name, instead in (("arrival", table["timestamp"]), ("event_type", "click")):
        index = SCHEMA.get_field_index(name)
        filled = pc.coalesce(table[name], instead)
        table = table.set_column(index, SCHEMA.field(index), filled)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _in_order(frame: pd.DataFrame, *, from_kafka: bool) -> pd.DataFrame:
    """The rows of one stream, so that sorting by arrival keeps the order that counts.

    On a partition that is the order of the offsets, whatever the producers' clocks say. Imports
    have none, so the order of equal arrivals is that of the event ids.
    """
    if from_kafka:
        return frame.assign(arrival=np.maximum.accumulate(frame["arrival"].to_numpy()))
    return frame.sort_values(["arrival", "event_id"], kind="stable")


def with_defaults(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of SCHEMA; event_type ("click") and arrival (timestamp) may be missing."""
    if "event_type" not in frame:
        frame = frame.assign(event_type="click")
    if "arrival" not in frame:
        frame = frame.assign(arrival=frame["timestamp"])
    columns: pd.DataFrame = frame[SCHEMA.names]
    return columns


def _footer(path: Path) -> list[RowGroup]:
    try:
        return event_log_files.row_groups(path)
    except (OSError, pa.ArrowException) as error:
        raise event_log_files.unreadable(path, error) from None
