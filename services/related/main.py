"""Entry point of `nextclick related`: keeps the topic of related items up to date."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from nextclick.services.related.publisher import RelatedPublisher
from nextclick.shared.errors import ConfigurationError, NextclickError, Unavailable
from nextclick.shared.kafka import ItemCatalogue, read_items
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.health import Check, HealthServer
from nextclick.shared.runtime.heartbeat import HEARTBEAT
from nextclick.shared.runtime.rate_limit import RateLimit
from nextclick.shared.runtime.settings import Settings

log = logging.getLogger(__name__)

METRICS_PORT = "NEXTCLICK_RELATED__METRICS_PORT"
STEP_SECONDS = 600.0
"""Longest step: the lists of a million items are read and sent in a few minutes."""


def publish_once(settings: Settings) -> int:
    """Bring the topic up to date; returns the number of messages that were sent.

    Raises as RelatedPublisher.step.
    """
    registry, states = Registry(settings.registry.url), read_items(settings.kafka).states
    return RelatedPublisher(settings.kafka, registry, lambda: states).step()


def run(settings: Settings, stop: threading.Event) -> None:
    """Follow the registry and the items topic until `stop` is set.

    Raises ConfigurationError if Kafka refuses, or the metrics port cannot be bound. While it or the
    registry is away, and while there is no version with related items, the topic stays as it is.
    """
    registry, warnings, topic = Registry(settings.registry.url), RateLimit(), TopicState()
    with (
        ItemCatalogue(settings.kafka) as items,
        health_server(settings.related.metrics_port, topic, items.check),
    ):
        while not items.wait(0.2):
            if stop.is_set():
                return
        publisher = RelatedPublisher(settings.kafka, registry, lambda: items.states)
        while not stop.is_set():
            HEARTBEAT.beat(within=STEP_SECONDS)
            try:
                publisher.step()
                topic.error = None
            except ConfigurationError:
                raise
            except NextclickError as error:
                topic.error = error
                if warnings.allow():
                    log.warning("the related items stay as they are: %s", error)
            stop.wait(settings.registry.poll_seconds)


class TopicState:
    """Whether the topic says what it should, as of the last step."""

    def __init__(self) -> None:
        """It is not known yet."""
        self.error: NextclickError | None = Unavailable("the topic is not up to date yet")

    def check(self) -> None:
        """The readiness check: raises why the topic stays as it is."""
        if self.error is not None:
            raise self.error


@contextlib.contextmanager
def health_server(port: int, topic: TopicState, items: Check) -> Iterator[None]:
    """Serve the metrics port within the context; port 0: do nothing.

    Raises ConfigurationError if the port cannot be bound.
    """
    if port == 0:
        yield
        return
    server = HealthServer(
        port,
        METRICS_PORT,
        alive={"loop": HEARTBEAT.check},
        ready={"items": items, "topic": topic.check},
    )
    try:
        yield
    finally:
        server.close()
