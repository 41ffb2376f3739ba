"""Where a member of a group reads on in each of its partitions, and what it can read no more."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from nextclick.shared.messages import Message
from nextclick.shared.runtime import metrics

log = logging.getLogger(__name__)


class Positions:
    """By partition: the offset that comes next, and whether reading goes on there by itself.

    It does not where the offset is gone, and where the group's offsets are not those to begin with.
    """

    def __init__(self) -> None:
        self.unplaced: set[int] = set()
        """Partitions where reading has to be begun; what comes of them until then is not wanted."""
        self._next: dict[int, int] = {}
        self._counted: dict[int, int] = {}
        """What lies before it was removed unread, and is counted."""

    def next_of(self, partition: int) -> int | None:
        """The offset that comes next; None before the first message."""
        return self._next.get(partition)

    def advance(self, message: Message) -> None:
        """A message was read."""
        self._next[message.partition] = message.offset + 1

    def begin(self, starts: dict[int, int]) -> None:
        """Reading goes on from these offsets."""
        self._next |= starts
        self.unplaced -= starts.keys()

    def forget(self, partitions: Iterable[int]) -> None:
        """Nothing is known of where reading goes on in these."""
        for partition in partitions:
            self._next.pop(partition, None)
            self.unplaced.discard(partition)

    def go_back(self, partition: int) -> None:
        """It is what is committed that counts, and no more what was read."""
        self._next.pop(partition, None)

    def restart(self, partitions: Iterable[int]) -> None:
        """The offsets of these are those of another topic now."""
        self._next.clear()
        self._counted.clear()
        self.unplaced = set(partitions)

    def start(self, partition: int, wanted: int | None, held: range) -> int:
        """Where to begin: at the offset `wanted` if Kafka holds it, else where it begins.

        held: what the partition holds now. What was removed before it was read is logged and
        counted. `wanted` is None for whoever has never read.
        """
        if wanted is None:
            return held.start
        if wanted < held.start:
            # Asked twice, where an assignment and an error meet, the same messages count once.
            first = max(wanted, self._counted.get(partition, 0))
            self._counted[partition] = held.start
            if count := held.start - first:
                metrics.REMOVED_UNREAD.inc(count)
                log.error(
                    "%d messages of partition %d were removed before they were read, offsets %d to "
                    "%d: the topic's retention is too short, or they were deleted",
                    *(count, partition, first, held.start - 1),
                    extra={"partition": partition, "count": count},
                )
            return held.start
        if wanted > held.stop:
            log.error(
                "partition %d was read to offset %d and ends at %d: Kafka has lost messages; "
                "reading it from its beginning",
                *(partition, wanted, held.stop),
                extra={"partition": partition},
            )
            return held.start
        return wanted
