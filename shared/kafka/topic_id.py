"""Whether a topic is still the one that it was: Kafka gives each a new id (KIP-516)."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from nextclick.shared.kafka.client import (
    REQUEST_SECONDS,
    SEE,
    MakeClient,
    Permission,
    client_config,
    failed,
    make_client,
)
from nextclick.shared.kafka.login import Login
from nextclick.shared.runtime.settings import KafkaSettings

ASK_SECONDS = 1.0
"""Between two questions of `changed`."""


class TopicId:
    """Asks for the id of a topic. A topic that is deleted and created again has another one."""

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        clock: Callable[[], float] = time.monotonic,
        make_client: MakeClient = make_client,
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._clock = clock
        self._admin = make_client(AdminClient, client_config(settings))
        self._login = Login(settings, self._admin, clock)
        self._known = ""
        self._question: Future[Any] | None = None
        self._asked_at = -ASK_SECONDS

    def read(self) -> str:
        """Ask and wait. Empty if the brokers give topics no ids (before Kafka 2.8).

        Raises Unavailable if Kafka does not answer or has no such topic, ConfigurationError if we
        may not see it.
        """
        try:
            return _id(self._ask())
        except KafkaException as error:
            needed = Permission(SEE, "topic", self._topic)
            raise failed(self._settings, error.args[0], needed) from None

    def has_changed(self) -> bool:
        """Whether the topic is another one than when last asked. Raises like `read`."""
        return self._differs(self.read())

    def has_changed_lately(self) -> bool:
        """The same, without waiting: Kafka is asked once in ASK_SECONDS, and answers a later call.

        As long as there is no answer nothing is known to have changed.
        """
        if self._question is None:
            if self._clock() - self._asked_at >= ASK_SECONDS:
                self._asked_at = self._clock()
                self._question = self._ask()
            return False
        if not self._question.done():
            return False
        question, self._question = self._question, None
        try:
            return self._differs(_id(question))
        except KafkaException:  # deleted and not there yet, or no broker
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


def _id(question: Future[Any]) -> str:
    found = question.result().topic_id
    bits = (found.get_most_significant_bits(), found.get_least_significant_bits())
    return "".join(f"{half & (2**64 - 1):016x}" for half in bits) if any(bits) else ""
