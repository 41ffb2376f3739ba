"""Compaction: merges many small files of an event log into few large ones.

A trainer writes a file for each partition every few seconds. Opening so many files costs more than
reading them, so adjacent files are merged. The name of a file says which offsets it covers.

1. remove files that are covered already, left by a process that died in step 3
2. write the merged file under a temporary name, fsync and rename it
3. remove the files that it was made from

A crash in step 1 or 3 leaves covered files, which are not read; one in step 2 leaves a temporary
file. The rows and their order do not change at any time. Between two adjacent files there may be
offsets that no file holds (transaction markers, a gap of the topic). The merged file covers these,
too, because reading resumes after the newest file, so no other file will ever hold them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nextclick.shared.errors import Unavailable
from nextclick.trainer.collect.event_log_files import (
    SCHEMA,
    TOPIC_ID,
    OffsetFile,
    locked,
    name_of,
    offset_files,
    topic_id_of,
    uncovered,
    unreadable,
    write,
)

MAX_ROWS = 1_000_000
"""Most rows of a merged file: about 40 MB on disk, 150 MB in memory."""
_SMALL = 10_000
"""A file with at most this many rows is always merged with its neighbour."""


@dataclass(frozen=True)
class Compacted:
    """The outcome of a compaction."""

    files_before: int
    files_after: int
    rows_rewritten: int


def merges(
    files: Sequence[tuple[OffsetFile, int]], full: int = MAX_ROWS
) -> list[list[tuple[OffsetFile, int]]]:
    """Choose runs of adjacent files to merge, each into one file. Pure.

    files: uncovered files with their row counts, sorted. From the newest backwards, a file joins
    the run after it unless it is much larger. So a row is rewritten about log₂(full / rows of a
    small file) times in total, not once for each compaction.
    """
    found: list[list[tuple[OffsetFile, int]]] = []
    run: list[tuple[OffsetFile, int]] = []
    rows_of_run = 0
    for file, rows in reversed(files):
        joins = (
            bool(run)
            and file.stream == run[-1][0].stream
            and rows_of_run + rows <= full
            and rows <= 2 * rows_of_run + _SMALL
        )
        if not joins:
            found.append(run[::-1])
            run, rows_of_run = [], 0
        run.append((file, rows))
        rows_of_run += rows
    found.append(run[::-1])
    return [run for run in reversed(found) if len(run) > 1]


def compact(folder: Path) -> Compacted:
    """Merge the small files of a folder.

    Raises Unavailable if the folder cannot be written, ConfigurationError for a file that is not
    Parquet. Other processes may read, write and compact the folder at the same time; they wait for
    the merge of one file at most.
    """
    with locked(folder, exclusive=True):
        files = offset_files(folder)
        kept = uncovered(files)
        _remove({file.path for file in files} - {file.path for file in kept})
        runs = merges([(file, _rows(file.path)) for file in kept])
    merged, rows = 0, 0
    for run in runs:
        sources = [file.path for file, _ in run]
        with locked(folder, exclusive=True):
            if not all(path.exists() for path in sources):
                continue  # another process has merged them
            first, last = run[0][0].first, max(file.last for file, _ in run)
            name = name_of(*run[0][0].stream, first, last)
            write(folder, name, _table(sources))
            _remove(set(sources) - {folder / name})
        merged += len(run) - 1
        rows += sum(rows for _, rows in run)
    return Compacted(len(files), len(kept) - merged, rows)


def _rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from None


def _table(paths: Sequence[Path]) -> pa.Table:
    tables, topic_ids = [], set()
    for path in paths:
        try:
            tables.append(pq.read_table(path, schema=SCHEMA))
            topic_ids.add(topic_id_of(path))
        except (OSError, pa.ArrowException) as error:
            raise unreadable(path, error) from None
    merged = pa.concat_tables(tables)
    # Files of one generation name the same topic or none ("").
    return merged.replace_schema_metadata({TOPIC_ID: max(topic_ids)})


def _remove(paths: set[Path]) -> None:
    for path in sorted(paths):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"cannot remove {path}, which is merged already ({error})") from None
