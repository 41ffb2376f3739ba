"""Keeps the table of an event log small and fast: retention, compaction, vacuum.

Of two processes only one compacts at a time. Until when it may is the version of an application
transaction, `nextclick/maintenance`, in epoch ms.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from nextclick.shared.errors import Unavailable
from nextclick.trainer.collect.click_table import SCHEMA, WRITER, ClickTable
from nextclick.trainer.collect.newest import file_statistics, rows_in

DAY_MS = 86_400_000

_LEVELS = ((8 << 20, 2), (64 << 20, 16))
"""Files are merged into files of so many bytes, as soon as there are so many smaller ones. Two
levels, so that a click is rewritten about three times in all."""
_LEASE = "nextclick/maintenance"
_LEASE_MS = 3_600_000
"""After a death in a compaction nobody compacts for so long."""
_WRITE_SECONDS = 60.0
"""A data file is written in less; one that is older and half written has lost its writer."""


class Maintained(NamedTuple):
    """The outcome of `maintain`."""

    files_before: int
    files_after: int
    rows_deleted: int


def maintain(clicks: ClickTable, keep_days: int) -> Maintained:
    """See `EventLog.maintain`."""
    table = clicks.current()
    files, rows = file_statistics(table), rows_in(table)
    with clicks.failing_as(Unavailable, "compact"), contextlib.suppress(CommitFailedError):
        today = int(time.time() * 1000 // DAY_MS * DAY_MS)
        oldest = today - keep_days * DAY_MS if keep_days else -1
        if (files.oldest < oldest).any():
            clicks.delete(table, f"arrival < {oldest}")
        kept = rows_in(table)
        if take_lease(clicks, table):  # of two compactions at once, each would keep its own copy
            with contextlib.suppress(CommitFailedError):  # a user is forgotten meanwhile
                _compact(clicks, table)
            clicks.append(lambda _: (SCHEMA.empty_table(), {_LEASE: 0}))
        return Maintained(len(files.rows), len(file_statistics(table).rows), rows - kept)
    return Maintained(len(files.rows), len(files.rows), 0)


def take_lease(clicks: ClickTable, table: DeltaTable) -> bool:
    """Whether there is something to compact, and nobody else is at it for now.

    Raises CommitFailedError if somebody else begins at this moment.
    """
    smallest, least = _LEVELS[0]
    if np.count_nonzero(file_statistics(table).bytes < 0.75 * smallest) < least:
        return False
    if lease_seconds(table) > 0:
        return False
    clicks.write(table, SCHEMA.empty_table(), {_LEASE: int(time.time() * 1000) + _LEASE_MS})
    return True


def lease_seconds(table: DeltaTable) -> float:
    """How long somebody may go on compacting; 0 or less: nobody does."""
    return (table.transaction_version(_LEASE) or 0) / 1000 - time.time()


def _compact(clicks: ClickTable, table: DeltaTable) -> None:
    """Raises CommitFailedError if somebody deletes rows or forgets a user meanwhile."""
    for size, least in _LEVELS:
        if np.count_nonzero(file_statistics(table).bytes < 0.75 * size) >= least:
            table.optimize.compact(
                target_size=size, max_concurrent_tasks=1, writer_properties=WRITER
            )
    table.vacuum(dry_run=False, full=True)  # with what crashes and conflicts have left
    if clicks.folder is not None:
        remove_half_written(clicks.folder, older_than=DAY_MS / 1000)


def remove_half_written(folder: Path, older_than: float = _WRITE_SECONDS) -> int:
    """Remove files of a folder whose writer died in the middle; returns how many.

    The table's library writes `….parquet#1`, and renames it when it is whole.
    """
    removed = 0
    for path in folder.glob("*.parquet#*"):
        if time.time() - path.stat().st_mtime > older_than:
            path.unlink(missing_ok=True)
            removed += 1
    return removed
