"""Reads clicks and recommendations from Kafka, for the metrics of the demo and benchmarks."""

from __future__ import annotations

import json
import threading
import time
from collections import deque

from nextclick.shared.kafka import TopicReader
from nextclick.shared.runtime.background import BackgroundThread
from nextclick.shared.runtime.garbage_collector import freeze_garbage_collector
from nextclick.shared.runtime.settings import KafkaSettings
from nextclick.shared.schemas import Recommendation
from nextclick.shared.stream_metrics import StreamMetrics

UPDATE_SECONDS = 0.25


class Watcher:
    """Reads both topics. A thread only records when each answer arrives, so that arrival times are
    exact; `update` decodes the answers later, in bulk."""

    def __init__(self, kafka: KafkaSettings, live: StreamMetrics) -> None:
        self._live = live
        self._answers = TopicReader(kafka, [kafka.recommendations_topic])
        self._clicks = TopicReader(kafka, [kafka.clicks_topic], bulk=True)
        self._arrived: deque[tuple[float, bytes]] = deque()
        freeze_garbage_collector()  # a collection would delay recorded arrivals by 170 ms
        self._thread = BackgroundThread("watcher", self._record_arrivals)
        self._thread.start()

    def update(self) -> None:
        """Add the new clicks and answers to the metrics."""
        batch = [self._arrived.popleft() for _ in range(len(self._arrived))]
        self._live.add_answers(
            [Recommendation.model_validate_json(value) for _, value in batch],
            [when for when, _ in batch],
        )
        self._live.add_clicks(
            [json.loads(m.value or b"")["event_id"] for m in self._clicks.poll(10_000, timeout=0)]
        )

    def drain(self, seconds: float) -> None:
        """Update until all clicks are answered and none arrive, for at most `seconds`."""
        deadline = time.monotonic() + seconds
        quiet_since, seen = time.monotonic(), -1
        while time.monotonic() < deadline:
            self.update()
            total = len(self._live.clicks) + self._live.answered.total()
            if total != seen:
                quiet_since, seen = time.monotonic(), total
            if self._live.missing == 0 and time.monotonic() - quiet_since > 1.0:
                return
            time.sleep(UPDATE_SECONDS)

    def close(self) -> None:
        """Stop reading."""
        self._thread.stop()
        self._answers.close()
        self._clicks.close()

    def _record_arrivals(self, stop: threading.Event) -> None:
        while not stop.is_set():
            messages = self._answers.poll(1000, timeout=0.1)
            now_ms = time.time() * 1000
            self._arrived += [(now_ms, message.value or b"") for message in messages]
