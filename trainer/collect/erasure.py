"""Forgets a user: removes their clicks from the table of an event log, and from all its files."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as fs
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from nextclick.shared.errors import Unavailable
from nextclick.trainer.collect.click_table import ATTEMPTS, ClickTable, former_files
from nextclick.trainer.collect.maintenance import DAY_MS, lease_seconds, remove_half_written
from nextclick.trainer.collect.tombstones import NEVER, Tombstones


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


class _Held(NamedTuple):
    """The clicks of a user that a table holds."""

    rows: int
    oldest: int
    """Arrival of the first, epoch ms; so `newest`."""
    newest: int


def forget(
    clicks: ClickTable,
    user_id: str,
    moment: int,
    *,
    keep_days: int,
    wait_seconds: float,
    on_step: Callable[[str], None],
) -> Erased:
    """See `EventLog.forget`."""
    before = clicks.current()
    version, previous = before.version(), clicks.tombstones(before).get(user_id)
    since = NEVER if previous is None else previous.moment
    may_have_expired = keep_days > 0 and since <= moment - keep_days * DAY_MS
    key, unfinished = secrets.token_hex(16), []
    set_properties(clicks, lambda tombstones: tombstones.adding(user_id, moment, key))
    on_step("tombstone")
    table = clicks.current()
    with clicks.failing_as(Unavailable, "search"):
        found = _held(clicks.dataset(table), user_id)
    if found.rows or may_have_expired:
        set_properties(clicks, lambda tombstones: tombstones.counting(user_id))
    on_step("count")
    if found.rows:
        clicks.change(
            lambda table: clicks.delete(
                table, _condition_for(clicks.tombstones(table), user_id, found)
            )
        )
    on_step("rows")
    if not _await_maintenance(clicks, wait_seconds):
        unfinished.append(
            f"the event log {clicks.url} is being compacted, or somebody died doing so: files of "
            "that may hold the user for a day; run the command again in an hour"
        )
    files = 0 if clicks.folder is None else remove_half_written(clicks.folder)
    files += _remove_files(clicks, user_id, moment)
    on_step("files")
    if former := former_files(clicks.folder):
        unfinished.append(
            f"{len(former)} files clicks-….parquet of the former format are in {clicks.url} and "
            "may hold the user; delete them"
        )
    after = clicks.current()
    tombstones = clicks.tombstones(after)
    return Erased(
        tombstones.hash_of(user_id),
        found.rows,
        files,
        version,
        after.version(),
        tombstones.users[tombstones.hash_of(user_id)].forget_count,
        tuple(unfinished),
    )


def set_properties(clicks: ClickTable, change: Callable[[Tombstones], Mapping[str, str]]) -> None:
    """Change properties of the table by what its tombstones are now. Raises Unavailable."""

    def attempt(table: DeltaTable) -> None:
        properties = dict(change(clicks.tombstones(table)))
        table.alter.set_table_properties(properties, raise_if_not_exists=False)

    clicks.change(attempt)


def _await_maintenance(clicks: ClickTable, seconds: float) -> bool:
    """Wait until nobody compacts; returns whether that is so."""
    deadline = time.monotonic() + seconds
    while lease_seconds(clicks.current()) > 0:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _held(dataset: ds.Dataset, user_id: str) -> _Held:
    """Search all files of a table for a user."""
    found = dataset.to_table(columns=["arrival"], filter=ds.field("user_id") == user_id)
    bounds = pc.min_max(found["arrival"]).as_py()
    return _Held(found.num_rows, bounds["min"] or 0, bounds["max"] or 0)


def _condition_for(tombstones: Tombstones, user_id: str, found: _Held) -> str:
    """SQL that is true for the clicks that were found.

    The bounds of their arrivals leave out files by their statistics, both from the work and from
    what the commit conflicts with, such as the appends of a collector.
    """
    between = f"arrival >= {found.oldest} AND arrival <= {found.newest}"
    return f"{between} AND {tombstones.condition(user_id)}"


def _remove_files(clicks: ClickTable, user_id: str, moment: int) -> int:
    with clicks.failing_as(Unavailable, "clean up"):
        for attempt in range(ATTEMPTS):
            try:
                return _remove_files_of(clicks.current(), user_id, moment)
            except (DeltaError, FileNotFoundError):  # others remove the same files
                if attempt == ATTEMPTS - 1:
                    raise
    raise AssertionError


def _remove_files_of(table: DeltaTable, user_id: str, moment: int) -> int:
    """Remove the files that were replaced, and those with the user that no commit names.

    The latter are left by crashes and conflicts. One that is just being written is not touched: its
    writer knows the tombstone, so it does not hold the user. Returns how many were removed.
    """
    removed = len(table.vacuum(0, dry_run=False, enforce_retention_duration=False))
    file_system = table.to_pyarrow_dataset().filesystem
    unnamed = table.vacuum(0, dry_run=True, enforce_retention_duration=False, full=True)
    for path in unnamed:
        if _holds(file_system, path, user_id, moment):
            file_system.delete_file(path)
            removed += 1
    return removed


def _holds(file_system: fs.FileSystem, path: str, user_id: str, moment: int) -> bool:
    try:
        with file_system.open_input_file(path) as file:
            columns = ["user_id", "timestamp", "arrival"]
            rows = pq.read_table(file, columns=columns).to_pandas()
    except (OSError, pa.ArrowException):  # gone meanwhile, or no data file
        return False
    first = rows[["timestamp", "arrival"]].min(axis=1)
    return bool(((rows["user_id"] == user_id) & (first <= moment)).any())
