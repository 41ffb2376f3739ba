"""The event log: clicks on disk, as Parquet files that cannot hold a click twice.

A file holds one contiguous offset range of one partition and is named after it:

    clicks-p00003-000000000000001200-000000000000001317.parquet

It is written under a temporary name, fsynced and renamed. The log itself therefore knows which
offset comes next; the consumer's committed offsets are only a hint for lag monitors. A crash
between the file and the commit costs nothing: reading goes on after the file. Imported logs
(no Kafka offsets) are files of partition "import" and come before everything else.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from shared.errors import ConfigurationError, Unavailable

SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", pa.int64()),
    ]
)
_SOURCE = b"nextclick.source"
Row = tuple[str, str, str, int]
"""One click: the columns of SCHEMA."""

_NAME = re.compile(r"clicks-p(\d{5})-(\d{18})-(\d{18})\.parquet")
_IMPORTED = re.compile(r"clicks-import-(\d{18})\.parquet")


def files_of(folder: Path) -> list[Path]:
    """The files of an event log: imports first, then by partition and offset."""
    return sorted(
        folder.glob("clicks-*.parquet"),
        key=lambda path: (not _IMPORTED.fullmatch(path.name), path.name),
    )


class EventLog:
    """A folder of Parquet files."""

    def __init__(self, folder: str) -> None:
        """Open the log, creating the folder; leftovers of a crashed write are removed.

        Raises ConfigurationError if the folder cannot be written.
        """
        self.folder = Path(folder)
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

    def next_offset(self, partition: int) -> int | None:
        """The offset after the newest click held of a partition; None if it holds none."""
        ends = [end for p, _, end in self._ranges() if p == partition]
        return max(ends) + 1 if ends else None

    def append(
        self, partition: int, first_offset: int, last_offset: int, rows: Sequence[Row]
    ) -> None:
        """Make the clicks of one offset range durable.

        rows: (event_id, user_id, item_id, timestamp) of each valid click in the range, in
        order; offsets without one (dead letters, transaction markers) are simply not there.
        """
        self._write(f"clicks-p{partition:05d}-{first_offset:018d}-{last_offset:018d}.parquet", rows)

    def import_clicks(self, frame: pd.DataFrame, source: str = "") -> None:
        """Add clicks that did not come through Kafka: columns as in SCHEMA, in stream order.

        source: what `imported_sources` is to say of them.
        """
        table = pa.Table.from_pandas(frame, SCHEMA, preserve_index=False)
        table = table.replace_schema_metadata({_SOURCE: source})
        number = sum(1 for _ in self.folder.glob("clicks-import-*.parquet"))
        self._write_table(f"clicks-import-{number:018d}.parquet", table)

    def imported_sources(self) -> set[str]:
        """What was imported, by the names that were given to it."""
        footers = map(pq.read_schema, self.folder.glob("clicks-import-*.parquet"))
        sources = ((footer.metadata or {}).get(_SOURCE, b"") for footer in footers)
        return {source.decode() for source in sources if source}

    def count(self) -> int:
        """How many clicks the log holds; reads only the files' footers."""
        return sum(pq.read_metadata(path).num_rows for path in files_of(self.folder))

    def read(self, newest: int | None = None) -> pd.DataFrame:
        """The clicks, each user's in stream order; at most the `newest` so many of them.

        Columns as in SCHEMA. A click logged twice (the shop sent its event_id twice) counts
        once.
        """
        tables = [pq.read_table(path, schema=SCHEMA) for path in files_of(self.folder)]
        frame: pd.DataFrame = pa.concat_tables([SCHEMA.empty_table(), *tables]).to_pandas()
        frame = frame.drop_duplicates("event_id", ignore_index=True)
        if newest is not None and len(frame) > newest:
            frame = frame.loc[frame["timestamp"].nlargest(newest).index].sort_index()
        return frame

    def _ranges(self) -> list[tuple[int, int, int]]:
        matches = [_NAME.fullmatch(path.name) for path in self.folder.glob("clicks-p*.parquet")]
        return [(int(m[1]), int(m[2]), int(m[3])) for m in matches if m]

    def _write(self, name: str, rows: Sequence[Row]) -> None:
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(SCHEMA)
        arrays = [
            pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)
        ]
        self._write_table(name, pa.Table.from_arrays(arrays, schema=SCHEMA))

    def _write_table(self, name: str, table: pa.Table) -> None:
        temporary = self.folder / f".{name}.{secrets.token_hex(4)}.tmp"
        try:
            with open(temporary, "wb") as file:
                pq.write_table(table, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self.folder / name)
            descriptor = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise Unavailable(
                f"cannot write the event log {self.folder} ({error}); "
                "free space or check NEXTCLICK_TRAINER__EVENT_LOG"
            ) from None
