"""Clicks onto Kafka, recommendations from it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeGuard, cast

from pydantic import ValidationError

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.kafka import Publisher, TopicReader, ensure_topics
from nextclick.shared.messages import of_user
from nextclick.shared.runtime.settings import KafkaSettings, Settings
from nextclick.shared.schemas import Click, Recommendation

if TYPE_CHECKING:  # who reads recommendations needs no extra
    import pandas as pd

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1


def publish_clicks(
    clicks: pd.DataFrame | Iterable[Click], kafka: KafkaSettings | None = None
) -> int:
    """Publish clicks; returns how many, once Kafka has acknowledged them all.

    clicks: a frame as `read_clicks` gives it, or an iterable of Click, which may take its time:
    each is sent as it comes. Rows without an event_id get one made from user, item and time, so
    that what is published again counts once. kafka: None = what the settings say. The topic is
    created if it is missing.

    Raises ConfigurationError for a frame that holds something else, or if Kafka refuses a click
    for good, Unavailable if Kafka does not answer or acknowledge.
    """
    kafka = kafka or Settings.from_environment().kafka
    rows = _clicks_of(clicks) if _is_frame(clicks) else cast("Iterable[Click]", clicks)
    ensure_topics(kafka, [kafka.clicks_topic])
    publisher = Publisher(kafka)
    publisher.connect()
    sent = 0
    try:
        for click in rows:
            publisher.send([of_user(kafka.clicks_topic, click)])
            sent += 1
    finally:
        publisher.wait_acknowledged()
    return sent


def recommendations(
    kafka: KafkaSettings | None = None,
    *,
    from_beginning: bool = False,
    silence_seconds: float | None = None,
) -> Iterator[Recommendation]:
    """The answers to clicks as they come: of each user in order.

    Those that come after this call, whenever the first is asked for; from_beginning: all that the
    topic holds, too. It ends after so many seconds without one; None: never. kafka: None = what
    the settings say. It joins no consumer group and commits nothing.

    Raises Unavailable if Kafka does not answer or has no such topic.
    """
    kafka = kafka or Settings.from_environment().kafka
    # Made here and not in the generator, which starts at the first next().
    reader = TopicReader(kafka, [kafka.recommendations_topic], at_end=not from_beginning)
    return _answers(reader, silence_seconds)


def _answers(reader: TopicReader, silence_seconds: float | None) -> Iterator[Recommendation]:
    try:
        heard = time.monotonic()
        while silence_seconds is None or time.monotonic() - heard < silence_seconds:
            for message in reader.poll(timeout=_POLL_SECONDS):
                try:
                    yield Recommendation.model_validate_json(message.value or b"")
                except ValidationError:
                    log.warning(
                        "no recommendation: %s, partition %d, offset %d",
                        message.topic,
                        message.partition,
                        message.offset,
                    )
                heard = time.monotonic()
    finally:
        reader.close()


def _is_frame(clicks: object) -> TypeGuard[pd.DataFrame]:
    pandas = sys.modules.get("pandas")  # not imported: then it is none
    return pandas is not None and isinstance(clicks, pandas.DataFrame)


def _clicks_of(frame: pd.DataFrame) -> Iterator[Click]:
    from nextclick.interface.clicks import checked
    from nextclick.services.replay.log import event_id

    rows = checked(frame)
    ids = frame["event_id"] if "event_id" in frame else [None] * len(frame)
    for place, (user, item, at, known) in enumerate(
        zip(rows["user_id"], rows["item_id"], rows["timestamp"], ids, strict=True)
    ):
        try:
            yield Click(
                event_id=known or event_id(user, item, int(at)),
                user_id=user,
                item_id=item,
                timestamp=int(at),
            )
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ConfigurationError(
                f"row {place} is no click: {first['loc'][0]}: {first['msg']}"
            ) from None
