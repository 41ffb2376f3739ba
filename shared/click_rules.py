"""What counts as a click, and at what time: rules that worker, trainer and tools share.

A producer can be wrong about the type of an event, its time and its key. Nothing of that stops a
stream: the rules say what is used instead, and each case is an anomaly that is counted
(docs/messages.md, `runtime.anomalies`). Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nextclick.shared.event_types import normalised, weight_of, weights_of
from nextclick.shared.messages import REDRIVEN, REPLAYED, Message
from nextclick.shared.schemas import Click, ReadFramed, decode_click

UNITS = (("seconds", 1e3), ("microseconds", 1e-3), ("nanoseconds", 1e-6))
"""Wrong units of timestamps, and the milliseconds in one of each."""
_SAME_YEAR_MS = 366 * 86_400_000
"""A timestamp in another unit is recognised if it is within a year of Kafka's time."""

REMEDIES = {
    "event_type_ignored": "events of a type with weight 0 are no clicks; nothing to do",
    "event_type_unknown": "events of an unknown type count by the weight of '*'; name the type in "
    "NEXTCLICK_CLICKS__EVENT_WEIGHTS",
    "time_in_seconds": "timestamps are in seconds, Kafka's time is used; send milliseconds",
    "time_in_microseconds": "timestamps are in microseconds, Kafka's time is used; "
    "send milliseconds",
    "time_in_nanoseconds": "timestamps are in nanoseconds, Kafka's time is used; send milliseconds",
    "time_behind": "timestamps are too old, Kafka's time is used; check the producer's clock, or "
    "NEXTCLICK_CLICKS__MAX_AGE_SECONDS",
    "time_ahead": "timestamps are in the future, Kafka's time is used; check the producer's clock, "
    "or NEXTCLICK_CLICKS__MAX_AHEAD_SECONDS",
    "no_key": "clicks have no key, so a user's clicks may lose their order; send the user id as "
    "the key",
    "key_is_not_user_id": "clicks have a key that is not their user_id, so a user's clicks may "
    "lose their order; send the user id as the key",
    "user_on_several_partitions": "clicks came on another partition than the click of their user "
    "before them, so they may be out of order; `nextclick topics check` says why",
}
"""Everything unusual that is counted → what it means for the person who reads the log."""


@dataclass(frozen=True)
class TimeBounds:
    """How far an event time may lie before and after Kafka's."""

    max_age_ms: float = 86_400_000
    max_ahead_ms: float = 300_000


def time_anomaly(event_ms: int, kafka_ms: int, max_age_ms: float, max_ahead_ms: float) -> str:
    """What is wrong with an event time (epoch ms), compared with Kafka's; "" if it is plausible.

    Returns a key of REMEDIES. A unit is named if the time would be right, to a year, in that unit.
    """
    if kafka_ms - max_age_ms <= event_ms <= kafka_ms + max_ahead_ms:
        return ""
    for unit, factor in UNITS:
        if abs(event_ms * factor - kafka_ms) <= _SAME_YEAR_MS:
            return f"time_in_{unit}"
    return "time_behind" if event_ms < kafka_ms else "time_ahead"


def time_anomaly_of(click: Click, message: Message, bounds: TimeBounds) -> str:
    """What is wrong with the time of a click; "" if it counts. See `time_anomaly`.

    A replayed or redriven click is old on purpose: its time may lie as far back as 1970.
    """
    kafka_ms = message.timestamp_ms
    if kafka_ms is None:  # messages from before Kafka 0.10: there is nothing to compare with
        return ""
    max_age_ms = bounds.max_age_ms
    if message.headers and any(name in (REPLAYED, REDRIVEN) for name, _ in message.headers):
        max_age_ms = kafka_ms  # old on purpose
    return time_anomaly(click.timestamp, kafka_ms, max_age_ms, bounds.max_ahead_ms)


class ClickRules:
    """Reads messages as clicks, by the rules of a shop."""

    def __init__(
        self,
        event_weights: Mapping[str, float] | None = None,
        bounds: TimeBounds = TimeBounds(),
        on_anomaly: Callable[[str, int, int], None] = lambda kind, partition, offset: None,
        read_framed: ReadFramed | None = None,
    ) -> None:
        """event_weights: what differs from the default weights of event types.

        on_anomaly(kind, partition, offset) is called with a key of REMEDIES for what is unusual.
        read_framed: reads values with a schema in a schema registry; None: there is no registry.
        """
        self.weights = weights_of(event_weights)
        self._bounds = bounds
        self._on_anomaly = on_anomaly
        self._read_framed = read_framed
        self._weights_seen: dict[str, tuple[float, str]] = {}

    def read(self, message: Message) -> Click | None:
        """The click of a message, with the time that counts; None for an event that is no click.

        The time is the event's own if it lies within the bounds around Kafka's, else Kafka's. A
        replayed or redriven click is old on purpose, so its time may lie before the bounds. The
        result depends on the message alone, so reading it again gives the same.

        Raises BadClick if the message is not an event at all, and what `read_framed` raises.
        """
        click = decode_click(message.value, message.headers, self._read_framed)
        weight, unusual = self._weight(click.event_type)
        if unusual:
            self._on_anomaly(unusual, message.partition, message.offset)
        if weight == 0:
            return None
        if message.key is None:
            self._on_anomaly("no_key", message.partition, message.offset)
        elif message.key != click.user_id.encode():
            self._on_anomaly("key_is_not_user_id", message.partition, message.offset)
        if anomaly := time_anomaly_of(click, message, self._bounds):
            self._on_anomaly(anomaly, message.partition, message.offset)
            return click.model_copy(update={"timestamp": message.timestamp_ms})
        return click

    def _weight(self, event_type: str) -> tuple[float, str]:
        """The weight of a type, and the anomaly to count."""
        known = self._weights_seen.get(event_type)
        if known is None:
            weight = weight_of(event_type, self.weights)
            named = normalised(event_type) in self.weights
            unknown = "" if named else "event_type_unknown"
            known = weight, unknown or ("event_type_ignored" if weight == 0 else "")
            if len(self._weights_seen) < 1000:  # hostile types must not fill the memory
                self._weights_seen[event_type] = known
        return known
