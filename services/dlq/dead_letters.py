"""Decodes dead letters, and selects those to list and to redrive. Pure."""

from __future__ import annotations

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from pydantic_core import from_json

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.messages import (
    REDRIVEN,
    Message,
    OutMessage,
    schema_headers,
    times_redriven,
)
from nextclick.shared.schemas import FRAME_BYTES, LATEST_TIMESTAMP, MAX_CLICK_BYTES, REASONS

OTHER = "other"
"""The reason of a dead letter without a known one: it is not from a worker of this version."""
ALL_REASONS = (*REASONS, OTHER)

Offsets = Mapping[int, int]
"""Partition → next offset."""


IsForgotten = Callable[[str, int], bool]
"""User id, and when a message of theirs arrived (epoch ms) → whether they were forgotten since."""


def of_nobody(user_id: str, arrived: int) -> bool:
    """Nobody was forgotten."""
    return False


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A decoded dead letter."""

    message: Message
    """As on the dead-letter topic."""
    reason: str
    error: bytes
    origin: bytes
    """Original position: topic/partition/offset."""
    time_ms: int | None
    """When it was dead-lettered, epoch ms; None if the header is missing or malformed."""
    redriven: int
    """How many times it was redriven."""
    cut: bool
    """Whether the worker has cut key or value, so that the message is incomplete."""

    @property
    def position(self) -> str:
        """PARTITION/OFFSET on the dead-letter topic, as `dlq show` takes it."""
        return f"{self.message.partition}/{self.message.offset}"


def read(message: Message) -> DeadLetter:
    """Decode the headers that the worker wrote (services/worker/decide.py)."""
    headers = {name: value or b"" for name, value in message.headers}
    reason = headers.get("error_class", b"").decode("utf-8", "replace")
    time = headers.get("time", b"")
    return DeadLetter(
        message=message,
        reason=reason if reason in REASONS else OTHER,
        error=headers.get("error", b""),
        origin=b"/".join(headers.get(name, b"?") for name in ("topic", "partition", "offset")),
        time_ms=min(int(time), LATEST_TIMESTAMP) if re.fullmatch(rb"[0-9]{1,15}", time) else None,
        redriven=times_redriven(message),
        cut="original_bytes" in headers or "original_key_bytes" in headers,
    )


def select_reasons(reason: str | None) -> tuple[str, ...]:
    """This reason, or all for None; raises ConfigurationError if there is no such reason."""
    if reason is not None and reason not in ALL_REASONS:
        raise ConfigurationError(f"--reason {reason!r}: the reasons are {', '.join(ALL_REASONS)}")
    return ALL_REASONS if reason is None else (reason,)


def parse_position(text: str) -> tuple[int, int]:
    """Parse PARTITION/OFFSET; raises ConfigurationError if it is malformed."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,18})", text)
    if match is None:
        raise ConfigurationError(
            f"{text!r} is not a position: give PARTITION/OFFSET as `nextclick dlq list` shows it, "
            "such as 0/17"
        )
    return int(match[1]), int(match[2])


def newest(
    messages: Iterable[Message], reasons: Collection[str], limit: int
) -> tuple[list[DeadLetter], Counter[str]]:
    """The newest dead letters with one of these reasons, newest last, and all counts by reason."""
    counts: Counter[str] = Counter()

    def counted() -> Iterator[DeadLetter]:
        for dead_letter in map(read, messages):
            counts[dead_letter.reason] += 1
            if dead_letter.reason in reasons:
                yield dead_letter

    return heapq.nlargest(limit, counted(), key=_age)[::-1], counts


def _age(dead_letter: DeadLetter) -> tuple[int, int, int]:
    return dead_letter.time_ms or 0, dead_letter.message.partition, dead_letter.message.offset


