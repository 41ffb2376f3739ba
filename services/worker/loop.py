"""The worker: all side effects of answering clicks, in order.

    1  poll a micro-batch
    2  decode (click_rules.py); a message that is not an event becomes a dead letter
    3  append to the sessions (idempotent by event_id)
    4  score
    5  produce recommendations and dead letters
    6  Kafka acknowledges them
    7  commit the offsets

One thread does all of this and owns the consumer. Steps 5 to 7 are the guarantee (guarantee.py). It
does not wait for Kafka, so several batches may be open, but offsets are never committed before
their answers are acknowledged. So a crash repeats work and loses none: replayed clicks get the same
histories in step 3, and so the same answers, with the same event_id (at least once). With
`guarantee=exactly_once`, steps 5 to 7 are one transaction, so a reader of committed messages sees
each answer once. docs/guarantees.md lists what a crash after each step leaves behind.

At most MAX_UNCOMMITTED_CLICKS_PER_USER clicks of one user are appended and not committed, because
only so many can be replayed exactly. Rebalances happen inside a poll; open batches are finished
first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from prometheus_client.context_managers import Timer

from nextclick.services.worker import decide
from nextclick.services.worker.arms import ArmScorer
from nextclick.services.worker.guarantee import Batch, Guarantee
from nextclick.services.worker.guard import Guard
from nextclick.services.worker.traces import TraceBatch, forward
from nextclick.shared.click_rules import ClickRules
from nextclick.shared.errors import BadClick, CommitRefused
from nextclick.shared.items import ItemStates
from nextclick.shared.kafka import ClickConsumer
from nextclick.shared.messages import (
    Message,
    of_user,
    offsets_after,
)
from nextclick.shared.past import PastClick
from nextclick.shared.redis import MAX_UNCOMMITTED_CLICKS_PER_USER, SessionStore
from nextclick.shared.registry import ModelSlot
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.heartbeat import HEARTBEAT
from nextclick.shared.runtime.retry import RetryUntilAvailable, ShutdownRequested
from nextclick.shared.schemas import Click

log = logging.getLogger(__name__)

Past = Mapping[decide.ClickId, Sequence[PastClick]]
STEPS = ("polled", "decoded", "appended", "scored", "produced", "acknowledged", "committed")
"""The arguments of `on_step`, of the worker and of the guarantee."""


@dataclass
class Worker:
    """Answers clicks until `stop` is set."""

    consumer: ClickConsumer
    sessions: SessionStore
    slot: ModelSlot
    guarantee: Guarantee
    """Steps 5 to 7."""
    topics: Sequence[decide.AnswerTopic]
    """Each click is answered on each of them. The guard judges by the lists of the first."""
    dlq_topic: str
    max_batch: int
    stop: threading.Event
    rules: ClickRules = field(default_factory=ClickRules)
    max_dead_letter_bytes: int = decide.MAX_DEAD_LETTER_BYTES
    arms: ArmScorer = field(default_factory=lambda: ArmScorer(Guard()))
    items: Callable[[], ItemStates] = ItemStates
    """What the items topic says now."""
    trace: TraceBatch = forward
    now: Callable[[], float] = time.time
    on_step: Callable[[str], None] = lambda step: None
    """Called with the name of each step when it is done; tests crash there."""
    open_since: float | None = None
    """Since when answers wait for Kafka and none has become committed, monotonic seconds."""
    _done_at: dict[str, float] = field(default_factory=dict)
    """When each step of the newest batch was done, epoch seconds."""
    _waiting: deque[decide.DecodedMessage] = field(default_factory=deque)
    """Messages that are read and not answered yet."""
    _uncommitted: Counter[str] = field(default_factory=Counter)
    """Per user: clicks that are appended and not known to be committed."""

    def __post_init__(self) -> None:
        self._keeps_past = any(t.profile and t.profile.excludes_past for t in self.topics)
        self.consumer.on_revoke = self.guarantee.on_revoke
        self.consumer.on_lost = self.guarantee.on_lost
        self.consumer.on_removed = self._drop_partitions
        self.guarantee.on_visible = self._record_metrics

    def run(self) -> None:
        """Step until `stop` is set, then finish the open batches."""
        try:
            while not self.stop.is_set():
                self.step()
                HEARTBEAT.beat()
            self.finish()
        except (ShutdownRequested, CommitRefused) as error:
            log.info("stopped; the next worker answers uncommitted clicks again %s", error)

    def finish(self) -> None:
        """Wait until every answer is acknowledged and committed.

        Raises CommitRefused if a transaction was aborted, ShutdownRequested if `stop` is set while
        a server is unavailable; the next worker then replays what is uncommitted.
        """
        self._until_available(self.guarantee.finish)
        self._advance()

    def close(self) -> None:
        """Leave the group at once, so that others take over, and close the connections."""
        # After a crash, open batches must not be finished.
        self.consumer.on_revoke = self.consumer.on_lost = lambda: None
        self.consumer.close()
        self.sessions.close()

    def step(self) -> None:
        """Answer one micro-batch, or return after a poll without a click."""
        self._read()  # 1, 2
        try:
            batch = decide.take_batch(
                self._waiting, self.max_batch, self._uncommitted, MAX_UNCOMMITTED_CLICKS_PER_USER
            )
            if batch:
                self._answer(batch)  # 3, 4, 5
            if self.guarantee.is_full or (self._waiting and not batch):
                self._until_available(self.guarantee.finish)
            self._advance()  # 6, 7
        except CommitRefused as refused:
            log.warning("%s; resuming from the committed offsets", refused)
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
        self._done("polled")
        metrics.BATCH_SIZE.observe(len(messages))
        with _timed("decode"):
            self._waiting += decide.decode(messages, self.rules)  # 2
        self._done("decoded")

    def _answer(self, batch: list[decide.DecodedMessage]) -> None:
        model = self.slot.model
        assert model is not None, "run() is called once the first model is there"
        with _timed("append"):
            requests, messages, past = self._append(batch)  # 3
        self._done("appended")
        with _timed("score"):
            items = self.items()
            score = partial(decide.rankings, self.topics, items, past=past)
            sources, lists = self.arms.recommend(model, self.slot.arms, requests, score)  # 4
        self._done("scored")
        with _timed("encode"):
            now_ms = int(self.now() * 1000)
            answers = [
                [
                    decide.recommendation(
                        click,
                        history,
                        ranking,
                        source.model_version,
                        now_ms,
                        items.offset,
                        topic.profile_id,
                        source.experiment,
                    )
                    for (click, history), ranking, source in zip(
                        requests, rankings, sources, strict=True
                    )
                ]
                for topic, rankings in zip(self.topics, lists, strict=True)
            ]
            traces = self.trace(messages, self._done_at)
            encoded = [
                of_user(topic.name, answer, headers, topic.encoded)
                for topic, answers_there in zip(self.topics, answers, strict=True)
                for answer, headers in zip(answers_there, traces.headers, strict=True)
            ]
            bad_clicks = decide.bad_clicks(batch)
            dead_letters = [
                decide.dead_letter(self.dlq_topic, m, error, now_ms, self.max_dead_letter_bytes)
                for m, error in bad_clicks
            ]
            result = Batch(
                answers=answers[0],
                messages=[*encoded, *dead_letters],
                offsets=offsets_after([read.message for read in batch]),
                users=decide.clicks_per_user(batch),
                size=len(batch),
                traces=traces,
            )
        with _timed("produce"):
            self._until_available(self.guarantee.submit, result)  # 5
        self._report_dead_letters(bad_clicks)

    def _append(
        self, batch: list[decide.DecodedMessage]
    ) -> tuple[list[tuple[Click, list[str]]], list[Message], Past]:
        """Append the clicks of a batch.

        Returns those to answer, each with its history; their messages; and what their users had
        clicked by then, if a profile asks for it.
        """
        clicks, messages = decide.clicks(batch)
        metrics.CLICKS.inc(len(clicks))
        places = [message.place for message in messages]
        # While this waits for Redis, nobody looks what Kafka has done.
        since, self.open_since, began = self.open_since, None, time.monotonic()
        past: dict[decide.ClickId, list[PastClick]] = {}
        if self._keeps_past:
            found = self._until_available(self.sessions.append_with_past, clicks, places)
            histories = [session.history for session in found]
            for click, session in zip(clicks, found, strict=True):
                past[click.user_id, click.event_id] = session.past
        else:
            histories = self._until_available(self.sessions.append, clicks, places)
        if since is not None:
            self.open_since = since + time.monotonic() - began
        requests = [(c, h) for c, h in zip(clicks, histories, strict=True) if h]
        metrics.ANSWERED_BEFORE.inc(len(clicks) - len(requests))
        return requests, [m for m, h in zip(messages, histories, strict=True) if h], past

    def _advance(self) -> None:
        """Advance the guarantee, and subtract committed clicks from `_uncommitted`."""
        committed = self._until_available(self.guarantee.advance)
        if not self.guarantee.is_open:
            self.open_since = None
        elif committed or self.open_since is None:
            self.open_since = time.monotonic()
        for batch in committed:
            batch.traces.committed(self.now())
            for user, clicks in batch.users.items():
                left = self._uncommitted[user] - clicks
                if left > 0:
                    self._uncommitted[user] = left
                else:
                    del self._uncommitted[user]

    def _drop_partitions(self, partitions: set[int]) -> None:
        """Drop the waiting messages of partitions that are revoked; their new owner reads them."""
        self._waiting = deque(r for r in self._waiting if r.message.partition not in partitions)
        self.guarantee.drop_partitions(partitions)

    def _done(self, step: str) -> None:
        self._done_at[step] = self.now()
        self.on_step(step)

    @property
    def _until_available(self) -> RetryUntilAvailable:
        return RetryUntilAvailable(self.stop, log)

    def _record_metrics(self, batch: Batch, visible_at: float) -> None:
        batch.traces.acknowledged(visible_at)
        metrics.RECOMMENDATIONS.inc(len(batch.answers))
        for number, answer in enumerate(batch.answers):
            waited = max(0.0, visible_at - answer.click_timestamp / 1000)
            metrics.CLICK_TO_ACKNOWLEDGED.observe(waited, batch.traces.exemplar(number))
            if answer.fallback is not None:
                metrics.FALLBACKS.labels(answer.fallback).inc()

    @staticmethod
    def _report_dead_letters(bad_clicks: list[tuple[Message, BadClick]]) -> None:
        for _, error in bad_clicks:
            metrics.DEAD_LETTERS.labels(error.reason).inc()
        if bad_clicks:
            message, error = bad_clicks[0]
            log.warning(
                "dead-lettered %d messages that are not clicks, first %s/%d/%d: %r",
                len(bad_clicks),
                message.topic,
                message.partition,
                message.offset,
                str(error)[:200],
                extra=decide.log_fields(message, error),
            )


def _timed(stage: str) -> Timer:
    return metrics.STAGE_SECONDS.labels(stage).time()
