"""An EventLog in memory, for collector and learner: what it writes outlives the process.

test_simulation.py compares it with the real one. Rules of the model: an append with its offsets
appears whole or not at all, and never in the place of another; the disk may be full for a moment;
between the beginning of a write and its end time passes, and the process may die.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from nextclick.shared.errors import Unavailable
from nextclick.trainer.collect import LogState, Row
from nextclick.trainer.collect.event_log import COLUMNS
from nextclick.trainer.collect.maintenance import Maintained
from nextclick.trainer.collect.tombstones import Tombstones

URL = "log"


@dataclass
class Disk:
    """The rows of a log, each with the id of its topic, and the next offset of each partition."""

    on_logged: Callable[[Sequence[str]], None] = lambda events: None
    """Hears of the event ids of each append."""
    rows: list[tuple[str, Row]] = field(default_factory=list)
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    """(topic id, partition) → next offset."""


class MemoryEventLog:
    """EventLog, as far as a Collector and a Learner use it.

    `write` is called with what makes an append appear; it may die before or after that, or raise
    Unavailable.
    """

    url = URL

    def __init__(
        self, disk: Disk, write: Callable[[Callable[[], None]], None] = lambda put: put()
    ) -> None:
        self.topic_id = ""
        self._disk = disk
        self._write = write

    def next_offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """See EventLog.next_offsets."""
        offsets = self._disk.offsets
        found = {p: offsets.get((self.topic_id, p)) for p in partitions}
        return {p: offset for p, offset in found.items() if offset is not None}

    def append(self, rows: Sequence[Row], next_offsets: Mapping[int, int]) -> int:
        """See EventLog.append."""
        added: list[Row] = []

        def put() -> None:
            logged = self.next_offsets(next_offsets)
            new = {p: end for p, end in next_offsets.items() if end > logged.get(p, 0)}
            added.extend(
                row
                for row in rows
                if row.kafka_partition in new
                and row.kafka_offset >= logged.get(row.kafka_partition, 0)
            )
            self._disk.rows += [(self.topic_id, row) for row in added]
            self._disk.offsets |= {(self.topic_id, p): end for p, end in new.items()}
            self._disk.on_logged([row.event_id for row in added])

        self._write(put)
        return len(added)

    def state(self) -> LogState:
        """See EventLog.state."""
        newest = max((row.arrival for _, row in self._disk.rows), default=-1)
        return LogState(URL if self._disk.rows else "", len(self._disk.rows), newest)

    def read(self, newest: int | None = None, columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
        """See EventLog.read."""
        rows = sorted((row for _, row in self._disk.rows), key=_arrival)
        return pd.DataFrame(rows[-newest:] if newest else rows, columns=Row._fields)[[*columns]]

    def items_since(self, earlier: LogState) -> list[str]:
        """The items of the clicks that were logged since."""
        return [row.item_id for _, row in self._disk.rows[earlier.clicks :]]

    def tombstones(self) -> Tombstones:
        """See EventLog.tombstones: nobody is ever forgotten."""
        return Tombstones()

    def maintain(self, keep_days: int = 0) -> Maintained:
        """See EventLog.maintain."""
        return Maintained(0, 0, 0)


def _arrival(row: Row) -> tuple[int, int, int]:
    return row.arrival, row.kafka_partition, row.kafka_offset


def disk_full() -> Unavailable:
    """What EventLog.append raises then."""
    return Unavailable(f"cannot write the event log {URL} (no space left)")
