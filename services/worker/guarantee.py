"""Steps 5 to 7 of the worker: answers become visible, then their offsets are committed.

    5  produce recommendations and dead letters
    6  Kafka acknowledges them
    7  commit the offsets

No click waits for Kafka here: several batches may be open. The thread that owns the consumer uses
both guarantees, at_least_once.py and exactly_once.py, in the same way:

- `submit` does step 5, `advance` does what is possible of steps 6 and 7 without waiting;
- `finish` waits until no batch is open: at the end, and when a user has so many uncommitted clicks
  that a replay could not find them all;
- `on_revoke`, `on_lost` and `drop_partitions` handle partitions that are revoked.

`submit`, `advance` and `finish` raise Unavailable if Kafka does not answer; call them again. With
exactly once they also raise CommitRefused: the answers of the batches are not visible, so the
worker resumes from the committed offsets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nextclick.services.worker.traces import BatchTraces, Forwarded
from nextclick.shared.kafka.publisher import Receipt
from nextclick.shared.messages import OutMessage
from nextclick.shared.schemas import Recommendation

IDLE_POLL_SECONDS = 0.5
"""Longest wait for clicks while no batch is open."""

ANSWER_POLL_SECONDS = 0.002
"""While answers are not acknowledged: acknowledgements are processed, and timed, after the poll."""

OVERDUE_POLL_SECONDS = 0.05
OVERDUE_SECONDS = 0.1
"""When they have been unacknowledged for OVERDUE_SECONDS: then a timing to the ms is not needed."""

MAX_OPEN_CLICKS = 10_000
"""With so many uncommitted clicks, because Kafka is slow or unavailable, the worker waits."""


@dataclass
class Batch:
    """The answers to a micro-batch, and its offsets on the clicks topic."""

    answers: Sequence[Recommendation]
    """Those of the first topic: one for each click."""
    messages: Sequence[OutMessage]
    """The encoded answers on all topics, and dead letters."""
    offsets: dict[int, int]
    """Partition → next offset."""
    users: Counter[str]
    """User → clicks."""
    size: int
    """Number of messages read."""
    traces: BatchTraces = field(default_factory=Forwarded)
    receipt: Receipt = field(default_factory=Receipt)
    submitted_at: float = 0.0
    """On the monotonic clock, seconds."""


class Guarantee(Protocol):
    """See the module docstring."""

    on_visible: Callable[[Batch, float], None]
    """Called with each batch whose answers can be read, and the time (epoch seconds)."""

    @property
    def is_open(self) -> bool:
        """Whether a batch is not committed yet."""
        ...

    @property
    def poll_seconds(self) -> float:
        """How long a poll may wait for clicks before `advance` is called again."""
        ...

    def submit(self, batch: Batch) -> None:
        """Do step 5, or queue the batch for `advance`."""
        ...

    def advance(self) -> list[Batch]:
        """Do what is due of steps 6 and 7 without waiting; returns the newly committed batches."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether so many clicks are open that `finish` should come before the next `submit`."""
        ...

    def finish(self) -> None:
        """Wait until every submitted batch is committed; `advance` then returns them."""
        ...

    def on_revoke(self) -> None:
        """Finish what is possible while the revoked partitions are still assigned."""
        ...

    def on_lost(self) -> None:
        """End what must not be open when another member starts to read the partitions."""
        ...

    def drop_partitions(self, partitions: set[int]) -> None:
        """Commit nothing of these partitions from now on: they are revoked."""
        ...


def ignore_visible(batch: Batch, at: float) -> None:
    """The default of `on_visible`: do nothing."""


def poll_seconds_after(seconds: float) -> float:
    """Longest wait for clicks while answers have been unacknowledged for `seconds`."""
    return ANSWER_POLL_SECONDS if seconds < OVERDUE_SECONDS else OVERDUE_POLL_SECONDS
