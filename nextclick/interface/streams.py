"""Publishes clicks to Kafka, and reads recommendations from it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeGuard, cast

from pydantic import ValidationError

from nextclick.shared.errors import BadRecommendation, ConfigurationError
from nextclick.shared.kafka import Publisher, TopicReader, ensure_topics
from nextclick.shared.kafka.schema_registry import framed_reader
from nextclick.shared.messages import AS_REPLAYED, of_user
from nextclick.shared.runtime.settings import KafkaSettings, SchemaRegistrySettings, Settings
from nextclick.shared.schemas import Click, ReadFramed, Recommendation, decode_recommendation

if TYPE_CHECKING:  # pandas is in an extra, which `recommendations` does not need
    import pandas as pd

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1


def publish_clicks(
    clicks: pd.DataFrame | Iterable[Click], kafka: KafkaSettings | None = None
) -> int:
    """Publish clicks; returns their number after Kafka has acknowledged all of them.

    clicks: a frame as from `read_clicks`, or an iterable of Click; each is sent at once, so the
    iterable may block. Rows without an event_id get one computed from user, item and time, so that
    a click that is published again counts once. The clicks of a frame may be old: they are sent as
    replayed ones, whose own times count. kafka: None: from the settings. The topic is
    created if it is missing.

    Raises ConfigurationError for an invalid frame, or if Kafka permanently refuses a click,
    Unavailable if Kafka does not answer or acknowledge.
    """
    kafka = kafka or Settings.from_environment().kafka
    rows = _clicks_of(clicks) if _is_frame(clicks) else cast("Iterable[Click]", clicks)
    headers = AS_REPLAYED if _is_frame(clicks) else ()
    ensure_topics(kafka, [kafka.clicks_topic])
    publisher = Publisher(kafka)
    publisher.connect()
    sent = 0
    try:
        for click in rows:
            publisher.send([of_user(kafka.clicks_topic, click, headers)])
            sent += 1
    finally:
        publisher.wait_acknowledged()
    return sent


def recommendations(
    kafka: KafkaSettings | None = None,
    *,
    from_beginning: bool = False,
    silence_seconds: float | None = None,
    schema_registry: SchemaRegistrySettings | None = None,
) -> Iterator[Recommendation]:
    """Iterate over recommendations as they arrive; those of one user are in order.

    Starts with the first recommendation after this call, not after the first next();
    from_beginning: with the oldest on the topic. silence_seconds: end after this long without a
    recommendation; None: never. kafka, schema_registry: None: from the settings. Joins no consumer
    group and commits nothing.

    Raises Unavailable if Kafka does not answer or has no such topic, or the schema registry does
    not answer.
    """
    kafka = kafka or Settings.from_environment().kafka
    schema_registry = schema_registry or Settings.from_environment().schema_registry
    read_framed = framed_reader(schema_registry, Recommendation)
    # Not in the generator, which runs only from the first next() on.
    reader = TopicReader(kafka, [kafka.recommendations_topic], at_end=not from_beginning)
    return _answers(reader, silence_seconds, read_framed)


def _answers(
    reader: TopicReader, silence_seconds: float | None, read_framed: ReadFramed | None
) -> Iterator[Recommendation]:
    try:
        last_arrival = time.monotonic()
        while silence_seconds is None or time.monotonic() - last_arrival < silence_seconds:
            for message in reader.poll(timeout=_POLL_SECONDS):
                try:
                    yield decode_recommendation(message.value, message.headers, read_framed)
                except BadRecommendation as error:
                    log.warning(
                        "skipped, not a recommendation: %s, partition %d, offset %d: %s",
                        message.topic,
                        message.partition,
                        message.offset,
                        error,
                    )
                last_arrival = time.monotonic()
    finally:
        reader.close()


def _is_frame(clicks: object) -> TypeGuard[pd.DataFrame]:
    pandas = sys.modules.get("pandas")  # if it is not imported, clicks cannot be a frame
    return pandas is not None and isinstance(clicks, pandas.DataFrame)


def _clicks_of(frame: pd.DataFrame) -> Iterator[Click]:
    from nextclick.interface.clicks import checked
    from nextclick.services.replay.log import event_id

    rows = checked(frame)
    ids = frame["event_id"] if "event_id" in frame else [None] * len(frame)
    for place, (user, item, at, known, kind) in enumerate(
        zip(
            rows["user_id"],
            rows["item_id"],
            rows["timestamp"],
            ids,
            rows["event_type"],
            strict=True,
        )
    ):
        try:
            yield Click(
                event_id=known or event_id(user, item, int(at), kind),
                user_id=user,
                item_id=item,
                timestamp=int(at),
                event_type=kind,
            )
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ConfigurationError(
                f"row {place} is not a click: {first['loc'][0]}: {first['msg']}"
            ) from None
