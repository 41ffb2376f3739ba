"""Removes a user's clicks from the table of an event log, so that no file of it has them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as fs
import pyarrow.parquet as pq
from deltalake import DeltaTable, WriterProperties, write_deltalake

from nextclick.trainer.collect.tombstones import Tombstones

_WRITE_SECONDS = 60.0
"""A data file is written in less; one that is older and half written has lost its writer."""


class Held(NamedTuple):
    """The clicks of a user that a table holds."""

    rows: int
    oldest: int
    """Arrival of the first, epoch ms; so `newest`."""
    newest: int


def held(dataset: ds.Dataset, user_id: str) -> Held:
    """Search all files of a table for a user."""
    found = dataset.to_table(columns=["arrival"], filter=ds.field("user_id") == user_id)
    bounds = pc.min_max(found["arrival"]).as_py()
    return Held(found.num_rows, bounds["min"] or 0, bounds["max"] or 0)


def delete_where(table: DeltaTable, condition: str, writer: WriterProperties) -> None:
    """Delete the rows for which some SQL is true. Raises CommitFailedError.

    An overwrite with nothing: `DeltaTable.delete` writes files whose texts are views, and pyarrow
    cannot filter these (deltalake 1.6, pyarrow 26).
    """
    nothing = pa.schema(table.schema().to_arrow()).empty_table()
    write_deltalake(table, nothing, mode="overwrite", predicate=condition, writer_properties=writer)


def condition_for(tombstones: Tombstones, user_id: str, found: Held) -> str:
    """SQL that is true for the clicks that were found.

    The bounds of their arrivals leave out files by their statistics, both from the work and from
    what the commit conflicts with, such as the appends of a collector.
    """
    between = f"arrival >= {found.oldest} AND arrival <= {found.newest}"
    return f"{between} AND {tombstones.condition(user_id)}"


def remove_files(table: DeltaTable, user_id: str, moment: int) -> int:
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
