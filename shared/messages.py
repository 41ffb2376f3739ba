"""Kafka messages as plain data, so that code which processes them needs no Kafka client. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

from nextclick.shared.schemas import (
    SCHEMA_ID_HEADER,
    Click,
    ExtendedRecommendation,
    Recommendation,
    schema_id_header,
)

Headers: TypeAlias = tuple[tuple[str, bytes], ...]
Of = TypeVar("Of", Click, Recommendation)


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

    @property
    def place(self) -> Place:
        """Its position on its topic."""
        return Place(self.partition, self.offset)


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
    headers: Headers = ()
    partition: int | None = None
    """None: chosen by the hash of the key."""


EncodeRecommendation: TypeAlias = Callable[[Recommendation], bytes]
"""Makes the value of a message on the recommendations topic."""


def as_json(message: Click | Recommendation) -> bytes:
    """The value of a message as plain JSON."""
    only_set = isinstance(message, ExtendedRecommendation)
    return message.model_dump_json(exclude_unset=only_set).encode()


def of_user(
    topic: str,
    message: Of,
    headers: Headers = (),
    encode: Callable[[Of], bytes] = as_json,
) -> OutMessage:
    """Encode a message with its user id as key, so that the user's messages keep their order."""
    return OutMessage(topic, message.user_id.encode(), encode(message), headers)


def schema_headers(message: Message) -> Headers:
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
AS_REPLAYED: Headers = ((REPLAYED, b"1"),)
REDRIVEN = "redriven"
"""Header of a redriven click: how many times it was a dead letter."""


def times_redriven(message: Message) -> int:
    """The value of the header REDRIVEN; 0 if it is missing or malformed."""
    text = dict(message.headers).get(REDRIVEN) or b""
    return int(text) if text.isdigit() and len(text) < 10 else 0


TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
"""Headers of W3C Trace Context: the trace and the span that a message belongs to."""
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_MAX_TRACESTATE_BYTES = 512


def trace_context(headers: Iterable[tuple[str, bytes | None]]) -> Headers:
    """The trace context among headers, for the message that follows; () if there is no valid one.

    Bounded: a header that is too long would make the answer too large for its topic.
    https://www.w3.org/TR/trace-context/
    """
    found = dict(headers)
    parent, state = found.get(TRACEPARENT), found.get(TRACESTATE)
    if parent is None or not _TRACEPARENT.fullmatch(parent):
        return ()
    if not state or not state.isascii() or len(state) > _MAX_TRACESTATE_BYTES:
        return ((TRACEPARENT, parent),)
    return ((TRACEPARENT, parent), (TRACESTATE, state))
