"""Steps 5 to 7 of the worker: what was scored becomes visible, and then its offsets are committed.

    5  produce recommendations and dead letters
    6  Kafka acknowledges them
    7  commit the offsets

Nothing here waits for Kafka on the way of a click: several batches may be open. Both guarantees are
used alike, by the thread that owns the consumer:

- `submit` does 5, `advance` does of 6 and 7 what can be done now;
- `finish` waits until nothing is open: for the end, and when a user has so many uncommitted clicks
  that a replay could not find them all;
- `before_revoke`, `on_lost` and `forget` are for partitions that go.

The first three raise Unavailable if Kafka does not answer; calling again is right.

AtLeastOnce commits what is acknowledged, asynchronously and every COMMIT_SECONDS. A commit that is
refused in a rebalance is made again: the partitions that are still ours were answered by us.
ExactlyOnce has one transaction open, which is ended while the next batch is scored. Only it raises
CommitRefused: the answers of the batch are not visible, so the worker goes back.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shared import metrics
from shared.errors import CommitRefused, Unavailable
from shared.kafka import ClickConsumer, Publisher, TransactionalPublisher
from shared.kafka.background import BackgroundCall
from shared.kafka.publisher import Receipt
from shared.messages import OutMessage
from shared.schemas import Recommendation

log = logging.getLogger(__name__)

COMMIT_SECONDS = 0.1
"""Between two commits of at_least_once: after a crash the clicks of so long are answered again."""

IDLE_POLL_SECONDS = 0.5
COMMIT_POLL_SECONDS = 0.05
ANSWER_POLL_SECONDS = 0.002
"""How long to wait for clicks while nothing is open, while commits are due, and while Kafka has
answers in hand: what it says of them is heard, and timed, after the poll."""

OVERDUE_SECONDS = 0.1
"""Kafka has answers in hand for so long: it is slow, and nobody times that to the millisecond."""

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
        """Do 5. Raises CommitRefused if a transaction before it was not committed."""
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

    def before_revoke(self) -> None:
        """Finish as well as can be while partitions are still ours."""
        ...

    def on_lost(self) -> None:
        """Bring to an end what must not be open when somebody else begins."""
        ...

    def forget(self, partitions: set[int]) -> None:
        """These are not ours any more: nothing of them is committed from now on."""
        ...


def _nobody(batch: Batch, at: float) -> None:
    """Nobody listens."""


class AtLeastOnce:
    """An idempotent producer; offsets are committed after the answers are acknowledged."""

    def __init__(
        self,
        consumer: ClickConsumer,
        publisher: Publisher,
        *,
        reached: Callable[[str], None] = lambda step: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._consumer = consumer
        self._publisher = publisher
        self._reached = reached
        self._clock = clock
        self._now = now
        self.on_visible: Callable[[Batch, float], None] = _nobody
        self._produced: deque[Batch] = deque()
        """Not acknowledged yet."""
        self._acknowledged: deque[Batch] = deque()
        """Not known to be committed yet."""
        self._open_clicks = 0
        self._commit_due = 0.0
        self._commit_began = 0.0
        self._committing: dict[int, int] = {}
        """The offsets of the newest commit."""

    @property
    def is_open(self) -> bool:
        """Whether anything is not committed yet."""
        return bool(self._produced or self._acknowledged)

    @property
    def poll_seconds(self) -> float:
        """See Guarantee.poll_seconds."""
        if self._produced:
            return _while_answers_are_open(self._clock() - self._produced[0].submitted_at)
        return COMMIT_POLL_SECONDS if self._acknowledged else IDLE_POLL_SECONDS

    def submit(self, batch: Batch) -> None:
        """Do 5."""
        if not self.is_open:
            self._commit_due = self._clock() + COMMIT_SECONDS
        batch.submitted_at = self._clock()
        batch.receipt = self._publisher.send(batch.messages)
        self._produced.append(batch)
        self._open_clicks += batch.size

    @property
    def is_full(self) -> bool:
        """Whether so much is open that the worker should wait."""
        return self._open_clicks >= MAX_OPEN_CLICKS

    def advance(self) -> list[Batch]:
        """Do what is due of 6 and 7, without waiting; the batches that are committed since."""
        self._publisher.serve()
        self._note_acknowledged()
        committed = self._take_committed()
        now = self._clock()
        if self._acknowledged and now >= self._commit_due:
            self._commit_due = now + COMMIT_SECONDS
            offsets = self._offsets()
            # The outcome of a commit comes after the messages that are queued before it, which may
            # take a while: the next commit does not wait for it.
            if not (self._consumer.committing and offsets == self._committing):
                self._commit_began, self._committing = now, offsets
                self._consumer.commit(offsets)
        return committed

    def finish(self) -> None:
        """Wait until everything submitted is committed; `advance` then returns it.

        If the group is in a rebalance nothing is committed, and the next `poll` must come first.
        """
        self._publisher.wait_acknowledged()
        self._note_acknowledged()
        if offsets := self._offsets():
            self._commit_began = self._clock()
            try:
                self._consumer.commit_now(offsets)
            except CommitRefused as refused:
                log.info("%s", refused)

    def before_revoke(self) -> None:
        """Commit everything; if Kafka is away their next owner answers some clicks again."""
        try:
            self.finish()
        except Unavailable as error:
            log.warning("giving up partitions with uncommitted clicks: %s", error)

    def on_lost(self) -> None:
        """Do nothing: a commit would be refused, and their next owner replays."""

    def forget(self, partitions: set[int]) -> None:
        """See Guarantee.forget."""
        for batch in (*self._produced, *self._acknowledged):
            for partition in partitions:
                batch.offsets.pop(partition, None)

    def _note_acknowledged(self) -> None:
        while self._produced and self._produced[0].receipt.outstanding == 0:
            batch = self._produced.popleft()
            self._acknowledged.append(batch)
            seconds = self._clock() - batch.submitted_at
            metrics.STAGE_SECONDS.labels("acknowledge").observe(seconds)
            self._reached("acknowledged")  # 6
            self.on_visible(batch, self._now())

    def _offsets(self) -> dict[int, int]:
        """What may be committed: all that is acknowledged, and all before it."""
        offsets: dict[int, int] = {}
        for batch in self._acknowledged:
            offsets |= batch.offsets
        return offsets

    def _take_committed(self) -> list[Batch]:
        committed, done = self._consumer.committed, []
        while self._acknowledged and all(
            committed.get(partition, 0) >= offset
            for partition, offset in self._acknowledged[0].offsets.items()
        ):
            done.append(self._acknowledged.popleft())
            self._open_clicks -= done[-1].size
        if done:
            metrics.STAGE_SECONDS.labels("commit").observe(self._clock() - self._commit_began)
            self._reached("committed")  # 7
        return done


class ExactlyOnce:
    """A batch's answers and its offsets in one transaction, ended while the next is scored."""

    is_full = False
    """One transaction at a time is enough of a bound."""

    def __init__(
        self,
        consumer: ClickConsumer,
        publisher: TransactionalPublisher,
        *,
        reached: Callable[[str], None] = lambda step: None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._consumer = consumer
        self._publisher = publisher
        self._reached = reached
        self._now = now
        self._clock = clock
        self.on_visible: Callable[[Batch, float], None] = _nobody
        self._ending: tuple[Batch, BackgroundCall] | None = None
        self._committed: list[Batch] = []
        self._refusal: CommitRefused | None = None
        """Of a transaction that ended within a rebalance, for the next call to raise."""
        self._outcome_unknown = False

    @property
    def is_open(self) -> bool:
        """Whether anything is not committed yet."""
        return self._ending is not None or self._refusal is not None

    @property
    def poll_seconds(self) -> float:
        """See Guarantee.poll_seconds."""
        if self._ending is None:
            return IDLE_POLL_SECONDS
        return _while_answers_are_open(self._clock() - self._ending[0].submitted_at)

    def submit(self, batch: Batch) -> None:
        """Do 5 once the transaction before has ended.

        Raises CommitRefused if that was not committed: the batch is then not begun.
        """
        with metrics.STAGE_SECONDS.labels("settle").time():
            self._settle()
        group = self._consumer.group_metadata()
        batch.submitted_at = self._clock()
        transaction = self._publisher.begin(batch.messages, batch.offsets, group, self._reached)
        self._ending = batch, transaction

    def advance(self) -> list[Batch]:
        """See Guarantee.advance. Raises CommitRefused if a transaction was not committed."""
        if self._refusal is not None or (self._ending is not None and self._ending[1].ended):
            self._settle()
        committed, self._committed = self._committed, []
        return committed

    def finish(self) -> None:
        """Wait until the transaction has ended. Raises CommitRefused if it was not committed."""
        self._settle()

    def before_revoke(self) -> None:
        """Wait for the end of the transaction, so that the next owner begins where it leaves off.

        What went wrong is raised later: nothing can be sought within a rebalance.
        """
        try:
            self._end()
        except CommitRefused as refused:
            self._refusal = refused

    def on_lost(self) -> None:
        """The same: a transaction can still be committed or aborted."""
        self.before_revoke()

    def forget(self, partitions: set[int]) -> None:
        """Do nothing: no transaction is open now."""

    def _settle(self) -> None:
        """Wait for the end; raise CommitRefused, with a client that is fit to go on."""
        try:
            self._end()
        except CommitRefused as refused:
            self._refusal = refused
        if self._outcome_unknown:
            log.warning("%s; taking a new producer", self._refusal)
            self._publisher.reconnect()
            self._outcome_unknown = False
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal

    def _end(self) -> None:
        if self._ending is None:
            return
        (batch, transaction), self._ending = self._ending, None
        try:
            transaction.outcome()
        except Unavailable as unknown:
            self._outcome_unknown = True
            raise CommitRefused(f"nobody knows whether it was committed: {unknown}") from None
        metrics.STAGE_SECONDS.labels("commit").observe(self._clock() - batch.submitted_at)
        self._reached("committed")  # 7
        self.on_visible(batch, self._now())
        self._committed.append(batch)


def _while_answers_are_open(seconds: float) -> float:
    return ANSWER_POLL_SECONDS if seconds < OVERDUE_SECONDS else COMMIT_POLL_SECONDS
