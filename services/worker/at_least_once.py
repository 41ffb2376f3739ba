"""At least once: offsets are committed after the answers are acknowledged.

Offsets of acknowledged batches are committed asynchronously, every COMMIT_SECONDS. A commit that is
refused in a rebalance is repeated: the clicks of partitions that are still assigned are answered.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from nextclick.services.worker.guarantee import (
    IDLE_POLL_SECONDS,
    MAX_OPEN_CLICKS,
    Batch,
    ignore_visible,
    poll_seconds_after,
)
from nextclick.shared.errors import CommitRefused, Unavailable
from nextclick.shared.kafka import ClickConsumer, Publisher
from nextclick.shared.runtime import metrics

log = logging.getLogger(__name__)

COMMIT_SECONDS = 0.1
"""Time between two commits; after a crash, the clicks of this time are answered again."""

COMMIT_POLL_SECONDS = 0.05
"""Longest wait for clicks while a commit is due."""


class AtLeastOnce:
    """An idempotent producer; offsets are committed after the answers are acknowledged."""

    def __init__(
        self,
        consumer: ClickConsumer,
        publisher: Publisher,
        *,
        on_step: Callable[[str], None] = lambda step: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._consumer = consumer
        self._publisher = publisher
        self._on_step = on_step
        self._clock = clock
        self._now = now
        self.on_visible: Callable[[Batch, float], None] = ignore_visible
        self._produced: deque[Batch] = deque()
        """Batches that are not acknowledged yet."""
        self._acknowledged: deque[Batch] = deque()
        """Batches that are acknowledged and not known to be committed."""
        self._open_clicks = 0
        self._commit_due = 0.0
        self._commit_began = 0.0
        self._committing: dict[int, int] = {}
        """Offsets of the newest commit."""

    @property
    def is_open(self) -> bool:
        """See Guarantee.is_open."""
        return bool(self._produced or self._acknowledged)

    @property
    def poll_seconds(self) -> float:
        """See Guarantee.poll_seconds."""
        if self._produced:
            return poll_seconds_after(self._clock() - self._produced[0].submitted_at)
        return COMMIT_POLL_SECONDS if self._acknowledged else IDLE_POLL_SECONDS

    def submit(self, batch: Batch) -> None:
        """Do step 5."""
        if not self.is_open:
            self._commit_due = self._clock() + COMMIT_SECONDS
        batch.submitted_at = self._clock()
        batch.receipt = self._publisher.send(batch.messages)
        self._produced.append(batch)
        self._open_clicks += batch.size
        self._on_step("produced")

    @property
    def is_full(self) -> bool:
        """See Guarantee.is_full."""
        return self._open_clicks >= MAX_OPEN_CLICKS

    def advance(self) -> list[Batch]:
        """See Guarantee.advance."""
        self._publisher.serve()
        self._note_acknowledged()
        committed = self._take_committed()
        now = self._clock()
        if self._acknowledged and now >= self._commit_due:
            self._commit_due = now + COMMIT_SECONDS
            offsets = self._offsets()
            # The outcome of a commit arrives after the messages that are queued before it, which
            # may take a while, so the next commit does not wait for it.
            if not (self._consumer.committing and offsets == self._committing):
                self._commit_began, self._committing = now, offsets
                self._consumer.commit(offsets)
        return committed

    def finish(self) -> None:
        """See Guarantee.finish.

        During a rebalance of the group nothing is committed; call `poll` first.
        """
        self._publisher.wait_acknowledged()
        self._note_acknowledged()
        if offsets := self._offsets():
            self._commit_began = self._clock()
            try:
                self._consumer.commit_now(offsets)
            except CommitRefused as refused:
                log.info("%s", refused)

    def on_revoke(self) -> None:
        """Commit everything; if Kafka is unavailable, the next owner answers some clicks again."""
        try:
            self.finish()
        except Unavailable as error:
            log.warning("partitions are revoked with uncommitted clicks: %s", error)

    def on_lost(self) -> None:
        """Do nothing: a commit would be refused, and the next owner replays."""

    def drop_partitions(self, partitions: set[int]) -> None:
        """See Guarantee.drop_partitions."""
        for batch in (*self._produced, *self._acknowledged):
            for partition in partitions:
                batch.offsets.pop(partition, None)

    def _note_acknowledged(self) -> None:
        while self._produced and self._produced[0].receipt.outstanding == 0:
            batch = self._produced.popleft()
            self._acknowledged.append(batch)
            seconds = self._clock() - batch.submitted_at
            metrics.STAGE_SECONDS.labels("acknowledge").observe(seconds)
            self._on_step("acknowledged")  # 6
            self.on_visible(batch, self._now())

    def _offsets(self) -> dict[int, int]:
        """Partition → offset to commit: those of all acknowledged batches."""
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
        if any(batch.offsets for batch in done):  # none: their partitions were revoked
            metrics.STAGE_SECONDS.labels("commit").observe(self._clock() - self._commit_began)
            self._on_step("committed")  # 7
        return done
