"""The event log: a Delta Lake table of clicks, in a folder or an object store.

An append is one commit of the table, for all partitions together. Beside the rows it carries
application transactions, which name the offset at which each partition goes on. So rows and offsets
become durable together: a crash between an append and the commit of its offsets doubles nothing,
and of two writers of one partition the second sees that the rows are there. Committed offsets of
the consumer group only serve lag monitors.

    nextclick/offset/<id of the topic>/<partition>    offset after the newest logged message
    nextclick/arrival/<partition>                     newest arrival in the partition, epoch ms
    nextclick/import/<fingerprint>                    1: this file was imported
    nextclick/maintenance                             until when somebody compacts, epoch ms

Compaction, retention and vacuum are the table's own (`EventLog.maintain`). Who was forgotten is in
its properties (`tombstones`), and what those forbid is neither written nor read.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as fs
from deltalake import (
    CommitProperties,
    DeltaTable,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.masking import masked_url, redact, secrets_of_url
from nextclick.trainer.collect import erasure
from nextclick.trainer.collect.newest import arrival_of, file_statistics, in_order, rows_in
from nextclick.trainer.collect.tombstones import NEVER, BoolArray, Tombstones

log = logging.getLogger(__name__)

SETTING = "NEXTCLICK_TRAINER__EVENT_LOG"
NO_PARTITION = -1
"""Partition and offset of imported clicks: they come before all others of the same arrival."""
SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", pa.int64()),
        ("event_type", pa.string()),
        ("arrival", pa.int64()),
        ("kafka_partition", pa.int32()),
        ("kafka_offset", pa.int64()),
    ]
)
COLUMNS = tuple(SCHEMA.names[:6])
"""What `EventLog.read` returns."""

_CONFIGURATION = {
    "delta.checkpointInterval": "100",
    "delta.logRetentionDuration": "interval 6 hours",
    "delta.deletedFileRetentionDuration": "interval 1 days",
    "delta.dataSkippingStatsColumns": "arrival",
}
_LEVELS = ((8 << 20, 2), (64 << 20, 16))
"""Files are merged into files of so many bytes, as soon as there are so many smaller ones. Two
levels, so that a click is rewritten about three times in all."""
_LEASE_MS = 3_600_000
"""After a death in a compaction nobody compacts for so long."""
_LEASE = "nextclick/maintenance"
_WRITER = WriterProperties(compression="ZSTD", max_row_group_size=131_072)
_ATTEMPTS = 20
"""Most attempts of a commit while other processes commit."""
_FAILURES = (DeltaError, OSError, ValueError, pa.ArrowException)
_DAY_MS = 86_400_000
_OVERHEAD_BYTES = 8192
"""Of a data file and its commit."""
_DECORATION = re.compile(r"\x1b\[[0-9;]*m|↳")
_LONGEST_REASON = 400

Commit = tuple[pa.Table | pa.RecordBatchReader, Mapping[str, int]]
"""Rows, and the application transactions that go with them."""


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
    kafka_partition: int = NO_PARTITION
    kafka_offset: int = NO_PARTITION


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


class Maintained(NamedTuple):
    """The outcome of `EventLog.maintain`."""

    files_before: int
    files_after: int
    rows_deleted: int


class Erased(NamedTuple):
    """The outcome of `EventLog.forget`."""

    user_hash: str
    rows: int
    files: int
    version_before: int
    """Of the table."""
    version_after: int
    models: int
    """Models trained at a lower forget count may know the user; 0: none does."""
    unfinished: tuple[str, ...] = ()
    """What may still hold the user, and what to do about it."""


class EventLog:
    """A Delta Lake table of clicks."""

    def __init__(
        self,
        url: str,
        *,
        read_only: bool = False,
        upgrading: bool = False,
        must_exist: bool = False,
    ) -> None:
        """Open the table at a folder or URL; create it if there is none.

        read_only: create and change nothing; a log that is not there is empty. upgrading: do not
        refuse a folder with files of the former format (see `upgrade`). must_exist: do not create.

        Raises ConfigurationError or Unavailable if it cannot be written, or is no event log.
        """
        self.url = masked_url(url)  # without secrets, for logs and error texts
        self.folder = Path(url.removeprefix("file://")) if _is_local(url) else None
        """None in an object store."""
        self.topic_id = ""
        """Id of the topic (KIP-516) whose offsets `append` and `next_offsets` refer to: those of a
        topic that was made anew are unrelated to those of the former one."""
        self._uri = url if self.folder is None else str(self.folder.absolute())
        self._secrets = secrets_of_url(url)
        self._options = _storage_options(url)
        self._table: DeltaTable | None = None
        self._file_system = (
            None
            if self.folder is None
            else fs.SubTreeFileSystem(self._uri, fs.LocalFileSystem(use_mmap=True))
        )
        """Arrow's own is faster than that of the table's library, where there is one."""
        self._versions: dict[str, int | None] = {}
        self._versions_at = -1
        self._properties: dict[str, str] = {}
        self._tombstones = Tombstones()
        with self._failing_as(ConfigurationError, "open"):
            self._table = self._found()
            if self._table is None and not upgrading and former_files(self.folder):
                raise ConfigurationError(
                    f"the event log {self.url} has the format of an earlier version; "
                    "stop the trainer and run: nextclick events upgrade"
                )
            if self._table is None and must_exist:
                raise ConfigurationError(f"there is no event log at {self.url}; check {SETTING}")
            if self._table is None and not read_only:
                self._table = self._created()
        if not read_only and self.folder is not None:
            self.check_writable()

    def check_writable(self) -> None:
        """Raise Unavailable if the log is away or, in a folder, not writable."""
        if self.folder is None:
            with self._failing_as(Unavailable, "reach"):
                there = self._found() is not None
        else:
            there = os.access(self.folder / "_delta_log", os.W_OK | os.X_OK)
            there = there and os.access(self.folder, os.W_OK | os.X_OK)
        if not there:
            raise Unavailable(f"cannot write into the event log {self.url}; check {SETTING}")

    def next_offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """Partition → the offset after the newest one in the log; those without one are left out.

        Raises Unavailable.
        """
        table = self._current()
        with self._failing_as(Unavailable, "read"):
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
            tombstones, before = self._tombstones_of(table), len(kept)
            kept = [
                row
                for row in kept
                if not tombstones.forbid(row.user_id, min(row.timestamp, row.arrival))
            ]
            nonlocal forgotten
            forgotten = before - len(kept)
            names = {p: f"nextclick/arrival/{p}" for p in new}
            newest = {p: self._version(table, name) or 0 for p, name in names.items()}
            # Sorting by arrival must keep the order in the partition, whatever clocks say.
            arrivals = []
            for row in kept:
                newest[row.kafka_partition] = max(newest[row.kafka_partition], row.arrival)
                arrivals.append(newest[row.kafka_partition])
            ends = {offset_name(self.topic_id, p): end for p, end in new.items()}
            return _table_of(kept, arrivals), ends | {names[p]: newest[p] for p in new}

        appended = self.commit(prepare)
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
            forbidden = _forbidden(clicks, self._tombstones_of(table))
            nonlocal forgotten
            forgotten = int(forbidden.sum())
            return clicks.filter(pa.array(~forbidden)), {name: 1} if source else {}

        imported = self.commit(prepare)
        _report(forgotten)
        return imported

    def commit(self, prepare: Callable[[DeltaTable], Commit | None]) -> int:
        """Add rows with their application transactions in one commit; returns how many rows.

        prepare: called with the newest version of the table, again after each conflict with another
        writer; None: there is nothing to add. Raises Unavailable; what was added then is unknown,
        and `prepare` will see it the next time.
        """
        for _ in range(_ATTEMPTS):
            table = self._current()
            with self._failing_as(Unavailable, "write", hint="free space or "):
                if (commit := prepare(table)) is None:
                    return 0
                rows, versions = commit
                before = 0 if isinstance(rows, pa.Table) else rows_in(table)
                try:
                    self._write(table, rows, versions)
                except CommitFailedError:
                    continue
                self._sync(table.version())
                return rows.num_rows if isinstance(rows, pa.Table) else rows_in(table) - before
        raise self._busy()

    def _busy(self) -> Unavailable:
        return Unavailable(f"cannot write the event log {self.url}: others write all the time")

    def count(self) -> int:
        """Number of logged clicks, without reading them. Raises Unavailable."""
        if self._is_missing():
            return 0
        table = self._current()
        with self._failing_as(Unavailable, "read"):
            return rows_in(table)

    def state(self) -> LogState:
        """How many clicks there are, and the newest arrival, without reading them.

        Raises Unavailable.
        """
        if self._is_missing():
            return LogState("", 0, -1)
        table = self._current()
        with self._failing_as(Unavailable, "read"):
            files = file_statistics(table)
            newest = files.newest.max(initial=-1)
            count = self._tombstones_of(table).count
            return LogState(str(table.metadata().id), int(files.rows.sum()), int(newest), count)

    def read(self, newest: int | None = None, columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
        """The clicks, or those `newest` that arrived last, by (arrival, partition, offset).

        Of a user's clicks with one event_id only the first is returned, and none that the
        tombstones forbid. Reads in two passes: first
        the arrivals only, of the files that are new enough by their statistics; then the rows that
        are in the window, so memory depends on `newest`, not on the size of the log. Raises
        Unavailable; ConfigurationError if a file is broken.
        """
        if self._is_missing():
            empty: pd.DataFrame = SCHEMA.empty_table().select(list(columns)).to_pandas()
            return empty
        table = self._current()
        with self._failing_as(ConfigurationError, "read"):
            while True:
                version = table.version()
                try:
                    clicks = self._newest(table, newest)
                    break
                except FileNotFoundError:
                    # Compacted and vacuumed by another process, or somebody was forgotten, and
                    # files with them: a newer version names others.
                    if (table := self._current()).version() == version:
                        raise
            frame: pd.DataFrame = clicks.select(list(columns)).to_pandas()
            return frame

    def _newest(self, table: DeltaTable, newest: int | None) -> pa.Table:
        wanted = newest
        dataset = table.to_pyarrow_dataset(filesystem=self._file_system)
        tombstones = self._tombstones_of(table)
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
        return Tombstones() if self._is_missing() else self._tombstones_of(self._current())

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
        before, previous = self._current().version(), self.tombstones().get(user_id)
        since = NEVER if previous is None else previous.moment
        may_have_expired = keep_days > 0 and since <= moment - keep_days * _DAY_MS
        key, unfinished = secrets.token_hex(16), []
        self._set_properties(lambda tombstones: tombstones.adding(user_id, moment, key))
        on_step("tombstone")
        table = self._current()
        with self._failing_as(Unavailable, "search"):
            found = erasure.held(table.to_pyarrow_dataset(filesystem=self._file_system), user_id)
        if found.rows or may_have_expired:
            self._set_properties(lambda tombstones: tombstones.counting(user_id))
        on_step("count")
        if found.rows:
            self._delete(user_id, found)
        on_step("rows")
        if not self._await_maintenance(wait_seconds):
            unfinished.append(
                f"the event log {self.url} is being compacted, or somebody died doing so: files of "
                "that may hold the user for a day; run the command again in an hour"
            )
        files = 0 if self.folder is None else erasure.remove_half_written(self.folder)
        files += self._remove_files(user_id, moment)
        on_step("files")
        if former := former_files(self.folder):
            unfinished.append(
                f"{len(former)} files clicks-….parquet of the former format are in {self.url} and "
                "may hold the user; delete them"
            )
        tombstones = self.tombstones()
        return Erased(
            tombstones.hash_of(user_id),
            found.rows,
            files,
            before,
            self._current().version(),
            tombstones.users[tombstones.hash_of(user_id)].forget_count,
            tuple(unfinished),
        )

    def remove_models(self) -> None:
        """Have the trainer remove all models that know a forgotten user, as soon as it may.

        Raises Unavailable.
        """
        self._set_properties(Tombstones.removing_models)

    def _set_properties(self, change: Callable[[Tombstones], Mapping[str, str]]) -> None:
        """Change properties by what they are now, again after each conflict."""
        for _ in range(_ATTEMPTS):
            table = self._current()
            with self._failing_as(Unavailable, "write", hint="free space or "):
                properties = dict(change(self._tombstones_of(table)))
                try:
                    table.alter.set_table_properties(properties, raise_if_not_exists=False)
                except CommitFailedError:
                    continue
                self._sync(table.version())
                return
        raise self._busy()

    def _delete(self, user_id: str, found: erasure.Held) -> None:
        for _ in range(_ATTEMPTS):
            table = self._current()
            tombstones = self._tombstones_of(table)
            with self._failing_as(Unavailable, "write", hint="free space or "):
                try:
                    condition = erasure.condition_for(tombstones, user_id, found)
                    erasure.delete_where(table, condition, _WRITER)
                except CommitFailedError:
                    continue
                self._sync(table.version())
                return
        raise self._busy()

    def _remove_files(self, user_id: str, moment: int) -> int:
        with self._failing_as(Unavailable, "clean up"):
            for attempt in range(_ATTEMPTS):
                try:
                    return erasure.remove_files(self._current(), user_id, moment)
                except (DeltaError, FileNotFoundError):  # others remove the same files
                    if attempt == _ATTEMPTS - 1:
                        raise
        raise AssertionError

    def _await_maintenance(self, seconds: float) -> bool:
        """Wait until nobody compacts; returns whether that is so."""
        deadline = time.monotonic() + seconds
        while (self._current().transaction_version(_LEASE) or 0) > time.time() * 1000:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def _tombstones_of(self, table: DeltaTable) -> Tombstones:
        properties = table.metadata().configuration
        if properties != self._properties:
            self._properties, self._tombstones = properties, Tombstones.of(properties)
        return self._tombstones

    def maintain(self, keep_days: int = 0) -> Maintained:
        """Delete what arrived too long ago, merge small files, and remove those out of use.

        keep_days: whole days to keep; 0: everything. A file goes a day after it was replaced, so
        that whoever is reading it can finish. Others may write and read meanwhile. If another
        process of ours is at it, nothing is done. Raises Unavailable.
        """
        table = self._current()
        files, rows = file_statistics(table), rows_in(table)
        with self._failing_as(Unavailable, "compact"), contextlib.suppress(CommitFailedError):
            today = int(time.time() * 1000 // _DAY_MS * _DAY_MS)
            oldest = today - keep_days * _DAY_MS if keep_days else -1
            if (files.oldest < oldest).any():
                erasure.delete_where(table, f"arrival < {oldest}", _WRITER)
            kept = rows_in(table)
            if self._lease(table):  # of two compactions at once, each would keep its own copy
                with contextlib.suppress(CommitFailedError):  # a user is forgotten meanwhile
                    self._compact(table)
                self.commit(lambda _: (_table_of([], []), {_LEASE: 0}))
            return Maintained(len(files.rows), len(file_statistics(table).rows), rows - kept)
        return Maintained(len(files.rows), len(files.rows), 0)

    def _compact(self, table: DeltaTable) -> None:
        """Raises CommitFailedError if somebody deletes rows or forgets a user meanwhile."""
        for size, least in _LEVELS:
            if np.count_nonzero(file_statistics(table).bytes < 0.75 * size) >= least:
                table.optimize.compact(
                    target_size=size, max_concurrent_tasks=1, writer_properties=_WRITER
                )
        table.vacuum(dry_run=False, full=True)  # with what crashes and conflicts have left
        if self.folder is not None:
            erasure.remove_half_written(self.folder, older_than=_DAY_MS / 1000)

    def _lease(self, table: DeltaTable) -> bool:
        """Whether there is something to compact, and nobody else is at it for now.

        Raises CommitFailedError if somebody else begins at this moment.
        """
        smallest, least = _LEVELS[0]
        now = int(time.time() * 1000)
        if np.count_nonzero(file_statistics(table).bytes < 0.75 * smallest) < least:
            return False
        if (table.transaction_version(_LEASE) or 0) > now:
            return False
        self._write(table, _table_of([], []), {_LEASE: now + _LEASE_MS})
        return True

    def _write(
        self, table: DeltaTable, rows: pa.Table | pa.RecordBatchReader, versions: Mapping[str, int]
    ) -> None:
        """Raises CommitFailedError if another process has changed one of these transactions."""
        transactions = [Transaction(name, version) for name, version in versions.items()]
        before = table.version()
        if isinstance(rows, pa.Table):
            self._reserve(rows.nbytes + _OVERHEAD_BYTES)
        write_deltalake(
            table,
            rows,
            mode="append",
            writer_properties=_WRITER,
            commit_properties=CommitProperties(app_transactions=transactions),
        )
        if table.version() == before + 1 == self._versions_at + 1:  # nobody else has written
            self._versions_at += 1
            self._versions |= versions

    def _reserve(self, size: int) -> None:
        """Raise OSError if a folder's disk is full.

        The table's library would leave a half-written file behind, and write about a panic of one
        of its threads to stderr.
        """
        if self.folder is not None and hasattr(os, "posix_fallocate"):
            with tempfile.TemporaryFile(dir=self.folder) as file:
                os.posix_fallocate(file.fileno(), 0, size)

    def _version(self, table: DeltaTable, name: str) -> int | None:
        """Of an application transaction; looking one up takes milliseconds."""
        if table.version() != self._versions_at:
            self._versions, self._versions_at = {}, table.version()
        if name not in self._versions:
            self._versions[name] = table.transaction_version(name)
        return self._versions[name]

    def _next_offsets(self, table: DeltaTable, partitions: Iterable[int]) -> dict[int, int]:
        found = {p: self._version(table, offset_name(self.topic_id, p)) for p in partitions}
        return {p: offset for p, offset in found.items() if offset is not None}

    def _found(self) -> DeltaTable | None:
        if self.folder is not None and not is_event_log(self.folder):
            return None  # opening it would make the folder
        with contextlib.suppress(TableNotFoundError):
            return self._opened()
        return None

    def _opened(self) -> DeltaTable:
        table = DeltaTable(self._uri, storage_options=self._options)
        names = {field.name for field in table.schema().fields}
        if missing := [name for name in SCHEMA.names if name not in names]:
            raise ConfigurationError(
                f"the Delta table {self.url} is no event log: it has no column "
                f"{', '.join(missing)}; set {SETTING} to another place"
            )
        return table

    def _created(self) -> DeltaTable:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(CommitFailedError):  # another process creates it, too
            DeltaTable.create(
                self._uri,
                SCHEMA,
                mode="ignore",
                name="nextclick event log",
                configuration=_CONFIGURATION,
                storage_options=self._options,
            )
        return self._opened()

    def _is_missing(self) -> bool:
        """Whether a log that was opened to read was not there."""
        return self._table is None

    def _current(self) -> DeltaTable:
        """The newest version of the table."""
        if self._table is None or (
            self.folder is not None and not is_event_log(self.folder)
        ):  # writing on would begin another log
            raise Unavailable(f"the event log {self.url} is away; check {SETTING}")
        with self._failing_as(Unavailable, "read"):
            try:
                self._table.update_incremental()
            except DeltaError:  # too far behind: its log was cleaned up
                self._table = self._opened()
        return self._table

    def _sync(self, version: int) -> None:
        """Flush a commit and its files to the disk, which the table's library does not."""
        if self.folder is None:
            return
        commits = self.folder / "_delta_log"
        commit = commits / f"{version:020d}.json"
        actions = [json.loads(line) for line in commit.read_text().splitlines()]
        added = [self.folder / unquote(a["add"]["path"]) for a in actions if "add" in a]
        for path in (*added, self.folder, commit, commits):
            with contextlib.suppress(FileNotFoundError):  # replaced since, and removed
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    @contextlib.contextmanager
    def _failing_as(self, error: type[Exception], what: str, *, hint: str = "") -> Iterator[None]:
        try:
            yield
        except CommitFailedError:
            raise
        except _FAILURES as failure:
            kind = Unavailable if isinstance(failure, OSError) and self.folder is None else error
            # Causes stand below each other, with arrows in colour.
            text = " ".join(_DECORATION.sub("", str(failure)).split()) or type(failure).__name__
            reason = text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} …"
            raise kind(
                f"cannot {what} the event log {self.url} ({redact(self._secrets, reason)}); "
                f"{hint}check {SETTING}"
            ) from None


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


