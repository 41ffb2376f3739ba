"""The worker: every side effect of answering clicks, in order, on this page.

    1  poll a micro-batch
    2  decode (click_rules.py); what is no event becomes a dead letter
    3  append to the sessions (idempotent by event_id)
    4  score
    5  produce recommendations and dead letters
    6  Kafka acknowledges them
    7  commit the offsets

One thread does all of it and owns the consumer. 5 to 7 are its guarantee (guarantee.py), which does
not wait for Kafka: several batches may be open. But 7 never runs ahead of 6, so a crash
anywhere repeats work and loses none: replayed clicks get the same histories from 3, and so the same
answers, under the same event_id (at least once). With `guarantee=exactly_once` 5 to 7 are one
transaction, so that nobody who reads committed messages sees an answer twice. docs/guarantees.md
tells what a crash between any two steps leaves behind.

At most MAX_UNCOMMITTED_CLICKS_PER_USER clicks of one user are appended and not committed: so many
can be replayed exactly. Partitions change hands inside a poll only; what is open is finished first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client.context_managers import Timer

from nextclick.services.worker import decide
from nextclick.services.worker.guarantee import Batch, Guarantee
from nextclick.services.worker.guard import Guard
from nextclick.shared.click_rules import ClickRules
from nextclick.shared.errors import BadClick, CommitRefused
from nextclick.shared.kafka import ClickConsumer
from nextclick.shared.messages import Message, of_user, offsets_after
from nextclick.shared.redis import MAX_UNCOMMITTED_CLICKS_PER_USER, SessionStore
from nextclick.shared.registry import ModelSlot
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.heartbeat import HEARTBEAT
from nextclick.shared.runtime.retry import RetryUntilAvailable, ShutdownRequested
from nextclick.shared.schemas import Click

log = logging.getLogger(__name__)

STEPS = ("polled", "decoded", "appended", "scored", "produced", "acknowledged", "committed")
"""What `Worker.reached` and the guarantee's hear."""


