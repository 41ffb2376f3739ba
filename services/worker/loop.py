"""The worker: every side effect of answering clicks, in order, on this page.

    1  poll a micro-batch
    2  decode; what is no click becomes a dead letter
    3  append to the sessions (idempotent by event_id)
    4  score
    5  produce recommendations and dead letters
    6  wait until Kafka has acknowledged them
    7  commit the batch's offsets

7 never runs ahead of 6, so a crash anywhere repeats work but loses none: replayed clicks get
the same histories from 3, and so the same answers, under the same event_id (at least once). With
`guarantee=exactly_once` 5 begins a transaction that 7 commits together with the offsets, so that
nobody who reads committed messages sees an answer twice. docs/guarantees.md tells what a crash
between any two steps leaves behind.

6 and 7 are nothing but waiting. A second thread does it, while this one polls and decodes the next
batch; 3 begins only when the batch before is *settled*, so never more than one is open. Partitions
change hands inside a poll only, and are given up only when everything is settled. If a commit is
refused nonetheless, the worker goes back to what was committed last instead of going on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from prometheus_client.context_managers import Timer

from services.worker import handle
from services.worker.guard import Guard
from shared import metrics
from shared.errors import CommitRefused
from shared.heartbeat import HEART
from shared.kafka import ClickConsumer, Publisher
from shared.messages import Message, of_user
from shared.model_slot import ModelSlot, ServedModel
from shared.patience import Patience, Stopped
from shared.schemas import Click, Recommendation
from shared.sessions import MAX_UNCOMMITTED_CLICKS_PER_USER, SessionStore

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5

STEPS = ("polled", "decoded", "appended", "scored", "produced", "acknowledged", "committed")
"""What `Worker.reached` hears."""


@dataclass
class Worker:
    """Answers clicks until told to stop."""

    consumer: ClickConsumer
    sessions: SessionStore
    slot: ModelSlot
    publisher: Publisher
    recommendations_topic: str
    dlq_topic: str
    max_batch: int
    stop: threading.Event
    commit: Callable[[Sequence[Message]], None]
    """Step 7: ClickConsumer.commit, or the same within TransactionalPublisher's transaction."""
    guard: Guard = field(default_factory=Guard)
    now: Callable[[], float] = time.time
    reached: Callable[[str], None] = lambda step: None
    """Called with the name of each step when it is done; tests crash there."""
    _open: list[Message] = field(default_factory=list)
    """Read, but not known to be committed, in their order."""
    _settled: Future[int] | None = None
    """How many of them are committed, once the batch that is being settled is."""
    _settling: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="settle")
    )

    def run(self) -> None:
        """Step until `stop` is set; what is in hand is finished first."""
        try:
            while not self.stop.is_set():
                self.step()
                HEART.beat()
            self.settle()
        except (Stopped, CommitRefused):
            log.info("stopped, uncommitted; whoever comes next replays the batch in hand")
        finally:
            self.stop.set()  # after a crash, too: what is being settled must not wait for ever

    def close(self) -> None:
        """Leave the group at once, so that others take over, and give the connections back."""
        self.consumer.close()
        self.sessions.close()

    def step(self) -> None:
        """Answer one micro-batch, or return after POLL_SECONDS without a click."""
        with _timed("poll"):
            messages = self.consumer.poll(
                self.max_batch, POLL_SECONDS, before_giving_up=self._wait_until_settled
            )  # 1
        if messages:
            self.reached("polled")
        self._open += messages
        try:
            if messages:
                self._answer_all(messages)
            else:
                self.settle()
        except CommitRefused as refused:
            # Going on would leave more clicks uncommitted than a session can be replayed by.
            log.warning("%s; going back to what was committed last", refused)
            self.consumer.rewind(self._open)
            self._open = []

    def settle(self) -> None:
        """Return once every answer is acknowledged and committed.

        Raises CommitRefused if the group has moved on, Stopped if `stop` is set while a server is
        away: the batch is then replayed by whoever comes next.
        """
        if self._settled is not None:
            settled, self._settled = self._settled, None
            del self._open[: settled.result()]

    def _wait_until_settled(self) -> None:
        if self._settled is not None:
            wait([self._settled])  # for what came of it, see the next call of settle

    def _answer_all(self, messages: list[Message]) -> None:
        metrics.BATCH_SIZE.observe(len(messages))
        model = self.slot.model
        assert model is not None, "run() is called once the first model is there"
        with _timed("decode"):
            batch = handle.decode(messages)  # 2
        self.reached("decoded")
        for part in handle.cut(batch, MAX_UNCOMMITTED_CLICKS_PER_USER):
            self._answer(part, model)

    def _answer(self, batch: list[handle.Read], model: ServedModel) -> None:
        with _timed("settle"):
            self.settle()
        with _timed("append"):
            asked = self._with_histories(batch)  # 3
        self.reached("appended")
        with _timed("score"):
            model, rankings = self.guard.recommend(model, asked)  # 4
        self.reached("scored")
        with _timed("encode"):
            now_ms = int(self.now() * 1000)
            answers = [
                handle.recommendation(click, history, ranking, model.version, now_ms)
                for (click, history), ranking in zip(asked, rankings, strict=True)
            ]
            encoded = [of_user(self.recommendations_topic, a) for a in answers]
            dead = [
                handle.dead_letter(self.dlq_topic, message, error, now_ms)
                for message, error in handle.bad(batch)
            ]
        with _timed("produce"):
            self.publisher.send(encoded)
            self.publisher.send(dead)  # 5
        self.reached("produced")
        self._settled = self._settling.submit(self._acknowledge_and_commit, batch, answers)

    def _with_histories(self, batch: list[handle.Read]) -> list[tuple[Click, list[str]]]:
        """Append the clicks of a batch; return those that are to be answered, and from what."""
        clicks, places = handle.clicks(batch)
        metrics.CLICKS.inc(len(clicks))
        histories = Patience(self.stop, log)(self.sessions.append, clicks, places)
        asked = [(c, h) for c, h in zip(clicks, histories, strict=True) if h]
        metrics.ANSWERED_BEFORE.inc(len(clicks) - len(asked))
        return asked

    def _acknowledge_and_commit(
        self, batch: list[handle.Read], answers: list[Recommendation]
    ) -> int:
        patiently = Patience(self.stop, log)
        with _timed("acknowledge"):
            patiently(self.publisher.wait_acknowledged)  # 6
        self.reached("acknowledged")
        with _timed("commit"):
            patiently(self.commit, [read.message for read in batch])  # 7
        self.reached("committed")
        self._count(batch, answers)
        return len(batch)

    def _count(self, batch: list[handle.Read], answers: list[Recommendation]) -> None:
        now_ms = self.now() * 1000
        metrics.RECOMMENDATIONS.inc(len(answers))
        for answer in answers:
            waited = max(0.0, now_ms - answer.click_timestamp) / 1000
            metrics.CLICK_TO_ACKNOWLEDGED.observe(waited)
            if answer.fallback is not None:
                metrics.FALLBACKS.labels(answer.fallback).inc()
        bad = handle.bad(batch)
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
                extra=handle.about(message, error),
            )


def _timed(stage: str) -> Timer:
    return metrics.STAGE_SECONDS.labels(stage).time()
