"""The files of an event log: what their names and footers say, and how one is written.

    clicks-g0002-p00003-000000000000001200-000000000000001317.parquet
        generation, partition, first and last offset
    clicks-import-000000000000000000.parquet
        clicks that were on no topic

A topic that is deleted and created again counts its offsets from 0 again: it is the next
*generation*. The first has no number in its names. Which topic a generation is of, its id
(KIP-516), is in the footers.

A file whose offsets all lie within those of another file of its partition and generation is
*covered*: the other was made from it and others (`compaction`), and whoever did so died before he
removed it. It counts as not there.
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
    ]
)
ROWS_IN_A_GROUP = 65_536
"""Rows that one entry of a footer speaks for, at most: what is read beyond a window is this."""

TOPIC_ID = b"nextclick.topic_id"
"""In a footer: the topic that the offsets are of. Absent in the oldest logs."""

_NAME = re.compile(r"clicks-(?:g(\d{4})-)?p(\d{5})-(\d{18})-(\d{18})\.parquet")
_IMPORTED = re.compile(r"clicks-import-(\d{18})\.parquet")
_ALWAYS = (0, 2**63 - 1)


@dataclass(frozen=True, slots=True, order=True)
class OffsetFile:
    """A file that holds one range of offsets of one partition; they sort by just that."""

    generation: int
    partition: int
    first: int
    last: int
    path: Path

    @property
    def stream(self) -> tuple[int, int]:
        """What counts its offsets by itself: a partition of one generation."""
        return self.generation, self.partition


@dataclass(frozen=True, slots=True)
class RowGroup:
    """What a footer says of some rows."""

    rows: int
    oldest: int
    """No timestamp is less, ms."""
    newest: int
    """No timestamp is more, ms."""


def name_of(generation: int, partition: int, first: int, last: int) -> str:
    """The name of the file with these offsets."""
    of_generation = f"g{generation:04d}-" if generation else ""
    return f"clicks-{of_generation}p{partition:05d}-{first:018d}-{last:018d}.parquet"


def topic_id_of(path: Path) -> str:
    """The id of the topic that a file's offsets are of; empty if it does not say."""
    metadata = pq.read_schema(path).metadata or {}
    return str(metadata.get(TOPIC_ID, b"").decode())


def offset_files(folder: Path) -> list[OffsetFile]:
    """All files with offsets in a folder, covered ones too, by generation, partition, offset."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.glob("clicks-*.parquet"))
    return sorted(
        OffsetFile(int(m[1] or 0), int(m[2]), int(m[3]), int(m[4]), path) for m, path in found if m
    )


def uncovered(files: Iterable[OffsetFile]) -> list[OffsetFile]:
    """Leave out what another file covers; the rest in order. Pure."""
    kept: list[OffsetFile] = []
    for file in sorted(files, key=lambda file: (*file.stream, file.first, -file.last)):
        # Every file before starts no later; so the one kept last reaches the furthest.
        if not (kept and kept[-1].stream == file.stream and file.last <= kept[-1].last):
            kept.append(file)
    return kept


def next_import(folder: Path) -> str:
    """The name of the next import: after the last, for the oldest may have been deleted."""
    matches = [_IMPORTED.fullmatch(path.name) for path in folder.glob("clicks-import-*")]
    number = max((int(m[1]) for m in matches if m), default=-1) + 1
    return f"clicks-import-{number:018d}.parquet"


def files_of(folder: Path) -> list[Path]:
    """The files that make up an event log: imports first, then as they sort."""
    imported = sorted(p for p in folder.glob("clicks-import-*") if _IMPORTED.fullmatch(p.name))
    return imported + [file.path for file in uncovered(offset_files(folder))]


def row_groups(path: Path) -> list[RowGroup]:
    """Read a file's footer. Without statistics a group may hold any time."""
    groups = []
    metadata = pq.read_metadata(path)
    column = metadata.schema.names.index("timestamp")
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        statistics = group.column(column).statistics
        known = statistics is not None and statistics.has_min_max
        oldest, newest = (statistics.min, statistics.max) if known else _ALWAYS
        groups.append(RowGroup(group.num_rows, oldest, newest))
    return groups


def horizon(groups: Iterable[RowGroup], newest: int) -> int | None:
    """The latest time such that `newest` rows at least are surely not older; None: all are wanted.

    Rows in a group that begins later are not older, whatever else the group holds. Pure.
    """
    seen = 0
    for group in sorted(groups, key=lambda group: -group.oldest):
        seen += group.rows
        if seen >= newest:
            return group.oldest
    return None


@contextlib.contextmanager
def locked(folder: Path, *, exclusive: bool = False) -> Iterator[None]:
    """Let nobody replace files meanwhile, by a lock on the folder.

    A listing takes time: a file that is replaced during it by one of another name may be in it by
    neither. Adding a file needs no lock. A folder that is away holds nothing; to change it is
    Unavailable.
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
        with contextlib.suppress(OSError):  # a file system without locks: one trainer is the rule
            fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def write(folder: Path, name: str, table: pa.Table) -> None:
    """Write a file so that it is there whole or not at all; raises Unavailable."""
    temporary = folder / f".{name}.{secrets.token_hex(4)}.tmp"
    try:
        with open(temporary, "wb") as file:
            pq.write_table(table, file, row_group_size=ROWS_IN_A_GROUP)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(folder / name)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Unavailable(
            f"cannot write the event log {folder} ({error}); "
            "free space or check NEXTCLICK_TRAINER__EVENT_LOG"
        ) from None


def unreadable(path: Path, error: Exception) -> ConfigurationError:
    """The error for a file that is no Parquet, or none of ours."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ConfigurationError(f"{path} cannot be read as Parquet ({reason})")
