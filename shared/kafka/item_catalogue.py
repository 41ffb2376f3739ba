"""Follows the items topic in a thread, for whoever must know what is withheld (shared/items.py).

It is read from its beginning, without a consumer group, at every start. After an outage, or if the
topic is made anew, it is read again; what was known stays until that is complete.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Self

from nextclick.shared.errors import ConfigurationError, NextclickError, Unavailable
from nextclick.shared.items import ItemStates, ItemTable
from nextclick.shared.kafka.offsets import read_offsets, retained_offsets
from nextclick.shared.kafka.readers import TopicReader
from nextclick.shared.kafka.topics import ensure_topics
from nextclick.shared.messages import Message
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.background import BackgroundThread
from nextclick.shared.runtime.rate_limit import RateLimit
from nextclick.shared.runtime.settings import KafkaSettings

log = logging.getLogger(__name__)

FIRST_READ_SECONDS = 30.0
"""A process that cannot read the items within this time serves without them, and says so."""
_POLL_SECONDS = 0.25
_RETRY_SECONDS = 1.0


def read_items(settings: KafkaSettings) -> ItemTable:
    """Read the topic to its present end, with attributes.

    Raises Unavailable if Kafka does not answer, ConfigurationError for a missing permission.
    """
    topic, table = settings.items_topic, ItemTable(keep_values=True, keep_attributes=True)
    ensure_topics(settings, [topic])
    table.apply(read_offsets(settings, topic, retained_offsets(settings, topic)))
    return table


class ItemCatalogue:
    """What the items topic says now. Thread-safe; a context starts and stops the thread."""

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        keep_values: bool = False,
        keep_attributes: bool = False,
    ) -> None:
        """keep_values, keep_attributes: see ItemTable."""
        self._settings = settings
        self._topic = settings.items_topic
        self._new_table = partial(
            ItemTable, keep_values=keep_values, keep_attributes=keep_attributes
        )
        self._table = self._new_table()
        self._error: NextclickError | None = None
        self._warnings, self._refusals, self._late = RateLimit(), RateLimit(), RateLimit()
        self._complete = threading.Event()
        self._changed = threading.Condition()
        self._deadline = time.monotonic() + FIRST_READ_SECONDS
        self._thread = BackgroundThread("items", self._run)

    @property
    def states(self) -> ItemStates:
        """The present snapshot; read it once per batch."""
        return self._table.states

    @property
    def table(self) -> ItemTable:
        """Attributes and titles, if they are kept; only to be read, and at once."""
        return self._table

    def start(self) -> None:
        """Start reading."""
        self._deadline = time.monotonic() + FIRST_READ_SECONDS
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._thread.stop()

    def __enter__(self) -> Self:
        """Start reading."""
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the thread."""
        self.stop()

    def wait(self, timeout: float) -> bool:
        """Wait until the topic was read to its end, or FIRST_READ_SECONDS are over.

        Returns whether one of them is so. Raises ConfigurationError if Kafka refuses to be read.
        """
        if self._complete.wait(timeout):
            return True
        if isinstance(self._error, ConfigurationError):
            raise self._error
        if time.monotonic() < self._deadline:
            return False
        if self._late.allow():
            log.warning(
                "serving, and the topic %s is not read to its end: retired items may be in lists",
                self._topic,
            )
        return True

    def wait_until(self, says: Callable[[ItemTable], bool], timeout: float) -> bool:
        """Wait until the table satisfies a condition; returns whether it does."""
        with self._changed:
            return self._changed.wait_for(lambda: says(self._table), timeout)

    def check(self) -> None:
        """The readiness check: as `wait`. Raises Unavailable."""
        if not self._complete.is_set() and time.monotonic() < self._deadline:
            raise Unavailable(f"the topic {self._topic} is still being read")

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._follow(stop)
                self._error = None
            except NextclickError as error:
                self._error = error
                if self._warnings.allow():
                    log.warning("what is known about items stays as it is: %s", error)
            except Exception:  # a bug: log it, and keep what is known
                log.exception("following the topic %s failed", self._topic)
            stop.wait(_RETRY_SECONDS)

    def _follow(self, stop: threading.Event) -> None:
        """Read from the beginning until `stop`, or until the topic is made anew."""
        ensure_topics(self._settings, [self._topic])
        partitions = len(retained_offsets(self._settings, self._topic))
        if partitions != 1:
            raise ConfigurationError(
                f"the topic {self._topic} has {partitions} partitions, and must have one, so that "
                "an offset is a version of all items: NEXTCLICK_KAFKA__ITEMS_TOPIC names another"
            )
        table = self._new_table()
        with closing(TopicReader(self._settings, [self._topic], note_ends=True)) as reader:
            while not stop.is_set():
                messages = reader.poll(timeout=_POLL_SECONDS)
                if messages and messages[0].offset < table.states.offset:
                    log.warning("the topic %s was made anew: it is read again", self._topic)
                    return
                self._apply(table, messages)
                first = reader.ends_reached and table is not self._table
                if first:
                    self._table = table
                    self._report()
                    self._complete.set()
                if first or messages:
                    with self._changed:
                        self._changed.notify_all()

    def _apply(self, table: ItemTable, messages: list[Message]) -> None:
        if not messages:
            return
        withheld = table.states.withheld
        refused = table.apply(messages)
        if refused:
            metrics.BAD_ITEMS.inc(len(refused))
            if self._refusals.allow():
                message, error = refused[0]
                log.warning(
                    "%d messages refused that are not items, first %s/%d/%d: %r",
                    len(refused),
                    message.topic,
                    message.partition,
                    message.offset,
                    str(error)[:200],
                )
        if table is self._table and table.states.withheld is not withheld:
            self._report()

    def _report(self) -> None:
        withheld = len(self.states.withheld)
        metrics.ITEMS_WITHHELD.set(withheld)
        log.info("%d items are in no list, as of offset %d", withheld, self.states.offset)
