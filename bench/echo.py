"""The echo, a floor for latencies: `python -m nextclick.bench.echo` answers clicks with a constant.

The simplest program with confluent_kafka and its defaults: consume a click, produce a message of
the size of a recommendation. No model, no Redis, no micro-batches. An offset is committed in the
background after its answer is acknowledged (at least once).
"""

from __future__ import annotations

import json
import signal
import threading
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, Producer

from nextclick.bench.traffic import item_id
from nextclick.shared.runtime.settings import Settings

_ITEMS = [{"item_id": item_id(1000 + place), "score": 0.00123456} for place in range(10)]
_HISTORY = [item_id(5000 + place) for place in range(9)]


def answer(click: dict[str, Any]) -> bytes:
    """A message like a recommendation for the click."""
    recommendation = {
        "event_id": click["event_id"],
        "user_id": click["user_id"],
        "items": _ITEMS,
        "model_version": "20260101T000000Z-0000",
        "history": [*_HISTORY, click["item_id"]],
        "click_timestamp": click["timestamp"],
        "scored_at": click["timestamp"],
        "fallback": None,
        "items_offset": 0,
        "schema_version": 1,
    }
    return json.dumps(recommendation, separators=(",", ":")).encode()


def run(settings: Settings, stop: threading.Event) -> None:
    """Answer the clicks topic of the settings until `stop` is set."""
    kafka = settings.kafka
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": settings.worker.group_id,
            "auto.offset.reset": "earliest",
            "enable.auto.offset.store": False,
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 0,
        }
    )
    consumer.subscribe([kafka.clicks_topic])
    try:
        while not stop.is_set():
            message = consumer.poll(0.5)
            if message is not None and message.error() is None:
                value = answer(json.loads(message.value() or b""))
                on_delivery = partial(_store, consumer, message)
                producer.produce(
                    kafka.recommendations_topic, value, message.key(), on_delivery=on_delivery
                )
            producer.poll(0)
        producer.flush()
    finally:
        consumer.close()


def _store(consumer: Consumer, click: Message, error: KafkaError | None, _: Message) -> None:
    """Mark a click whose answer is acknowledged for the next automatic commit."""
    if error is None:
        consumer.store_offsets(click)


def main() -> None:
    """Run until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    run(Settings.from_environment(), stop)


if __name__ == "__main__":
    main()
