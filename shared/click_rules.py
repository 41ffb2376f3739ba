"""What counts as a click, and at what time: rules that worker, trainer and tools share.

A producer can be wrong about the type of an event, its time and its key. Nothing of that stops a
stream: the rules say what is used instead, and each case is counted (docs/messages.md).
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from types import MappingProxyType

from nextclick.shared.messages import REDRIVEN, REPLAYED, Message
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.rate_limit import RateLimit
from nextclick.shared.runtime.settings import ClickSettings
from nextclick.shared.schemas import Click, decode_click

log = logging.getLogger(__name__)

OTHER = "*"
"""In the weights: every type that is not named."""
DEFAULT_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        **dict.fromkeys(("click", "clicks", "view", "pv", "page_view", "product_view", "view_item"), 1.0),
        **dict.fromkeys(("detail", "product_viewed", "product_clicked", "select_item"), 1.0),
        **dict.fromkeys(("cart", "carts", "add_to_cart", "addtocart", "product_added"), 2.0),
        **dict.fromkeys(("favourite", "favorite", "fav", "wishlist", "add_to_wishlist"), 2.0),
        **dict.fromkeys(("purchase", "buy", "order", "orders", "transaction", "order_completed"), 3.0),
        **dict.fromkeys(("impression", "impressions", "view_item_list", "product_list_viewed"), 0.0),
        **dict.fromkeys(("remove_from_cart", "product_removed", "remove", "unfavourite"), 0.0),
        **dict.fromkeys(("unfavorite", "remove_from_wishlist", "refund"), 0.0),
        OTHER: 1.0,
    }
)
"""Event type → weight, for the names that shops, trackers and public data sets use."""

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


def normalised(event_type: str) -> str:
    """The form in which types are compared: `Add to Cart` and `add-to-cart` are `add_to_cart`."""
    return event_type.strip().casefold().replace(" ", "_").replace("-", "_")


def weights_of(settings: ClickSettings) -> dict[str, float]:
    """Event type (normalised) → weight: the defaults, and what the settings say instead."""
    return {
        **DEFAULT_WEIGHTS,
        **{normalised(name): weight for name, weight in settings.event_weights.items()},
    }


def weight_of(event_type: str, weights: Mapping[str, float]) -> float:
    """The weight of an event type, from `weights_of`."""
    return weights.get(normalised(event_type), weights[OTHER])


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


def max_age_ms(message: Message, settings: ClickSettings) -> float:
    """How far an event time may lie before Kafka's; back to 1970 if the click is old on purpose."""
    if any(name in (REPLAYED, REDRIVEN) for name, _ in message.headers):
        return float(message.timestamp_ms or 0)
    return settings.max_age_seconds * 1000


class Anomalies:
    """Counts what is unusual about clicks; logs each kind once a minute, with the number since."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._limits: dict[str, RateLimit] = defaultdict(RateLimit)

    def add(self, kind: str, partition: int, offset: int) -> None:
        """Count a message of the clicks topic. kind: a key of REMEDIES."""
        metrics.CLICK_ANOMALIES.labels(kind).inc()
        self._counts[kind] += 1
        if self._limits[kind].allow():
            log.warning(
                "%d %s (the last one: partition %d, offset %d)",
                self._counts.pop(kind),
                REMEDIES[kind],
                partition,
                offset,
                extra={"reason": kind, "partition": partition, "offset": offset},
            )


class ClickRules:
    """Reads messages as clicks by the settings of a shop."""

    def __init__(self, settings: ClickSettings) -> None:
        self._settings = settings
        self.weights = weights_of(settings)
        self._anomalies = Anomalies()
        self._weights_seen: dict[str, tuple[float, str]] = {}

    def read(self, message: Message) -> Click | None:
        """The click of a message, with the time that counts; None for an event that is no click.

        The time is the event's own if it lies within the bounds around Kafka's, else Kafka's. A
        replayed or redriven click is old on purpose, so its time may lie before the bounds. The
        result depends on the message alone, so reading it again gives the same.

        Raises BadClick if the message is not an event at all.
        """
        click = decode_click(message.value)
        weight, unusual = self._weight(click.event_type)
        if unusual:
            self._anomalies.add(unusual, message.partition, message.offset)
        if weight == 0:
            return None
        if message.key is None:
            self._anomalies.add("no_key", message.partition, message.offset)
        elif message.key != click.user_id.encode():
            self._anomalies.add("key_is_not_user_id", message.partition, message.offset)
        return self._at_plausible_time(click, message)

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

    def _at_plausible_time(self, click: Click, message: Message) -> Click:
        kafka_ms = message.timestamp_ms
        if kafka_ms is None:  # messages from before Kafka 0.10
            return click
        max_age = max_age_ms(message, self._settings)
        max_ahead = self._settings.max_ahead_seconds * 1000
        anomaly = time_anomaly(click.timestamp, kafka_ms, max_age, max_ahead)
        if not anomaly:
            return click
        self._anomalies.add(anomaly, message.partition, message.offset)
        return click.model_copy(update={"timestamp": kafka_ms})
