"""Wiring of the worker process."""

from __future__ import annotations

import logging
import threading

import torch

from services.worker.loop import Worker
from services.worker.model_slot import ModelSlot
from shared import metrics
from shared.device import select_device
from shared.garbage import leave_what_is_loaded_to_itself
from shared.kafka import ClickConsumer, Publisher, ensure_topics
from shared.registry import Registry
from shared.scorer import Scorer
from shared.sessions import RedisSessions
from shared.settings import Settings

log = logging.getLogger(__name__)


def run(settings: Settings, stop: threading.Event, scorer: type[Scorer] = Scorer) -> None:
    """Serve until `stop` is set; a bench may bring a `scorer` of another kind.

    Raises ConfigurationError or Unavailable if Kafka, Redis or the device is not usable at the
    start; later outages are waited out.
    """
    torch.set_num_threads(settings.worker.torch_threads)
    device = select_device(settings.device)
    kafka = settings.kafka
    sessions = RedisSessions(
        settings.redis.url.get_secret_value(),
        key_prefix=settings.redis.key_prefix,
        gap_ms=int(settings.session.gap_seconds * 1000),
        ttl_seconds=settings.session.ttl_seconds,
        timeout_seconds=settings.redis.timeout_seconds,
    )
    sessions.ping()
    ensure_topics(kafka, [kafka.clicks_topic, kafka.recommendations_topic, kafka.dlq_topic])
    publisher = Publisher(kafka)
    publisher.connect()
    metrics.serve_metrics(settings.worker.metrics_port)

    slot = ModelSlot(
        Registry(settings.registry.url),
        lambda checkpoint: scorer(checkpoint, device, settings.worker.top_k),
        settings.registry.poll_seconds,
    )
    slot.start()
    try:
        while not stop.is_set() and not slot.wait(0.2):
            pass
        if stop.is_set():
            return
        leave_what_is_loaded_to_itself()
        consumer = ClickConsumer(
            kafka,
            kafka.clicks_topic,
            settings.worker.group_id,
            instance_id=settings.worker.instance_id,
        )
        log.info("answering clicks from %s on %s", kafka.clicks_topic, device)
        try:
            Worker(
                consumer=consumer,
                sessions=sessions,
                slot=slot,
                publisher=publisher,
                recommendations_topic=kafka.recommendations_topic,
                dlq_topic=kafka.dlq_topic,
                max_batch=settings.worker.max_batch,
                stop=stop,
            ).run()
        finally:
            consumer.close()
    finally:
        slot.stop()
        sessions.close()
