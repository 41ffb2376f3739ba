"""Reads the topics for the page, as long as somebody has it open."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from nextclick.services.api.page.stream import STEP_SECONDS, Mark, Stream
from nextclick.shared.errors import BadRecommendation, NextclickError
from nextclick.shared.kafka import LagMonitor, TopicReader, ensure_topics
from nextclick.shared.messages import Message
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.rate_limit import RateLimit
from nextclick.shared.runtime.settings import KafkaSettings
from nextclick.shared.schemas import ReadFramed, decode_recommendation
from nextclick.shared.stream_metrics import TopItems

log = logging.getLogger(__name__)

IDLE_SECONDS = 300.0
"""The topics are read this long after the last call of `watch`."""
_RETRY_SECONDS = 2.0


class Feed:
    """Follows the stream in a background thread."""

    def __init__(
        self,
        kafka: KafkaSettings,
        group_id: str,
        registry: Registry,
        baselines: dict[str, TopItems],
        read_framed: ReadFramed | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """group_id: the consumer group of the workers, for their lag.

        read_framed: reads recommendations with a schema in a schema registry.
        """
        self._kafka = kafka
        self._group_id = group_id
        self._registry = registry
        self._baselines = baselines
        self._read_framed = read_framed
        self._clock = clock
        self._warnings = RateLimit(clock)
        self._last_watched = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.lock = threading.Lock()
        """Hold it to read `stream`; the thread holds it to change the stream."""
        self.stream = Stream(baselines)
        self.error = ""
        """Why the topics cannot be read now; empty if they can."""

    def watch(self) -> Stream:
        """The stream; starts to follow it if needed. Following ends IDLE_SECONDS after a call."""
        self._last_watched = self._clock()
        if self._thread is None or not self._thread.is_alive():
            self.stream = Stream(self._baselines)
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
        reader = TopicReader(kafka, topics, at_end=True)
        monitor = LagMonitor(kafka, kafka.clicks_topic, self._group_id)
        try:
            began = self._clock()
            since = datetime.now(UTC)
            while self._is_watched():
                self._add(reader.poll(2000, timeout=0.1), time.time() * 1000)
                seconds = self._clock() - began
                if seconds >= STEP_SECONDS:
                    began = self._clock()
                    since = self._mark_refusals(since)
                    lag = monitor.lag()
                    with self.lock:
                        self.stream.end_step(time.time() * 1000, lag, seconds)
                    self.error = ""
        finally:
            monitor.close()
            reader.close()

    def _add(self, messages: Sequence[Message], now_ms: float) -> None:
        answers, reasons, clicks = [], [], 0
        for message in messages:
            if message.topic == self._kafka.recommendations_topic:
                try:
                    answers.append(
                        decode_recommendation(message.value, message.headers, self._read_framed)
                    )
                except BadRecommendation as error:  # not from a worker, or our settings lack it
                    if self._warnings.allow():
                        log.warning("not a recommendation: %s", error)
            elif message.topic == self._kafka.dlq_topic:
                reason = dict(message.headers).get("error_class") or b"other"
                reasons.append(reason.decode("utf-8", "replace")[:40])
            else:
                clicks += 1
        with self.lock:
            self.stream.add_clicks(clicks)
            self.stream.add_dead_letters(reasons)
            self.stream.add_answers([a for a in answers if a.history], now_ms)

    def _mark_refusals(self, since: datetime) -> datetime:
        for refusal in self._registry.refusals():
            if refusal.at > since:
                since = refusal.at
                with self.lock:
                    at_ms = refusal.at.timestamp() * 1000
                    self.stream.add_mark(Mark(at_ms, "refusal", f"refused: {refusal.reason}"))
        return since
