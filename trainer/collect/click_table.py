"""The Delta Lake table of an event log: its columns, and commits that others may conflict with.

It is in a folder or in an object store, and other processes write it at the same time. A commit
that conflicts with another one is tried again on the newest version of the table.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import unquote

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
from nextclick.shared.runtime.masking import masked_url, redact, secrets_of_url
from nextclick.trainer.collect.newest import rows_in
from nextclick.trainer.collect.tombstones import Tombstones

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
WRITER = WriterProperties(compression="ZSTD", max_row_group_size=131_072)
ATTEMPTS = 20
"""Most attempts of a commit while other processes commit."""

_CONFIGURATION = {
    "delta.checkpointInterval": "100",
    "delta.logRetentionDuration": "interval 6 hours",
    "delta.deletedFileRetentionDuration": "interval 1 days",
    "delta.dataSkippingStatsColumns": "arrival",
}
_FAILURES = (DeltaError, OSError, ValueError, pa.ArrowException)
_OVERHEAD_BYTES = 8192
"""Of a data file and its commit."""
_DECORATION = re.compile(r"\x1b\[[0-9;]*m|↳")
_LONGEST_REASON = 400

T = TypeVar("T")
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


class ClickTable:
    """A Delta Lake table with the columns of SCHEMA."""

    def __init__(self, url: str) -> None:
        """url: a folder or a URL; nothing is read yet."""
        self.url = masked_url(url)  # without secrets, for logs and error texts
        self.folder = Path(url.removeprefix("file://")) if _is_local(url) else None
        """None in an object store."""
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

    @property
    def is_open(self) -> bool:
        """Whether there was a table when it was opened, or it was created."""
        return self._table is not None

    def open(self) -> bool:
        """Open the table; returns whether there is one. Raises ConfigurationError."""
        with self.failing_as(ConfigurationError, "open"):
            self._table = self._found()
        return self.is_open

    def create(self) -> None:
        """Create the table and open it. Raises ConfigurationError."""
        with self.failing_as(ConfigurationError, "open"):
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
            self._table = self._opened()

    def check_writable(self) -> None:
        """Raise Unavailable if the table is away or, in a folder, not writable."""
        if self.folder is None:
            with self.failing_as(Unavailable, "reach"):
                there = self._found() is not None
        else:
            there = os.access(self.folder / "_delta_log", os.W_OK | os.X_OK)
            there = there and os.access(self.folder, os.W_OK | os.X_OK)
        if not there:
            raise Unavailable(f"cannot write into the event log {self.url}; check {SETTING}")

    def current(self) -> DeltaTable:
        """The newest version of the table. Raises Unavailable."""
        if self._table is None or (
            self.folder is not None and not is_event_log(self.folder)
        ):  # writing on would begin another log
            raise Unavailable(f"the event log {self.url} is away; check {SETTING}")
        with self.failing_as(Unavailable, "read"):
            try:
                self._table.update_incremental()
            except DeltaError:  # too far behind: its log was cleaned up
                self._table = self._opened()
        return self._table

    def dataset(self, table: DeltaTable) -> ds.Dataset:
        """The files of a version."""
        return table.to_pyarrow_dataset(filesystem=self._file_system)

    def transaction(self, table: DeltaTable, name: str) -> int | None:
        """The version of an application transaction; looking one up takes milliseconds."""
        if table.version() != self._versions_at:
            self._versions, self._versions_at = {}, table.version()
        if name not in self._versions:
            self._versions[name] = table.transaction_version(name)
        return self._versions[name]

    def tombstones(self, table: DeltaTable) -> Tombstones:
        """Who was forgotten."""
        properties = table.metadata().configuration
        if properties != self._properties:
            self._properties, self._tombstones = properties, Tombstones.of(properties)
        return self._tombstones

    def change(self, attempt: Callable[[DeltaTable], T]) -> T:
        """Change the table, durably; returns what `attempt` returns.

        attempt: called with the newest version of the table, again after each conflict with another
        writer; it makes one commit, or none. Raises Unavailable; whether the commit was made is
        unknown then.
        """
        for _ in range(ATTEMPTS):
            table = self.current()
            before = table.version()
            with self.failing_as(Unavailable, "write", hint="free space or "):
                try:
                    result = attempt(table)
                except CommitFailedError:
                    continue
                if table.version() != before:
                    self._sync(table.version())
                return result
        raise Unavailable(f"cannot write the event log {self.url}: others write all the time")

    def append(self, prepare: Callable[[DeltaTable], Commit | None]) -> int:
        """Add rows with their application transactions in one commit; returns how many rows.

        prepare: called as by `change`; None: there is nothing to add. After an error it will see
        what was added the next time. Raises Unavailable.
        """

        def attempt(table: DeltaTable) -> int:
            if (commit := prepare(table)) is None:
                return 0
            rows, transactions = commit
            before = 0 if isinstance(rows, pa.Table) else rows_in(table)
            self.write(table, rows, transactions)
            return rows.num_rows if isinstance(rows, pa.Table) else rows_in(table) - before

        return self.change(attempt)

    def write(
        self,
        table: DeltaTable,
        rows: pa.Table | pa.RecordBatchReader,
        transactions: Mapping[str, int],
    ) -> None:
        """One commit. Raises CommitFailedError if others have changed one of its transactions."""
        before = table.version()
        if isinstance(rows, pa.Table):
            self._reserve(rows.nbytes + _OVERHEAD_BYTES)
        versions = [Transaction(name, version) for name, version in transactions.items()]
        write_deltalake(
            table,
            rows,
            mode="append",
            writer_properties=WRITER,
            commit_properties=CommitProperties(app_transactions=versions),
        )
        if table.version() == before + 1 == self._versions_at + 1:  # nobody else has written
            self._versions_at += 1
            self._versions |= transactions

    def delete(self, table: DeltaTable, condition: str) -> None:
        """Delete the rows for which some SQL is true, in one commit. Raises CommitFailedError.

        An overwrite with nothing: `DeltaTable.delete` writes files whose texts are views, and
        pyarrow cannot filter these (deltalake 1.6, pyarrow 26).
        """
        nothing = pa.schema(table.schema().to_arrow()).empty_table()
        write_deltalake(
            table, nothing, mode="overwrite", predicate=condition, writer_properties=WRITER
        )

    @contextlib.contextmanager
    def failing_as(self, error: type[Exception], what: str, *, hint: str = "") -> Iterator[None]:
        """Raise errors of the libraries as one of ours: cannot `what` the event log."""
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

    def _reserve(self, size: int) -> None:
        """Raise OSError if a folder's disk is full.

        The table's library would leave a half-written file behind, and write about a panic of one
        of its threads to stderr.
        """
        if self.folder is not None and hasattr(os, "posix_fallocate"):
            with tempfile.TemporaryFile(dir=self.folder) as file:
                os.posix_fallocate(file.fileno(), 0, size)

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


def is_event_log(url: str | Path) -> bool:
    """Whether a folder or a URL holds a Delta table; no, if that cannot be told."""
    if _is_local(url := str(url)):
        return (Path(url.removeprefix("file://")) / "_delta_log").is_dir()
    try:
        DeltaTable(url, storage_options=_storage_options(url))
    except _FAILURES:
        return False
    return True


def former_files(folder: Path | None) -> list[Path]:
    """The files of a log of the format before Delta Lake."""
    return [] if folder is None else sorted(folder.glob("clicks-*.parquet"))


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
