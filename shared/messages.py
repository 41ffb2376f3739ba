"""Kafka messages as plain data, so that code which processes them needs no Kafka client. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from nextclick.shared.schemas import Click, Recommendation


@dataclass(frozen=True, slots=True)
class Message:
    """One consumed message."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp_ms: int | None = None
    """Kafka's timestamp, epoch milliseconds: set by the producer, or by the broker."""


class Place(NamedTuple):
    """The position of a message on its topic."""

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
    """None: chosen by the hash of the key."""


def of_user(topic: str, message: Click | Recommendation, *, replayed: bool = False) -> OutMessage:
    """Encode a message with its user id as key, so that the user's messages keep their order.

    replayed: mark it with the header REPLAYED.
    """
    headers = ((REPLAYED, b"1"),) if replayed else ()
    return OutMessage(topic, message.user_id.encode(), message.model_dump_json().encode(), headers)


def offsets_after(messages: Iterable[Message]) -> dict[int, int]:
    """Partition → the offset to commit once these messages are processed."""
    after: dict[int, int] = {}
    for message in messages:
        after[message.partition] = max(after.get(message.partition, 0), message.offset + 1)
    return after


REPLAYED = "replayed"
"""Header of a click that is sent later than it happened, on purpose: its own time counts."""
REDRIVEN = "redriven"
"""Header of a redriven click: how many times it was a dead letter."""


def times_redriven(message: Message) -> int:
    """The value of the header REDRIVEN; 0 if it is missing or malformed."""
    text = dict(message.headers).get(REDRIVEN) or b""
    return int(text) if text.isdigit() and len(text) < 10 else 0
