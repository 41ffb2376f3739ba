"""The event log: a Delta Lake table of clicks, in a folder or an object store.

An append is one commit of the table, for all partitions together. Beside the rows it carries
application transactions, which name the offset at which each partition goes on. So rows and offsets
become durable together: a crash between an append and the commit of its offsets doubles nothing,
and of two writers of one partition the second sees that the rows are there. Committed offsets of
the consumer group only serve lag monitors.

    nextclick/offset/<id of the topic>/<partition>    offset after the newest logged message
    nextclick/arrival/<partition>                     newest arrival in the partition, epoch ms
    nextclick/import/<fingerprint>                    1: this file was imported

Compaction, retention and vacuum are the table's own (`maintenance`). Who was forgotten is in its
properties (`tombstones`), and what those forbid is neither written nor read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.runtime import metrics
from nextclick.trainer.collect import erasure
from nextclick.trainer.collect.click_table import (
    NO_PARTITION,
    SCHEMA,
    SETTING,
    ClickTable,
    Commit,
    Row,
    former_files,
)
from nextclick.trainer.collect.erasure import Erased
from nextclick.trainer.collect.maintenance import Maintained, maintain
from nextclick.trainer.collect.newest import arrival_of, file_statistics, in_order, rows_in
from nextclick.trainer.collect.tombstones import BoolArray, Tombstones

log = logging.getLogger(__name__)

COLUMNS = tuple(SCHEMA.names[:6])
"""What `EventLog.read` returns."""


class LogState(NamedTuple):
    """What an event log holds, to tell later how many clicks have come since."""

    log_id: str
    """Of the table; "" if there is none."""
    clicks: int
    newest_arrival: int
    """Epoch ms; -1 without clicks."""
    forget_count: int = 0
    """See `Tombstones.count`."""

    def new_since(self, earlier: LogState) -> int:
        """Clicks logged since an earlier state; all, if that is of another log.

        At least 1 if a newer click has arrived, though more may have been deleted meanwhile; and if
        somebody was forgotten, whom a model may know.
        """
        if self.log_id != earlier.log_id:
            return self.clicks
        changed = (
            self.newest_arrival > earlier.newest_arrival
            or self.forget_count != earlier.forget_count
        )
        return max(self.clicks - earlier.clicks, int(changed))


class EventLog:
    """A Delta Lake table of clicks."""

    def __init__(
        self,
        url: str,
        *,
        read_only: bool = False,
        must_exist: bool = False,
    ) -> None:
        """Open the table at a folder or URL; create it if there is none.

        read_only: create and change nothing; a log that is not there is empty. must_exist: do
        not create.

        Raises ConfigurationError or Unavailable if it cannot be written, or is no event log.
        """
        self._clicks = ClickTable(url)
        self.url, self.folder = self._clicks.url, self._clicks.folder
        self.topic_id = ""
        """Id of the topic (KIP-516) whose offsets `append` and `next_offsets` refer to: those of a
        topic that was made anew are unrelated to those of the former one."""
        if not self._clicks.open():
            if former_files(self.folder):
                raise ConfigurationError(
                    f"the event log {self.url} has the format of an earlier version; "
                    "stop the trainer and run: nextclick events upgrade"
                )
            if must_exist:
                raise ConfigurationError(f"there is no event log at {self.url}; check {SETTING}")
            if not read_only:
                self._clicks.create()
        if not read_only and self.folder is not None:
            self.check_writable()

    def check_writable(self) -> None:
        """Raise Unavailable if the log is away or, in a folder, not writable."""
        self._clicks.check_writable()

    def next_offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """Partition → the offset after the newest one in the log; those without one are left out.

        Raises Unavailable.
        """
        table = self._clicks.current()
        with self._clicks.failing_as(Unavailable, "read"):
            return self._next_offsets(table, partitions)

    def append(self, rows: Sequence[Row], next_offsets: Mapping[int, int]) -> int:
        """Add the clicks of some partitions, at once; returns how many were not there before.

        rows: the valid clicks, of each partition in order. next_offsets: partition → the offset
        after the last message read, be it a click or not. What others have logged meanwhile is
        left out, and what the tombstones forbid. Raises Unavailable.
        """
        forgotten = 0

        def prepare(table: DeltaTable) -> Commit | None:
            logged = self._next_offsets(table, next_offsets)
            new = {p: end for p, end in next_offsets.items() if end > logged.get(p, 0)}
            if not new:
                return None
            kept = [
                row
                for row in rows
                if row.kafka_partition in new
                and row.kafka_offset >= logged.get(row.kafka_partition, 0)
            ]
            tombstones, before = self._clicks.tombstones(table), len(kept)
            kept = [
                row
                for row in kept
                if not tombstones.forbid(row.user_id, min(row.timestamp, row.arrival))
            ]
            nonlocal forgotten
            forgotten = before - len(kept)
            names = {p: f"nextclick/arrival/{p}" for p in new}
            newest = {p: self._clicks.transaction(table, name) or 0 for p, name in names.items()}
            # Sorting by arrival must keep the order in the partition, whatever clocks say.
            arrivals = []
            for row in kept:
                newest[row.kafka_partition] = max(newest[row.kafka_partition], row.arrival)
                arrivals.append(newest[row.kafka_partition])
            ends = {offset_name(self.topic_id, p): end for p, end in new.items()}
            return _table_of(kept, arrivals), ends | {names[p]: newest[p] for p in new}

        appended = self._clicks.append(prepare)
        _report(forgotten)
        return appended

    def import_clicks(self, frame: pd.DataFrame, source: str = "") -> int:
        """Add clicks that are not from Kafka, at once; returns how many.

        frame: columns as in COLUMNS; `event_type` ("click") and `arrival` (the timestamp) may be
        missing. source: identifies the file; of one that was imported before nothing is added.
        What the tombstones forbid is left out. Raises Unavailable.
        """
        forgotten = 0
        frame = with_defaults(frame).sort_values(["arrival", "event_id"], kind="stable")
        frame = frame.assign(kafka_partition=NO_PARTITION, kafka_offset=NO_PARTITION)
        clicks = pa.Table.from_pandas(frame, SCHEMA, preserve_index=False)
        name = f"nextclick/import/{source}"

        def prepare(table: DeltaTable) -> Commit | None:
            if source and table.transaction_version(name) is not None:
                return None
            forbidden = _forbidden(clicks, self._clicks.tombstones(table))
            nonlocal forgotten
            forgotten = int(forbidden.sum())
            return clicks.filter(pa.array(~forbidden)), {name: 1} if source else {}

        imported = self._clicks.append(prepare)
        _report(forgotten)
        return imported

    def count(self) -> int:
        """Number of logged clicks, without reading them. Raises Unavailable."""
        if not self._clicks.is_open:
            return 0
        table = self._clicks.current()
        with self._clicks.failing_as(Unavailable, "read"):
            return rows_in(table)

    def state(self) -> LogState:
        """How many clicks there are, and the newest arrival, without reading them.

        Raises Unavailable.
        """
        if not self._clicks.is_open:
            return LogState("", 0, -1)
        table = self._clicks.current()
        with self._clicks.failing_as(Unavailable, "read"):
            files = file_statistics(table)
            newest = files.newest.max(initial=-1)
            count = self._clicks.tombstones(table).count
            return LogState(str(table.metadata().id), int(files.rows.sum()), int(newest), count)

    def read(self, newest: int | None = None, columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
        """The clicks, or those `newest` that arrived last, by (arrival, partition, offset).

        Of a user's clicks with one event_id only the first is returned, and none that the
        tombstones forbid. Reads in two passes: first the arrivals only, of the files that are new
        enough by their statistics; then the rows that are in the window, so memory depends on
        `newest`, not on the size of the log. Raises Unavailable; ConfigurationError if a file is
        broken.
        """
        if not self._clicks.is_open:
            empty: pd.DataFrame = SCHEMA.empty_table().select(list(columns)).to_pandas()
            return empty
        table = self._clicks.current()
        with self._clicks.failing_as(ConfigurationError, "read"):
            while True:
                version = table.version()
                try:
                    clicks = self._newest(table, newest)
                    break
                except FileNotFoundError:
                    # Compacted and vacuumed by another process, or somebody was forgotten, and
                    # files with them: a newer version names others.
                    if (table := self._clicks.current()).version() == version:
                        raise
            frame: pd.DataFrame = clicks.select(list(columns)).to_pandas()
            return frame

    def _newest(self, table: DeltaTable, newest: int | None) -> pa.Table:
        wanted = newest
        dataset = self._clicks.dataset(table)
        tombstones = self._clicks.tombstones(table)
        while True:
            since = None if wanted is None else arrival_of(wanted, table, dataset)
            newer = None if since is None else ds.field("arrival") >= since
            clicks = in_order(dataset.to_table(filter=newer))
            if (forbidden := _forbidden(clicks, tombstones)).any():
                clicks = clicks.filter(pa.array(~forbidden))
            if since is None or newest is None or len(clicks) >= newest:
                break
            wanted = 2 * max(wanted or 0, 1)  # some were left out, or duplicates: read on
        return clicks if newest is None else clicks.slice(max(0, len(clicks) - newest))

    def tombstones(self) -> Tombstones:
        """Who was forgotten. Raises Unavailable."""
        if not self._clicks.is_open:
            return Tombstones()
        return self._clicks.tombstones(self._clicks.current())

    def forget(
        self,
        user_id: str,
        moment: int,
        *,
        keep_days: int = 0,
        wait_seconds: float = 60.0,
        on_step: Callable[[str], None] = lambda step: None,
    ) -> Erased:
        """Forget a user: from now on no version of the table has them.

        1  a tombstone: from here on no click of theirs until `moment` (epoch ms) is written or read
        2  count them, if the log holds them: models may know them, so the next fit starts anew
        3  delete their rows
        4  remove the files that held them

        After a crash, begin again. keep_days: the log drops clicks after so many days, and then a
        user whom it does not hold is counted, too, as one who expired; 0: it drops none.
        wait_seconds: to wait at most for a compaction, whose files may hold the user. on_step: is
        told after each step. Others may read, append and forget meanwhile. Raises Unavailable.
        """
        return erasure.forget(
            self._clicks,
            user_id,
            moment,
            keep_days=keep_days,
            wait_seconds=wait_seconds,
            on_step=on_step,
        )

    def remove_models(self) -> None:
        """Have the trainer remove all models that know a forgotten user, as soon as it may.

        Raises Unavailable.
        """
        erasure.set_properties(self._clicks, Tombstones.removing_models)

    def maintain(self, keep_days: int = 0) -> Maintained:
        """Delete what arrived too long ago, merge small files, and remove those out of use.

        keep_days: whole days to keep; 0: everything. A file goes a day after it was replaced, so
        that whoever is reading it can finish. Others may write and read meanwhile. If another
        process of ours is at it, nothing is done. Raises Unavailable.
        """
        return maintain(self._clicks, keep_days)

    def _next_offsets(self, table: DeltaTable, partitions: Iterable[int]) -> dict[int, int]:
        names = {p: offset_name(self.topic_id, p) for p in partitions}
        found = {p: self._clicks.transaction(table, name) for p, name in names.items()}
        return {p: offset for p, offset in found.items() if offset is not None}


def _forbidden(clicks: pa.Table, tombstones: Tombstones) -> BoolArray:
    """Which clicks of a table with the columns of SCHEMA must not be learned: shape [N]."""
    if not tombstones.users:
        return np.zeros(len(clicks), bool)
    first = np.minimum(clicks["timestamp"].to_numpy(), clicks["arrival"].to_numpy())
    result: BoolArray = first <= tombstones.newest
    suspects = clicks["user_id"].filter(pa.array(result)).to_pandas()
    result[result] = tombstones.forbidden(suspects, first[result])
    return result


def _report(forgotten: int) -> None:
    """Count clicks that a tombstone forbids."""
    if forgotten:
        metrics.FORGOTTEN_CLICKS.inc(forgotten)
        log.info("%d clicks of forgotten users are left out", forgotten)


def offset_name(topic_id: str, partition: int) -> str:
    """The application transaction that holds the next offset of a partition."""
    return f"nextclick/offset/{topic_id}/{partition}"


def with_defaults(frame: pd.DataFrame) -> pd.DataFrame:
    """COLUMNS of a frame; event_type ("click") and arrival (timestamp) may be missing."""
    if "event_type" not in frame:
        frame = frame.assign(event_type="click")
    if "arrival" not in frame:
        frame = frame.assign(arrival=frame["timestamp"])
    columns: pd.DataFrame = frame[list(COLUMNS)]
    return columns


def _table_of(rows: Sequence[Row], arrivals: Sequence[int]) -> pa.Table:
    columns: list[Sequence[object]] = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    columns[SCHEMA.get_field_index("arrival")] = arrivals
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)
