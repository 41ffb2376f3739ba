"""Detects that a topic was deleted and created again, by its id (KIP-516).

The consumer cannot tell by itself: to librdkafka a topic that was made anew between two refreshes
of its metadata is the old one, and if it has grown past our position nothing looks different. Its
id is in the answer to DescribeTopics only. That request goes to the controller, and does not have
the fault for which groups are described in a child process (group_description.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from nextclick.shared.kafka.client import (
    DESCRIBE,
    REQUEST_SECONDS,
    MakeClient,
    Permission,
    client_config,
    failed,
    make_client,
)
from nextclick.shared.kafka.login import Login
from nextclick.shared.runtime.settings import KafkaSettings

ASK_SECONDS = 1.0
"""Time between two requests of `has_changed_lately`."""


CONTROLLER_REFRESH_MS = 5_000
"""A client that asks nobody but the controller notices only so often that another broker is it now:
by default after five minutes, in which all its requests time out."""


def describing_client(
    settings: KafkaSettings, make_client: MakeClient = make_client
) -> AdminClient:
    """A client for DescribeTopics."""
    refresh = {"topic.metadata.refresh.interval.ms": CONTROLLER_REFRESH_MS}
    client: AdminClient = make_client(AdminClient, refresh | client_config(settings))
    return client


class TopicId:
    """Reads the id of a topic. A topic that is deleted and created again has another id."""

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        admin: AdminClient,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._admin = admin
        self._clock = clock
        self._login = Login(settings, admin, clock)
        self._known = ""
        self._request: Future[Any] | None = None
        self._asked_at = -ASK_SECONDS

    def read(self) -> str:
        """The id, as 32 hex digits; empty if the brokers have no topic ids (before Kafka 2.8).

        Raises Unavailable if Kafka does not answer or has no such topic, ConfigurationError if the
        permission to describe it is missing.
        """
        try:
            return _id(self._ask())
        except KafkaException as error:
            needed = Permission(DESCRIBE, "topic", self._topic)
            raise failed(self._settings, error.args[0], needed) from None

    def has_changed(self) -> bool:
        """Whether the topic was recreated since the last call. Raises as `read` does."""
        return self._differs(self.read())

    def has_changed_lately(self) -> bool:
        """As `has_changed`, without waiting: a request is sent every ASK_SECONDS.

        Its answer is returned by a later call; until then the result is False.
        """
        if self._request is None:
            if self._clock() - self._asked_at >= ASK_SECONDS:
                self._asked_at = self._clock()
                self._request = self._ask()
            return False
        if not self._request.done():
            return False
        request, self._request = self._request, None
        try:
            return self._differs(_id(request))
        except KafkaException:  # deleted and not recreated yet, or no broker
            return False

    def _differs(self, now: str) -> bool:
        before, self._known = self._known, now or self._known
        return bool(before) and before != self._known

    def _ask(self) -> Future[Any]:
        self._login.renew()
        asked = self._admin.describe_topics(
            TopicCollection([self._topic]), request_timeout=REQUEST_SECONDS
        )
        answer: Future[Any] = asked[self._topic]
        return answer


def _id(request: Future[Any]) -> str:
    found = request.result().topic_id
    bits = (found.get_most_significant_bits(), found.get_least_significant_bits())
    return "".join(f"{half & (2**64 - 1):016x}" for half in bits) if any(bits) else ""
