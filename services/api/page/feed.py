"""Reads the topics for the page, as long as somebody has it open.

One thread only reads, and notes when each message was there: an answer can be read at the moment at
which Kafka acknowledges it to the worker, so its latency is the worker's own. A second thread does
all the rest, later and in bulk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from nextclick.services.api.page.stream import STEP_SECONDS, Stream
from nextclick.shared.click_rules import ClickRules
from nextclick.shared.errors import BadClick, BadRecommendation, NextclickError
from nextclick.shared.kafka import LagMonitor, TopicReader, ensure_topics
from nextclick.shared.kafka.schema_registry import framed_reader
from nextclick.shared.messages import Message
from nextclick.shared.runtime.anomalies import time_bounds
from nextclick.shared.runtime.background import BackgroundThread
from nextclick.shared.runtime.rate_limit import RateLimit
from nextclick.shared.runtime.settings import (
    ClickSettings,
    KafkaSettings,
    SchemaRegistrySettings,
)
from nextclick.shared.schemas import Click, Recommendation, decode_recommendation
from nextclick.shared.stream_metrics import TopItems

log = logging.getLogger(__name__)

IDLE_SECONDS = 300.0
"""The topics are read this long after the last call of `watch`."""
_RETRY_SECONDS = 2.0
_PAUSE_SECONDS = 0.1
_MAX_WAITING = 20_000
"""Messages that wait to be decoded; if there are more, the reading thread waits."""


class Feed:
    """Follows the stream in a background thread."""

    def __init__(
        self,
        kafka: KafkaSettings,
        group_id: str,
        baselines: dict[str, TopItems],
        clicks: ClickSettings | None = None,
        unknown_items: Callable[[Sequence[str]], int] = lambda items: 0,
        schema_registry: SchemaRegistrySettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """group_id: the consumer group of the workers, for their lag.

        unknown_items: how many of some clicked items the served model does not know.
        schema_registry: where schemas of messages are found.
        """
        self._kafka = kafka
        self._group_id = group_id
        self._baselines = baselines
        self._unknown_items = unknown_items
        self._clock = clock
        self._warnings = RateLimit(clock)
        clicks = clicks or ClickSettings()
        schema_registry = schema_registry or SchemaRegistrySettings()
        self._max_per_minute = clicks.max_per_minute
        self._anomalies: Counter[str] = Counter()
        self._rules = ClickRules(
            clicks.event_weights,
            time_bounds(clicks),
            self._note_anomaly,
            framed_reader(schema_registry, Click),
        )
        self._read_framed = framed_reader(schema_registry, Recommendation)
        self._last_watched = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.lock = threading.Lock()
        """Hold it to read `stream`; the thread holds it to change the stream."""
        self.stream = Stream(baselines, self._max_per_minute)
        self.error = ""
        """Why the topics cannot be read now; empty if they can."""

    def watch(self) -> Stream:
        """The stream; starts to follow it if needed. Following ends IDLE_SECONDS after a call."""
        self._last_watched = self._clock()
        if self._thread is None or not self._thread.is_alive():
            self.stream = Stream(self._baselines, self._max_per_minute)
            self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
            self._thread.start()
        return self.stream

    def stop(self) -> None:
        """Stop the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _is_watched(self) -> bool:
        return not self._stop.is_set() and self._clock() - self._last_watched < IDLE_SECONDS

    def _run(self) -> None:
        while self._is_watched():
            try:
                self._follow()
            except NextclickError as error:
                self.error = str(error)
                self._stop.wait(_RETRY_SECONDS)

    def _follow(self) -> None:
        kafka = self._kafka
        topics = [kafka.clicks_topic, kafka.recommendations_topic, kafka.dlq_topic]
        ensure_topics(kafka, topics)
        arrivals = _Arrivals(TopicReader(kafka, topics, at_end=True))
        monitor = LagMonitor(kafka, kafka.clicks_topic, self._group_id)
        try:
            began = self._clock()
            while self._is_watched():
                self._stop.wait(_PAUSE_SECONDS)
                self._add(arrivals.take())
                seconds = self._clock() - began
                if seconds >= STEP_SECONDS:
                    began = self._clock()
                    lag = monitor.lag()
                    with self.lock:
                        self.stream.end_step(time.time() * 1000, lag, seconds)
                    self.error = ""
        finally:
            monitor.close()
            arrivals.close()

    def _add(self, messages: Sequence[tuple[float, Message]]) -> None:
        clicks: list[tuple[Click, int]] = []
        answers, visible_ms, reasons = [], [], []
        for arrived_ms, message in messages:
            if message.topic == self._kafka.recommendations_topic:
                try:
                    answer = decode_recommendation(
                        message.value, message.headers, self._read_framed
                    )
                except BadRecommendation as error:  # not from a worker, or our settings lack it
                    if self._warnings.allow():
                        log.warning("not a recommendation: %s", error)
                    continue
                if answer.history:
                    answers.append(answer)
                    visible_ms.append(arrived_ms)
            elif message.topic == self._kafka.dlq_topic:
                reason = dict(message.headers).get("error_class") or b"other"
                reasons.append(reason.decode("utf-8", "replace")[:40])
            elif (click := self._click(message)) is not None:
                clicks.append((click, message.partition))
        self._anomalies["unknown_item"] += self._unknown_items([c.item_id for c, _ in clicks])
        with self.lock:
            self.stream.add_clicks(clicks)
            self.stream.add_anomalies(self._anomalies)
            self.stream.add_dead_letters(reasons)
            self.stream.add_answers(answers, visible_ms)
        self._anomalies.clear()

    def _click(self, message: Message) -> Click | None:
        """The click that the workers see in a message; None if they see none."""
        try:
            return self._rules.read(message)
        except BadClick:  # the worker makes a dead letter of it
            return None

    def _note_anomaly(self, kind: str, partition: int, offset: int) -> None:
        self._anomalies[kind] += 1


class _Arrivals:
    """Reads topics in a thread that does nothing else, so that it is never late."""

    def __init__(self, reader: TopicReader) -> None:
        self._reader = reader
        self._waiting: deque[tuple[float, Message]] = deque()
        self._thread = BackgroundThread("feed-arrivals", self._run)
        self._thread.start()

    def take(self) -> list[tuple[float, Message]]:
        """All new messages, each with its arrival in epoch ms. Raises what reading raised."""
        self._thread.check()
        return [self._waiting.popleft() for _ in range(len(self._waiting))]

    def close(self) -> None:
        """Stop the thread, close the connections."""
        self._thread.stop()
        self._reader.close()

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            messages = self._reader.poll(1000, timeout=0.2)
            now_ms = time.time() * 1000
            self._waiting += [(now_ms, message) for message in messages]
            while len(self._waiting) > _MAX_WAITING and not stop.wait(_PAUSE_SECONDS):
                pass
