"""The worker: every side effect of answering clicks, in order, on this page.

    1  poll a micro-batch
    2  decode; what is no click becomes a dead letter
    3  append to the sessions (idempotent by event_id)
    4  score
    5  produce recommendations and dead letters
    6  wait until Kafka has acknowledged them
    7  commit the batch's offsets

7 never runs ahead of 6, so a crash anywhere repeats work but loses none: replayed clicks get
the same histories from 3, and so the same answers, under the same event_id (at least once).
A batch is finished before the next poll, and rebalances happen inside polls only, so partitions
are never given up with a batch half done.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client.context_managers import Timer

from services.worker import handle
from services.worker.model_slot import ModelSlot, ServedModel
from shared import metrics
from shared.kafka import ClickConsumer, Publisher
from shared.patience import Patience, Stopped
from shared.schemas import Click, Recommendation
from shared.sessions import MAX_UNCOMMITTED_CLICKS_PER_USER, SessionStore

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5


@dataclass(frozen=True)
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
    now: Callable[[], float] = time.time

    def run(self) -> None:
        """Step until `stop` is set; what is in hand is finished first."""
        try:
            while not self.stop.is_set():
                self.step()
        except Stopped:
            log.info("stopped while waiting; the batch in hand is replayed by whoever comes next")

    def step(self) -> None:
        """Answer one micro-batch, or return after POLL_SECONDS without a click."""
        with _timed("poll"):
            messages = self.consumer.poll(self.max_batch, POLL_SECONDS)  # 1
        if not messages:
            return
        metrics.BATCH_SIZE.observe(len(messages))
        model = self.slot.model
        assert model is not None, "run() is called once the first model is there"
        with _timed("decode"):
            batch = handle.decode(messages)  # 2
        for part in handle.cut(batch, MAX_UNCOMMITTED_CLICKS_PER_USER):
            self._answer(part, model)

    def _answer(self, batch: list[handle.Read], model: ServedModel) -> None:
        patiently = Patience(self.stop, log)
        clicks = [read.outcome for read in batch if isinstance(read.outcome, Click)]
        with _timed("append"):
            histories = patiently(self.sessions.append, clicks)  # 3
        with _timed("score"):
            rankings = model.scorer.recommend(histories)  # 4
        with _timed("encode"):
            now_ms = int(self.now() * 1000)
            answers = [
                handle.recommendation(click, history, ranking, model.version, now_ms)
                for click, history, ranking in zip(clicks, histories, rankings, strict=True)
            ]
            encoded = [handle.answer_message(self.recommendations_topic, a) for a in answers]
            dead = [
                handle.dead_letter(self.dlq_topic, message, error, now_ms)
                for message, error in handle.bad(batch)
            ]
        with _timed("produce"):
            self.publisher.send(encoded)
            self.publisher.send(dead)  # 5
        with _timed("acknowledge"):
            patiently(self.publisher.wait_acknowledged)  # 6
        with _timed("commit"):
            patiently(self.consumer.commit, [read.message for read in batch])  # 7
        self._count(batch, answers)

    def _count(self, batch: list[handle.Read], answers: list[Recommendation]) -> None:
        now_ms = self.now() * 1000
        metrics.CLICKS.inc(len(answers))
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
            )


def _timed(stage: str) -> Timer:
    return metrics.STAGE_SECONDS.labels(stage).time()
