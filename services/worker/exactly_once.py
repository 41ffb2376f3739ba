"""Exactly once: answers and offsets in one transaction, which ends while the next batch is scored.

All batches that are scored while a transaction is open go into the next one together: the slower
Kafka is, the larger the transactions become.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nextclick.services.worker.guarantee import (
    IDLE_POLL_SECONDS,
    MAX_OPEN_CLICKS,
    Batch,
    ignore_visible,
    poll_seconds_after,
)
from nextclick.shared.errors import CommitRefused, Unavailable
from nextclick.shared.kafka import ClickConsumer, TransactionalPublisher
from nextclick.shared.kafka.background import ABANDON_SECONDS, BackgroundCall
from nextclick.shared.kafka.client import REQUEST_SECONDS
from nextclick.shared.runtime import metrics

log = logging.getLogger(__name__)

QUEUE_POLL_SECONDS = 0.001
"""Longest wait for clicks while scored batches wait for the previous transaction."""


OVERDUE_SECONDS = 3 * REQUEST_SECONDS + 1
"""A transaction makes three calls. After so long one of them does not heed its timeout."""


@dataclass(frozen=True)
class _Transaction:
    batches: list[Batch]
    call: BackgroundCall
    began_at: float
    """On the monotonic clock, seconds."""


class ExactlyOnce:
    """One transaction at a time, with all batches scored since the previous one began."""

    def __init__(
        self,
        consumer: ClickConsumer,
        publisher: TransactionalPublisher,
        *,
        on_step: Callable[[str], None] = lambda step: None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._consumer = consumer
        self._publisher = publisher
        self._on_step = on_step
        self._now = now
        self._clock = clock
        self.on_visible: Callable[[Batch, float], None] = ignore_visible
        self._queued: list[Batch] = []
        """Scored batches that are not in a transaction yet."""
        self._group: Any = None
        """The consumer's group_metadata() when the newest queued batch was read."""
        self._open: _Transaction | None = None
        self._committed: list[Batch] = []
        self._refusal: CommitRefused | None = None
        """The error of a transaction that ended within a rebalance; the next call raises it."""
        self._outcome_unknown = False

    @property
    def is_open(self) -> bool:
        """See Guarantee.is_open."""
        return self._open is not None or bool(self._queued) or self._refusal is not None

    @property
    def poll_seconds(self) -> float:
        """See Guarantee.poll_seconds."""
        if self._open is None:
            return IDLE_POLL_SECONDS
        wait = poll_seconds_after(self._clock() - self._open.began_at)
        return min(wait, QUEUE_POLL_SECONDS) if self._queued else wait

    def submit(self, batch: Batch) -> None:
        """Queue a batch for the next transaction, which `advance` begins."""
        batch.submitted_at = self._clock()
        self._queued.append(batch)
        # Not when the transaction begins: the metadata of a consumer that was fenced meanwhile has
        # no member and no generation, so Kafka takes it for an older client and commits.
        self._group = self._consumer.group_metadata()

    def advance(self) -> list[Batch]:
        """See Guarantee.advance. Raises CommitRefused if a transaction was not committed."""
        if self._refusal is not None or (
            self._open is not None
            and (self._open.call.ended or self._clock() - self._open.began_at > OVERDUE_SECONDS)
        ):
            self._settle()
        if self._open is None:
            self._begin()
        committed, self._committed = self._committed, []
        return committed

    @property
    def is_full(self) -> bool:
        """See Guarantee.is_full."""
        return sum(batch.size for batch in self._queued) >= MAX_OPEN_CLICKS

    def finish(self) -> None:
        """See Guarantee.finish. Raises CommitRefused if a transaction was not committed."""
        self._settle()
        self._begin()
        self._settle()

    def on_revoke(self) -> None:
        """Commit everything, so that the next owner of the partitions starts after it.

        An error is raised by the next call: a consumer cannot seek within a rebalance.
        """
        try:
            self._end()
            self._begin()
            self._end()
        except CommitRefused as refused:
            self._refusal = refused

    def on_lost(self) -> None:
        """Wait for the end of the transaction; the next owner answers the queued clicks."""
        try:
            self._end()
            if self._queued:
                self._queued.clear()
                raise CommitRefused("partitions were lost before their answers were committed")
        except CommitRefused as refused:
            self._refusal = refused

    def drop_partitions(self, partitions: set[int]) -> None:
        """Do nothing: nothing is open or queued after `on_revoke` and `on_lost`."""

    def _begin(self) -> None:
        """Begin a transaction with all queued batches."""
        if not self._queued:
            return
        batches, self._queued = self._queued, []
        began_at = self._clock()
        offsets: dict[int, int] = {}
        for batch in batches:
            offsets |= batch.offsets
            metrics.STAGE_SECONDS.labels("queue").observe(began_at - batch.submitted_at)
        call = self._publisher.begin(
            [message for batch in batches for message in batch.messages],
            offsets,
            self._group,
            self._on_step,
        )
        self._open = _Transaction(batches, call, began_at)
        self._on_step("produced")

    def _settle(self) -> None:
        """Wait for the end of the transaction. Raises CommitRefused if it was not committed.

        If the outcome is unknown, the producer is replaced first.
        """
        try:
            self._end()
        except CommitRefused as refused:
            self._refusal = refused
        if self._outcome_unknown:
            log.warning("%s; replacing the producer", self._refusal)
            self._publisher.reconnect()
            self._outcome_unknown = False
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            self._queued.clear()  # the worker resumes from before these, too
            self._committed.clear()  # the worker counts uncommitted clicks from 0 again
            raise refusal

    def _end(self) -> None:
        """Wait until the transaction has ended. Raises CommitRefused if it was not committed."""
        if self._open is None:
            return
        transaction, self._open = self._open, None
        overdue = self._clock() - transaction.began_at > OVERDUE_SECONDS
        try:
            transaction.call.outcome(0.0 if overdue else ABANDON_SECONDS)
        except CommitRefused:
            self._queued.clear()  # must not be committed without the clicks before it
            raise
        except Unavailable as unknown:
            self._queued.clear()
            self._outcome_unknown = True
            raise CommitRefused(f"the outcome of a transaction is unknown: {unknown}") from None
        metrics.STAGE_SECONDS.labels("commit").observe(self._clock() - transaction.began_at)
        self._on_step("committed")  # 7
        for batch in transaction.batches:
            self.on_visible(batch, self._now())
        self._committed += transaction.batches
