"""The event log: clicks on disk, as Parquet files that cannot hold a click twice.

A file holds one contiguous offset range of one partition of one topic and is named after it
(`event_log_files`). It is written under a temporary name, fsynced and renamed. The log itself
therefore knows which offset comes next; the consumer's committed offsets are only a hint for lag
monitors. A crash
between the file and the commit costs nothing: reading goes on after the file. Imported logs
(no Kafka offsets) are files of partition "import" and come before everything else.

Reading takes memory for what is asked for, not for what is held: footers tell how new the rows of
a file are, and files that are too old are not opened. `compact` merges small files.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
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
    topic_id_of,
)

_SOURCE = b"nextclick.source"
Row = tuple[str, str, str, int]
"""One click: the columns of SCHEMA."""


class EventLog:
    """A folder of Parquet files."""

    def __init__(self, folder: str, *, read_only: bool = False) -> None:
        """Open the log, creating the folder; leftovers of a crashed write are removed.

        read_only: only look at a folder that is there, beside a trainer that writes to it.

        Raises ConfigurationError if the folder cannot be written.
        """
        self.folder = Path(folder)
        self.topic_id = ""
        """Of the topic that `append` and `next_offset` mean, see `use_topic`."""
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
            probe.unlink(missing_ok=True)  # another trainer that starts now may be faster
        except OSError as error:
            raise ConfigurationError(
                f"NEXTCLICK_TRAINER__EVENT_LOG = {folder!r} cannot be written ({error})"
            ) from None

    def use_topic(self, topic_id: str) -> None:
        """From here on offsets are those of this topic.

        A topic that the log does not know begins a generation of its own, for its offsets mean
        nothing in another. Files that name no topic are taken for its.
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
        """The offset after the newest click held of a partition; None if it holds none."""
        with locked(self.folder):
            files = offset_files(self.folder)
        stream = (self._generation, partition)
        held = [file.last for file in files if file.stream == stream]
        return max(held) + 1 if held else None

    def append(
        self, partition: int, first_offset: int, last_offset: int, rows: Sequence[Row]
    ) -> None:
        """Make the clicks of one offset range durable.

        rows: (event_id, user_id, item_id, timestamp) of each valid click in the range, in
        order; offsets without one (dead letters, transaction markers) are simply not there.
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
        """Add clicks that did not come through Kafka: columns as in SCHEMA, in stream order.

        source: what `imported_sources` is to say of them.
        """
        table = pa.Table.from_pandas(frame, SCHEMA, preserve_index=False)
        table = table.replace_schema_metadata({_SOURCE: source})
        event_log_files.write(self.folder, event_log_files.next_import(self.folder), table)

    def imported_sources(self) -> set[str]:
        """What was imported, by the names that were given to it."""
        footers = map(pq.read_schema, self.folder.glob("clicks-import-*.parquet"))
        sources = ((footer.metadata or {}).get(_SOURCE, b"") for footer in footers)
        return {source.decode() for source in sources if source}

    def count(self) -> int:
        """How many clicks the log holds; reads only the files' footers, each once."""
        with locked(self.folder):
            held = self._held()
        return sum(group.rows for groups in held.values() for group in groups)

    def read(self, newest: int | None = None) -> pd.DataFrame:
        """The clicks, each user's in stream order; at most the `newest` so many of them.

        Columns as in SCHEMA. A click logged twice (the shop sent its event_id twice) counts once;
        one of those older than what is read counts as not there.
        """
        with locked(self.folder):
            frame = self._newest(newest)
        if newest is not None and len(frame) > newest:
            frame = frame.loc[frame["timestamp"].nlargest(newest).index].sort_index()
        return frame

    def compact(self) -> Compacted:
        """Merge small files; see `compaction`."""
        return compaction.compact(self.folder)

    def _newest(self, newest: int | None) -> pd.DataFrame:
        """At least so many of the newest clicks, or all."""
        held = self._held()
        groups = [group for of_file in held.values() for group in of_file]
        wanted = newest
        while True:
            since = None if wanted is None else horizon(groups, wanted)
            frame = _load(held, since)
            if since is None or newest is None or wanted is None or len(frame) >= newest:
                return frame
            wanted = 2 * max(wanted, 1)  # some of them were there twice: further back

    def _held(self) -> dict[Path, list[RowGroup]]:
        """The files in order, and their footers; files never change, so each is read once."""
        known = self._footers
        self._footers = {
            path: known[path] if path in known else _footer(path) for path in files_of(self.folder)
        }
        return self._footers


def _topic_id_of(files: Sequence[OffsetFile], generation: int) -> str:
    """What the newest file of a generation that names a topic names; empty if none does."""
    ours = (file for file in files if file.generation == generation)
    newest_first = sorted(ours, key=lambda file: -file.last)
    return next((found for file in newest_first if (found := topic_id_of(file.path))), "")


def _load(held: dict[Path, list[RowGroup]], since: int | None) -> pd.DataFrame:
    """Clicks not older than `since`, of those logged twice the first."""
    wanted = [
        str(path)
        for path, groups in held.items()
        if since is None or any(group.newest >= since for group in groups)
    ]
    newer = None if since is None else ds.field("timestamp") >= since
    table = SCHEMA.empty_table()
    if wanted:
        try:
            table = ds.dataset(wanted, schema=SCHEMA, format="parquet").to_table(filter=newer)
        except (OSError, pa.ArrowException) as error:
            raise event_log_files.unreadable(Path(wanted[0]).parent, error) from None
    frame: pd.DataFrame = table.to_pandas()
    return frame.drop_duplicates("event_id", ignore_index=True)


def _footer(path: Path) -> list[RowGroup]:
    try:
        return event_log_files.row_groups(path)
    except (OSError, pa.ArrowException) as error:
        raise event_log_files.unreadable(path, error) from None
