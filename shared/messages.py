"""A Kafka message as plain data, so that what decides about messages needs no Kafka. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from nextclick.shared.schemas import Click, Recommendation


@dataclass(frozen=True, slots=True)
class Message:
    """One message as read."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp_ms: int | None = None
    """Kafka's time of the message: set by its producer, or by the broker."""


class Place(NamedTuple):
    """Where on its topic a message lies."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class OutMessage:
    """One message to produce."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None
    """None: the key decides."""


def of_user(topic: str, message: Click | Recommendation) -> OutMessage:
    """Put a message of a user onto a topic, keyed so that the user's messages keep their order."""
    return OutMessage(topic, message.user_id.encode(), message.model_dump_json().encode())


def offsets_after(messages: Iterable[Message]) -> dict[int, int]:
    """By partition, the offset that comes next once these messages are dealt with."""
    after: dict[int, int] = {}
    for message in messages:
        after[message.partition] = max(after.get(message.partition, 0), message.offset + 1)
    return after


REDRIVEN = "redriven"
"""Header of a click that was a dead letter before: how many times."""


def times_redriven(message: Message) -> int:
    """Read the header; 0 where there is none, or one that is not ours."""
    text = dict(message.headers).get(REDRIVEN) or b""
    return int(text) if text.isdigit() and len(text) < 10 else 0
