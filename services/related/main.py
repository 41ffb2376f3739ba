"""Entry point of `nextclick related`: keeps the topic of related items up to date."""

from __future__ import annotations

import logging
import threading

from nextclick.services.related.publisher import RelatedPublisher
from nextclick.shared.errors import ConfigurationError, NextclickError
from nextclick.shared.kafka import ItemCatalogue, read_items
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.rate_limit import RateLimit
from nextclick.shared.runtime.settings import Settings

log = logging.getLogger(__name__)


def publish_once(settings: Settings) -> int:
    """Bring the topic up to date; returns the number of messages that were sent.

    Raises as RelatedPublisher.step.
    """
    registry, states = Registry(settings.registry.url), read_items(settings.kafka).states
    return RelatedPublisher(settings.kafka, registry, lambda: states).step()


def run(settings: Settings, stop: threading.Event) -> None:
    """Follow the registry and the items topic until `stop` is set.

    Raises ConfigurationError if Kafka refuses. While it or the registry is away, and while there is
    no version with related items, the topic stays as it is.
    """
    registry, warnings = Registry(settings.registry.url), RateLimit()
    with ItemCatalogue(settings.kafka) as items:
        while not items.wait(0.2):
            if stop.is_set():
                return
        publisher = RelatedPublisher(settings.kafka, registry, lambda: items.states)
        while not stop.is_set():
            try:
                publisher.step()
            except ConfigurationError:
                raise
            except NextclickError as error:
                if warnings.allow():
                    log.warning("the related items stay as they are: %s", error)
            stop.wait(settings.registry.poll_seconds)
