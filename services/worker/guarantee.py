"""Steps 5 to 7 of the worker: what was scored becomes visible, and then its offsets are committed.

    5  produce recommendations and dead letters
    6  Kafka acknowledges them
    7  commit the offsets

Nothing here waits for Kafka on the way of a click: several batches may be open. Both guarantees,
at_least_once.py and exactly_once.py, are used alike, by the thread that owns the consumer:

- `submit` does 5, `advance` does of 6 and 7 what can be done now;
- `finish` waits until nothing is open: for the end, and when a user has so many uncommitted clicks
  that a replay could not find them all;
- `on_revoke`, `on_lost` and `forget` are for partitions that go.

The first three raise Unavailable if Kafka does not answer; calling again is right. Those of exactly
once raise CommitRefused, too: the answers of its batches are not visible, so the worker goes back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nextclick.shared.kafka.publisher import Receipt
from nextclick.shared.messages import OutMessage
from nextclick.shared.schemas import Recommendation

IDLE_POLL_SECONDS = 0.5
"""How long to wait for clicks while nothing is open."""

ANSWER_POLL_SECONDS = 0.002
"""And while Kafka has answers in hand: what it says of them is heard, and timed, after the poll."""

OVERDUE_POLL_SECONDS = 0.05
OVERDUE_SECONDS = 0.1
"""And when it has had them for OVERDUE_SECONDS: it is slow, and nobody times that to the ms."""

MAX_OPEN_CLICKS = 10_000
"""With so many clicks uncommitted, because Kafka is slow or away, the worker waits."""


@dataclass
class Batch:
    """What came of a micro-batch, and where it lay on the clicks topic."""

    answers: Sequence[Recommendation]
    messages: Sequence[OutMessage]
    """The answers encoded, and dead letters."""
    offsets: dict[int, int]
    """By partition, the offset that comes next."""
    users: Counter[str]
    """Clicks of each user."""
    size: int
    """Messages that were read."""
    receipt: Receipt = field(default_factory=Receipt)
    submitted_at: float = 0.0
    """On the monotonic clock, seconds."""


class Guarantee(Protocol):
    """See the module."""

    on_visible: Callable[[Batch, float], None]
    """Hears of each batch whose answers can be read, and since when (epoch seconds)."""

    @property
    def is_open(self) -> bool:
        """Whether anything is not committed yet."""
        ...

    @property
    def poll_seconds(self) -> float:
        """How long a poll may wait for clicks before `advance` is called again."""
        ...

    def submit(self, batch: Batch) -> None:
        """Do 5, or leave it to `advance`."""
        ...

    def advance(self) -> list[Batch]:
        """Do what is due of 6 and 7, without waiting; the batches that are committed since."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether so much is open that the worker should `finish` before it submits more."""
        ...

    def finish(self) -> None:
        """Wait until everything submitted is committed; `advance` then returns it."""
        ...

    def on_revoke(self) -> None:
        """Finish as well as can be while partitions are still ours."""
        ...

    def on_lost(self) -> None:
        """Bring to an end what must not be open when somebody else begins."""
        ...

    def forget(self, partitions: set[int]) -> None:
        """These are not ours any more: nothing of them is committed from now on."""
        ...


def ignore_visible(batch: Batch, at: float) -> None:
    """Nobody listens to `on_visible`."""


def poll_seconds_after(seconds: float) -> float:
    """How long to wait for clicks when Kafka has had answers in hand for `seconds`."""
    return ANSWER_POLL_SECONDS if seconds < OVERDUE_SECONDS else OVERDUE_POLL_SECONDS
