"""The files of an event log: names, footers, locking and writing.

    clicks-g0002-p00003-000000000000001200-000000000000001317.parquet
        generation, partition, first and last offset
    clicks-import-000000000000000000.parquet
        imported clicks, without offsets

When a topic is deleted and created again, its offsets start at 0 again: a new *generation*. The
names of the first generation have no number. The topic id (KIP-516) of a generation is in the
footers.

A file whose offsets all lie within those of another file of its partition and generation is
*covered*: it was merged into that file (`compaction`), but the process died before it removed it.
Covered files are ignored.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nextclick.shared.errors import ConfigurationError, Unavailable

SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", pa.int64()),
        ("event_type", pa.string()),
        ("arrival", pa.int64()),
    ]
)
"""Columns of a log. Files of older versions lack the last two: clicks, which arrived when they
happened."""
ROWS_IN_A_GROUP = 65_536
"""Most rows in a row group: the granularity at which reading skips old rows."""

TOPIC_ID = b"nextclick.topic_id"
"""Footer metadata: id of the topic that the offsets refer to. Missing in the oldest logs."""

_NAME = re.compile(r"clicks-(?:g(\d{4})-)?p(\d{5})-(\d{18})-(\d{18})\.parquet")
_IMPORTED = re.compile(r"clicks-import-(\d{18})\.parquet")
_ALWAYS = (0, 2**63 - 1)


@dataclass(frozen=True, slots=True, order=True)
class OffsetFile:
    """A file with one offset range of one partition; sorts by generation, partition, offset."""

    generation: int
    partition: int
    first: int
    last: int
    path: Path

    @property
    def stream(self) -> tuple[int, int]:
        """(generation, partition): offsets are comparable within one of these."""
        return self.generation, self.partition


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Row count and time range of a row group, from a footer."""

    rows: int
    oldest: int
    """Lower bound of the arrivals, epoch ms."""
    newest: int
    """Upper bound of the arrivals, epoch ms."""


def name_of(generation: int, partition: int, first: int, last: int) -> str:
    """The file name of an offset range."""
    of_generation = f"g{generation:04d}-" if generation else ""
    return f"clicks-{of_generation}p{partition:05d}-{first:018d}-{last:018d}.parquet"


def topic_id_of(path: Path) -> str:
    """The topic id in a file's footer; "" if it has none."""
    metadata = pq.read_schema(path).metadata or {}
    return str(metadata.get(TOPIC_ID, b"").decode())


def offset_files(folder: Path) -> list[OffsetFile]:
    """All files with offsets in a folder, with covered ones, sorted."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.glob("clicks-*.parquet"))
    return sorted(
        OffsetFile(int(m[1] or 0), int(m[2]), int(m[3]), int(m[4]), path) for m, path in found if m
    )


def stream_of(path: Path) -> tuple[int, int] | None:
    """(generation, partition) of a file, from its name; None if it is an import."""
    match = _NAME.fullmatch(path.name)
    return None if match is None else (int(match[1] or 0), int(match[2]))


def uncovered(files: Iterable[OffsetFile]) -> list[OffsetFile]:
    """Remove the covered files; returns the others, sorted. Pure."""
    kept: list[OffsetFile] = []
    for file in sorted(files, key=lambda file: (*file.stream, file.first, -file.last)):
        # Earlier files start no later, so the last kept one has the highest offset so far.
        if not (kept and kept[-1].stream == file.stream and file.last <= kept[-1].last):
            kept.append(file)
    return kept


def next_import(folder: Path) -> str:
    """The name of the next import: the highest number + 1, as older ones may be deleted."""
    matches = [_IMPORTED.fullmatch(path.name) for path in folder.glob("clicks-import-*")]
    number = max((int(m[1]) for m in matches if m), default=-1) + 1
    return f"clicks-import-{number:018d}.parquet"


def files_of(folder: Path) -> list[Path]:
    """The files to read of an event log, in order: imports, then uncovered files with offsets."""
    imported = sorted(p for p in folder.glob("clicks-import-*") if _IMPORTED.fullmatch(p.name))
    return imported + [file.path for file in uncovered(offset_files(folder))]


def row_groups(path: Path) -> list[RowGroup]:
    """Read a file's footer. A group without statistics gets the widest time range."""
    groups = []
    metadata = pq.read_metadata(path)
    names = metadata.schema.names
    column = names.index("arrival" if "arrival" in names else "timestamp")
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        statistics = group.column(column).statistics
        known = statistics is not None and statistics.has_min_max
        oldest, newest = (statistics.min, statistics.max) if known else _ALWAYS
        groups.append(RowGroup(group.num_rows, oldest, newest))
    return groups


def horizon(groups: Iterable[RowGroup], newest: int) -> int | None:
    """The latest time (epoch ms) from which on there are at least `newest` rows; None: read all.

    A conservative bound: it only counts groups that lie completely after that time. Pure.
    """
    seen = 0
    for group in sorted(groups, key=lambda group: -group.oldest):
        seen += group.rows
        if seen >= newest:
            return group.oldest
    return None


@contextlib.contextmanager
def locked(folder: Path, *, exclusive: bool = False) -> Iterator[None]:
    """Lock the folder, shared to list files, exclusive to replace them.

    Without the lock, a listing during a compaction could miss both the old files and the merged
    one. Adding a file needs no lock. If the folder is missing, a shared lock does nothing; an
    exclusive one raises Unavailable.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if not exclusive:
            yield
            return
        raise Unavailable(
            f"cannot read the event log {folder} ({error}); check NEXTCLICK_TRAINER__EVENT_LOG"
        ) from None
    try:
        with contextlib.suppress(OSError):  # no locks on this file system; mostly one trainer
            fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def write(folder: Path, name: str, table: pa.Table, *, replace: bool = True) -> None:
    """Write a file atomically and durably. Raises Unavailable.

    Without `replace`: raises FileExistsError if there is one of that name.
    """
    temporary = folder / f".{name}.{secrets.token_hex(4)}.tmp"
    try:
        with open(temporary, "wb") as file:
            pq.write_table(table, file, row_group_size=ROWS_IN_A_GROUP)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.rename(folder / name)
        else:
            os.link(temporary, folder / name)  # fails if the name is taken, unlike rename
            temporary.unlink()
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, FileExistsError) and not replace:
            raise
        raise Unavailable(
            f"cannot write the event log {folder} ({error}); "
            "free space or check NEXTCLICK_TRAINER__EVENT_LOG"
        ) from None


def unreadable(path: Path, error: Exception) -> ConfigurationError:
    """The error for a file that is not Parquet or has other columns."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ConfigurationError(f"{path} cannot be read as Parquet ({reason})")
