"""An EventLog in memory, for the collector: what it writes outlives the process, its files do not.

test_simulation.py compares it with the real one. Rules of the model: a file appears whole or not
at all; the disk may be full for a moment; between the beginning of a write and its end time passes,
and the process may die.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nextclick.shared.errors import Unavailable
from nextclick.trainer.collect import Row
from nextclick.trainer.collect.event_log_files import OffsetFile, name_of, uncovered

FOLDER = Path("log")


@dataclass
class Disk:
    """The files of a log, by their names: each with the id of its topic, and its rows."""

    on_logged: Callable[[Sequence[str]], None] = lambda events: None
    """Hears of the event ids in each file."""
    files: dict[str, tuple[OffsetFile, str, Sequence[Row]]] = field(default_factory=dict)

    def read(self) -> list[tuple[OffsetFile, str, Sequence[str]]]:
        """As EventLog.read does: files that are not covered, in order; of one event_id the first.

        Each with the id of its topic, and the event ids of its rows.
        """
        seen: set[str] = set()
        found: list[tuple[OffsetFile, str, Sequence[str]]] = []
        for file in uncovered(file for file, _, _ in self.files.values()):
            _, topic_id, rows = self.files[file.path.name]
            events = [row[0] for row in rows if row[0] not in seen]
            seen.update(events)
            found.append((file, topic_id, events))
        return found

    def all(self) -> list[tuple[OffsetFile, str, Sequence[str]]]:
        """The same of all files, with everything that they hold."""
        return [
            (f, topic_id, [row[0] for row in rows]) for f, topic_id, rows in self.files.values()
        ]


class MemoryEventLog:
    """EventLog, as far as a Collector uses it.

    `write` is called with what makes a file appear; it may die before or after that, or raise
    Unavailable.
    """

    folder = FOLDER

    def __init__(
        self, disk: Disk, write: Callable[[Callable[[], None]], None] = lambda put: put()
    ) -> None:
        self.topic_id = ""
        self._disk = disk
        self._write = write
        self._generation = 0

    def use_topic(self, topic_id: str) -> None:
        """See EventLog.use_topic."""
        known: dict[int, str] = {}
        for file, of_topic, _ in sorted(
            self._disk.files.values(), key=lambda entry: (entry[0].generation, entry[0].last)
        ):
            known[file.generation] = of_topic or known.get(file.generation, "")
        newest = max(known, default=0)
        self.topic_id = topic_id
        if topic_id in known.values():
            self._generation = max(g for g, of_topic in known.items() if of_topic == topic_id)
        else:
            self._generation = newest + bool(topic_id and known.get(newest))

    def next_offset(self, partition: int) -> int | None:
        """See EventLog.next_offset."""
        stream = (self._generation, partition)
        last = [file.last for file, _, _ in self._disk.files.values() if file.stream == stream]
        return max(last) + 1 if last else None

    def append(
        self, partition: int, first_offset: int, last_offset: int, rows: Sequence[Row]
    ) -> None:
        """See EventLog.append."""
        name = name_of(self._generation, partition, first_offset, last_offset)
        file = OffsetFile(self._generation, partition, first_offset, last_offset, FOLDER / name)
        entry = file, self.topic_id, rows

        def put() -> None:
            self._disk.files[name] = entry
            self._disk.on_logged([row[0] for row in rows])

        self._write(put)


def disk_full() -> Unavailable:
    """What EventLog.append raises then."""
    return Unavailable(f"cannot write the event log {FOLDER} (no space left)")