@dataclass
class Worker:
    """Answers clicks until told to stop."""

    consumer: ClickConsumer
    sessions: SessionStore
    slot: ModelSlot
    guarantee: Guarantee
    """Steps 5 to 7."""
    recommendations_topic: str
    dlq_topic: str
    max_batch: int
    stop: threading.Event
    rules: ClickRules = field(default_factory=ClickRules)
    max_dead_letter_bytes: int = decide.MAX_DEAD_LETTER_BYTES
    guard: Guard = field(default_factory=Guard)
    now: Callable[[], float] = time.time
    on_step: Callable[[str], None] = lambda step: None
    """Called with the name of each step when it is done; tests crash there."""
    _waiting: deque[decide.DecodedMessage] = field(default_factory=deque)
    """Read, and not answered yet."""
    _uncommitted: Counter[str] = field(default_factory=Counter)
    """Clicks of each user that are appended and not known to be committed."""

    def __post_init__(self) -> None:
        self.consumer.on_revoke = self.guarantee.on_revoke
        self.consumer.on_lost = self.guarantee.on_lost
        self.consumer.on_removed = self._forget
        self.guarantee.on_visible = self._count

    def run(self) -> None:
        """Step until `stop` is set; what is in hand is finished first."""
        try:
            while not self.stop.is_set():
                self.step()
                HEARTBEAT.beat()
            self.finish()
        except (ShutdownRequested, CommitRefused) as why:
            log.info("stopped; the next worker answers what is uncommitted again %s", why)

    def finish(self) -> None:
        """Return once every answer is acknowledged and committed.

        Raises CommitRefused if a transaction was aborted, ShutdownRequested if `stop` is set while
        a server is away: what is uncommitted is then replayed by whoever comes next.
        """
        self._until_available(self.guarantee.finish)
        self._release()

    def close(self) -> None:
        """Leave the group at once, so that others take over, and give the connections back."""
        # After a crash nothing more is to be finished.
        self.consumer.on_revoke = self.consumer.on_lost = lambda: None
        self.consumer.close()
        self.sessions.close()

    def step(self) -> None:
        """Answer one micro-batch, or return after a while without a click."""
        self._read()  # 1, 2
        try:
            batch = decide.take_batch(
                self._waiting, self.max_batch, self._uncommitted, MAX_UNCOMMITTED_CLICKS_PER_USER
            )
            if batch:
                self._answer(batch)  # 3, 4, 5
            if self.guarantee.is_full or (self._waiting and not batch):
                self._until_available(self.guarantee.finish)
            self._release()  # 6, 7
        except CommitRefused as refused:
            log.warning("%s; going back to what was committed last", refused)
            self._until_available(self.consumer.seek_to_committed)
            self._waiting.clear()
            self._uncommitted.clear()

    def _read(self) -> None:
        wait = 0 if self._waiting else self.guarantee.poll_seconds
        room = max(1, self.max_batch - len(self._waiting))
        with _timed("poll"):
            messages = self._until_available(self.consumer.poll, room, wait)  # 1
        if not messages:
            return
        self.on_step("polled")
        metrics.BATCH_SIZE.observe(len(messages))
        with _timed("decode"):
            self._waiting += decide.decode(messages, self.rules)  # 2
        self.on_step("decoded")

    def _answer(self, batch: list[decide.DecodedMessage]) -> None:
        model = self.slot.model
        assert model is not None, "run() is called once the first model is there"
        with _timed("append"):
            asked = self._with_histories(batch)  # 3
        self.on_step("appended")
        with _timed("score"):
            model, rankings = self.guard.recommend(model, asked)  # 4
        self.on_step("scored")
        with _timed("encode"):
            now_ms = int(self.now() * 1000)
            answers = [
                decide.recommendation(click, history, ranking, model.version, now_ms)
                for (click, history), ranking in zip(asked, rankings, strict=True)
            ]
            encoded = [of_user(self.recommendations_topic, a) for a in answers]
            bad = decide.bad(batch)
            dead = [
                decide.dead_letter(self.dlq_topic, m, error, now_ms, self.max_dead_letter_bytes)
                for m, error in bad
            ]
            result = Batch(
                answers=answers,
                messages=[*encoded, *dead],
                offsets=offsets_after([read.message for read in batch]),
                users=decide.users(batch),
                size=len(batch),
            )
        with _timed("produce"):
            self._until_available(self.guarantee.submit, result)  # 5
        self._note_dead_letters(bad)

    def _with_histories(self, batch: list[decide.DecodedMessage]) -> list[tuple[Click, list[str]]]:
        """Append the clicks of a batch; return those that are to be answered, and from what."""
        clicks, places = decide.clicks(batch)
        metrics.CLICKS.inc(len(clicks))
        histories = self._until_available(self.sessions.append, clicks, places)
        asked = [(c, h) for c, h in zip(clicks, histories, strict=True) if h]
        metrics.ANSWERED_BEFORE.inc(len(clicks) - len(asked))
        return asked

    def _release(self) -> None:
        """Let the guarantee go on, and count no more what it has committed."""
        for batch in self._until_available(self.guarantee.advance):
            for user, clicks in batch.users.items():
                left = self._uncommitted[user] - clicks
                if left > 0:
                    self._uncommitted[user] = left
                else:
                    del self._uncommitted[user]

    def _forget(self, partitions: set[int]) -> None:
        """These are somebody else's now, who reads them again."""
        self._waiting = deque(r for r in self._waiting if r.message.partition not in partitions)
        self.guarantee.forget(partitions)

    @property
    def _until_available(self) -> RetryUntilAvailable:
        return RetryUntilAvailable(self.stop, log)

    def _count(self, batch: Batch, visible_at: float) -> None:
        metrics.RECOMMENDATIONS.inc(len(batch.answers))
        for answer in batch.answers:
            waited = max(0.0, visible_at - answer.click_timestamp / 1000)
            metrics.CLICK_TO_ACKNOWLEDGED.observe(waited)
            if answer.fallback is not None:
                metrics.FALLBACKS.labels(answer.fallback).inc()

    @staticmethod
    def _note_dead_letters(bad: list[tuple[Message, BadClick]]) -> None:
        for _, error in bad:
            metrics.DEAD_LETTERS.labels(error.reason).inc()
        if bad:
            message, error = bad[0]
            log.warning(
                "dead-lettered %d messages that are no clicks, first %s/%d/%d: %r",
                len(bad),
                message.topic,
                message.partition,
                message.offset,
                str(error)[:200],
                extra=decide.about(message, error),
            )


def _timed(stage: str) -> Timer:
    return metrics.STAGE_SECONDS.labels(stage).time()