def pending(messages: Iterable[Message], done: Mapping[str, Offsets]) -> Iterator[DeadLetter]:
    """The dead letters with a reason of `done` that are after the offsets done for it."""
    for dead_letter in map(read, messages):
        partition, offset = dead_letter.message.partition, dead_letter.message.offset
        if dead_letter.reason in done and offset >= done[dead_letter.reason].get(partition, 0):
            yield dead_letter


def valid_offsets(committed: Offsets, retained: Mapping[int, range]) -> Offsets:
    """Drop offsets beyond the end of their partition: the topic has been recreated since."""
    return {
        p: offset for p, offset in committed.items() if p in retained and offset <= retained[p].stop
    }


def unread_offsets(retained: Mapping[int, range], done: Mapping[str, Offsets]) -> dict[int, range]:
    """The offset ranges to read for dead letters that are not done."""
    return {
        partition: range(
            max(
                offsets.start, min(offsets_done.get(partition, 0) for offsets_done in done.values())
            ),
            offsets.stop,
        )
        for partition, offsets in retained.items()
    }


def limited(
    limit: int, dead_letters: Iterable[DeadLetter], is_forgotten: IsForgotten = of_nobody
) -> Iterator[DeadLetter]:
    """Stop after `limit` dead letters that can be redriven; 0 = no limit."""
    count = 0
    for dead_letter in dead_letters:
        yield dead_letter
        count += skip_reason(dead_letter, is_forgotten) is None
        if count == limit > 0:
            return


def user_ids(message: Message) -> set[str]:
    """The users that a message may be of: its key, and the `user_id` in its JSON."""
    users = set()
    if message.key:
        users.add(message.key.decode("utf-8", "replace"))
    value = message.value or b""
    try:
        found = from_json(value[FRAME_BYTES:] if value[:1] == b"\0" else value)
    except ValueError:
        return users
    if isinstance(found, dict) and type(found.get("user_id")) in (str, int):
        users.add(str(found["user_id"]))
    return users


def arrived(dead_letter: DeadLetter) -> int:
    """When the message was on Kafka at the latest, epoch ms; 0 if that is unknown."""
    times = [dead_letter.time_ms, dead_letter.message.timestamp_ms]
    return min((time for time in times if time is not None), default=0)


def skip_reason(dead_letter: DeadLetter, is_forgotten: IsForgotten = of_nobody) -> str | None:
    """Why no worker can ever accept this dead letter, or must not; None if a worker may."""
    if any(is_forgotten(user, arrived(dead_letter)) for user in user_ids(dead_letter.message)):
        return "forgotten: of a user who was forgotten since"
    if dead_letter.reason == "oversized":
        return f"oversized: a click has at most {MAX_CLICK_BYTES:,} bytes"
    if dead_letter.cut:
        return "cut: the dead letter does not hold the whole message"
    if not dead_letter.message.value:
        return "empty: the message has no value"
    return None


def redriven_message(
    topic: str, partitions: Collection[int], dead_letter: DeadLetter
) -> OutMessage:
    """The original message, with a header that counts its redrives.

    It goes to its original partition, where the user's other clicks are, because producers differ
    in how they hash keys. If that partition is unknown or gone, the key decides.
    """
    original = (p for p in partitions if dead_letter.origin.startswith(f"{topic}/{p}/".encode()))
    return OutMessage(
        topic,
        dead_letter.message.key,
        dead_letter.message.value,
        (
            (REDRIVEN, str(dead_letter.redriven + 1).encode()),
            *schema_headers(dead_letter.message),
        ),
        next(original, None),
    )


def offsets_to_commit(
    dead_letters: Iterable[DeadLetter], committed: Mapping[str, Offsets]
) -> dict[str, dict[int, int]]:
    """Reason → offsets to commit once these dead letters are processed; they never decrease."""
    offsets: dict[str, dict[int, int]] = defaultdict(dict)
    for dead_letter in dead_letters:
        partition, next_offset = dead_letter.message.partition, dead_letter.message.offset + 1
        if next_offset > committed[dead_letter.reason].get(partition, 0):
            offsets[dead_letter.reason][partition] = next_offset
    return offsets
