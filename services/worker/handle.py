"""What the worker decides about a batch. Pure: messages in, messages out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shared.errors import BadClick
from shared.messages import REDRIVEN, Message, OutMessage, Place, times_redriven
from shared.schemas import Click, Recommendation, decode_click, event_id_of
from shared.scorer import Ranking

MAX_DEAD_LETTER_BYTES = 900_000
"""Value bytes kept in a dead letter: with its key and headers it fits Kafka's default 1 MB."""
MAX_DEAD_LETTER_KEY_BYTES = 10_000


@dataclass(frozen=True, slots=True)
class Read:
    """A message, and the click in it or the reason why there is none."""

    message: Message
    outcome: Click | BadClick


def decode(messages: Sequence[Message]) -> list[Read]:
    """Decode every message."""
    return [Read(message, _decode(message.value)) for message in messages]


def _decode(value: bytes | None) -> Click | BadClick:
    try:
        return decode_click(value)
    except BadClick as error:
        return error


def clicks(batch: Sequence[Read]) -> tuple[list[Click], list[Place]]:
    """The clicks of a batch, and where each of them lies."""
    found, places = [], []
    for message, outcome in ((read.message, read.outcome) for read in batch):
        if isinstance(outcome, Click):
            found.append(outcome)
            places.append(Place(message.partition, message.offset))
    return found, places


def bad(batch: Sequence[Read]) -> list[tuple[Message, BadClick]]:
    """The messages of a batch that are no clicks, and why."""
    return [(read.message, read.outcome) for read in batch if isinstance(read.outcome, BadClick)]


def cut(batch: Sequence[Read], max_per_user: int) -> Iterator[list[Read]]:
    """Cut a batch so that no part has more than `max_per_user` clicks of one user.

    Nearly always one part. It bounds what a crash can replay of one user to what the session
    store still remembers (sessions.MAX_UNCOMMITTED_CLICKS_PER_USER).
    """
    part: list[Read] = []
    clicks: Counter[str] = Counter()
    for read in batch:
        if isinstance(read.outcome, Click):
            user_id = read.outcome.user_id
            if clicks[user_id] == max_per_user:
                yield part
                part, clicks = [], Counter()
            clicks[user_id] += 1
        part.append(read)
    if part:
        yield part


def recommendation(
    click: Click, history: list[str], ranking: Ranking, model_version: str, now_ms: int
) -> Recommendation:
    """Put the answer to one click together."""
    return Recommendation.model_construct(
        event_id=click.event_id,
        user_id=click.user_id,
        items=ranking.items,
        model_version=model_version,
        history=history,
        click_timestamp=click.timestamp,
        scored_at=now_ms,
        fallback=ranking.fallback,
    )


def about(message: Message, error: BadClick) -> dict[str, object]:
    """What a log record of a dead letter is about; the event_id only if it can be made out."""
    return {
        "event_id": event_id_of(message.value) if error.reason == "invalid" else None,
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "reason": error.reason,
    }


def dead_letter(topic: str, message: Message, error: BadClick, now_ms: int) -> OutMessage:
    """Wrap a message that is no click: its own bytes and key, and in the headers why and whence.

    A letter that Kafka refused would stop the worker for good, so a value and a key that are
    too long are cut; the headers `original_bytes` and `original_key_bytes` then say how long
    they were. A message that `nextclick dlq redrive` sent, and that is bad again, stays marked.
    """
    key, value = message.key, message.value
    headers = {
        "topic": message.topic,
        "partition": str(message.partition),
        "offset": str(message.offset),
        "error_class": error.reason,
        "error": str(error)[:1000],
        "time": str(now_ms),
    }
    if count := times_redriven(message):
        headers[REDRIVEN] = str(count)
    if key is not None and len(key) > MAX_DEAD_LETTER_KEY_BYTES:
        headers["original_key_bytes"] = str(len(key))
        key = key[:MAX_DEAD_LETTER_KEY_BYTES]
    if value is not None and len(value) > MAX_DEAD_LETTER_BYTES:
        headers["original_bytes"] = str(len(value))
        value = value[:MAX_DEAD_LETTER_BYTES]
    encoded = tuple((name, text.encode("utf-8", "replace")) for name, text in headers.items())
    return OutMessage(topic, key, value, encoded)
