"""Kafka messages as plain data, so that code which processes them needs no Kafka client. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from nextclick.shared.schemas import (
    SCHEMA_ID_HEADER,
    Click,
    Recommendation,
    schema_id_header,
)


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


EncodeRecommendation: TypeAlias = Callable[[Recommendation], bytes]
"""Makes the value of a message on the recommendations topic."""


def as_json(message: Click | Recommendation) -> bytes:
    """The value of a message as plain JSON."""
    return message.model_dump_json().encode()


def of_user(topic: str, message: Click | Recommendation, *, replayed: bool = False) -> OutMessage:
    """Encode a message with its user id as key, so that the user's messages keep their order.

    replayed: mark it with the header REPLAYED.
    """
    headers = ((REPLAYED, b"1"),) if replayed else ()
    return OutMessage(topic, message.user_id.encode(), as_json(message), headers)


def answer_message(topic: str, answer: Recommendation, encode: EncodeRecommendation) -> OutMessage:
    """A recommendation with its user id as key."""
    return OutMessage(topic, answer.user_id.encode(), encode(answer))


def schema_headers(message: Message) -> tuple[tuple[str, bytes], ...]:
    """The header without which a value in Avro or Protobuf cannot be read; () if there is none."""
    header = schema_id_header(message.headers)
    return () if header is None else ((SCHEMA_ID_HEADER, header),)


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