def former_files(folder: Path | None) -> list[Path]:
    """The files of a log of the format before Delta Lake."""
    return [] if folder is None else sorted(folder.glob("clicks-*.parquet"))


def is_event_log(url: str | Path) -> bool:
    """Whether a folder or a URL holds a Delta table; no, if that cannot be told."""
    if _is_local(url := str(url)):
        return (Path(url.removeprefix("file://")) / "_delta_log").is_dir()
    try:
        DeltaTable(url, storage_options=_storage_options(url))
    except _FAILURES:
        return False
    return True


def with_defaults(frame: pd.DataFrame) -> pd.DataFrame:
    """COLUMNS of a frame; event_type ("click") and arrival (timestamp) may be missing."""
    if "event_type" not in frame:
        frame = frame.assign(event_type="click")
    if "arrival" not in frame:
        frame = frame.assign(arrival=frame["timestamp"])
    columns: pd.DataFrame = frame[list(COLUMNS)]
    return columns


def _is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def _storage_options(url: str) -> dict[str, str]:
    """For an object store: fail after seconds, not minutes; the rest is in the environment."""
    if _is_local(url):
        return {}
    options = {"max_retries": "3", "retry_timeout": "15s", "timeout": "30s"}
    if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["allow_http"] = "true"
    return options


def _table_of(rows: Sequence[Row], arrivals: Sequence[int]) -> pa.Table:
    columns: list[Sequence[object]] = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    columns[SCHEMA.get_field_index("arrival")] = arrivals
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)
