"""The position of a group member in each partition, and messages that were removed unread."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from nextclick.shared.messages import Message
from nextclick.shared.runtime import metrics

log = logging.getLogger(__name__)


class Positions:
    """Partition → next offset, and the partitions in which a start offset must be set.

    It must be set if the next offset is no longer retained, or if reading does not start at the
    committed offset of the group.
    """

    def __init__(self) -> None:
        self.unplaced: set[int] = set()
        """Partitions that need a start offset; until then their messages are dropped."""
        self._next: dict[int, int] = {}
        self._counted: dict[int, int] = {}
        """Messages before this offset that were removed unread are counted already."""

    def next_of(self, partition: int) -> int | None:
        """The next offset; None before the first message."""
        return self._next.get(partition)

    def advance(self, message: Message) -> None:
        """Record that a message was read."""
        self._next[message.partition] = message.offset + 1

    def begin(self, starts: dict[int, int]) -> None:
        """Record that reading starts at these offsets."""
        self._next |= starts
        self.unplaced -= starts.keys()

    def forget(self, partitions: Iterable[int]) -> None:
        """Forget the positions in these partitions."""
        for partition in partitions:
            self._next.pop(partition, None)
            self.unplaced.discard(partition)

    def go_back(self, partition: int) -> None:
        """It is what is committed that counts, and no more what was read."""
        self._next.pop(partition, None)

    def restart(self, partitions: Iterable[int]) -> None:
        """Forget all positions, because the topic was recreated; these partitions need a start."""
        self._next.clear()
        self._counted.clear()
        self.unplaced = set(partitions)

    def start(self, partition: int, wanted: int | None, held: range) -> int:
        """The offset to start at: `wanted` if it is retained, else the first retained offset.

        wanted: None if there is no committed offset. held: the retained offsets. Messages that were
        removed before they were read are logged and counted.
        """
        if wanted is None:
            return held.start
        if wanted < held.start:
            # Called twice for an assignment and an error: the same messages must count once.
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
