"""Dead letters: reading them, and deciding which of them to list and to redrive. Pure."""

from __future__ import annotations

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.messages import REDRIVEN, Message, OutMessage, times_redriven
from nextclick.shared.schemas import LATEST_TIMESTAMP, MAX_CLICK_BYTES, REASONS

OTHER = "other"
"""The reason of a letter that gives none of them: it is not from a worker of this version."""
KNOWN = (*REASONS, OTHER)

Offsets = Mapping[int, int]
"""Partition → offset that comes next."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter, read: `message` is it as it lies on the dead-letter topic."""

    message: Message
    reason: str
    error: bytes
    origin: bytes
    """Where the worker found it: topic/partition/offset."""
    time_ms: int | None
    """When it became a letter, if it says so."""
    redriven: int
    cut: bool
    """The worker shortened the key or the value, so this is not the whole message."""

    @property
    def place(self) -> str:
        """What `dlq show` takes."""
        return f"{self.message.partition}/{self.message.offset}"


def read(message: Message) -> DeadLetter:
    """Read the headers that the worker wrote (services/worker/decide.py)."""
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


def known(reason: str | None) -> tuple[str, ...]:
    """The reasons to look at: this one, or all; raises ConfigurationError if there is no such."""
    if reason is not None and reason not in KNOWN:
        raise ConfigurationError(f"--reason {reason!r}: the reasons are {', '.join(KNOWN)}")
    return KNOWN if reason is None else (reason,)


def place(text: str) -> tuple[int, int]:
    """Read PARTITION/OFFSET; raises ConfigurationError if it is something else."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,18})", text)
    if match is None:
        raise ConfigurationError(
            f"{text!r} is no place: give PARTITION/OFFSET as `nextclick dlq list` shows it, "
            "such as 0/17"
        )
    return int(match[1]), int(match[2])


def newest(
    messages: Iterable[Message], reasons: Collection[str], limit: int
) -> tuple[list[DeadLetter], Counter[str]]:
    """The newest letters with one of these reasons, newest last, and how many of each there are."""
    counts: Counter[str] = Counter()

    def counted() -> Iterator[DeadLetter]:
        for letter in map(read, messages):
            counts[letter.reason] += 1
            if letter.reason in reasons:
                yield letter

    return heapq.nlargest(limit, counted(), key=_age)[::-1], counts


def _age(letter: DeadLetter) -> tuple[int, int, int]:
    return letter.time_ms or 0, letter.message.partition, letter.message.offset


def due(messages: Iterable[Message], done: Mapping[str, Offsets]) -> Iterator[DeadLetter]:
    """The letters with a reason of `done` that lie after what is done of that reason."""
    for letter in map(read, messages):
        partition, offset = letter.message.partition, letter.message.offset
        if letter.reason in done and offset >= done[letter.reason].get(partition, 0):
            yield letter


def still_valid(committed: Offsets, held: Mapping[int, range]) -> Offsets:
    """Leave out what lies beyond a partition's end: the topic was made anew since."""
    return {p: offset for p, offset in committed.items() if p in held and offset <= held[p].stop}


def unread(held: Mapping[int, range], done: Mapping[str, Offsets]) -> dict[int, range]:
    """The offsets where letters that are due may lie."""
    return {
        partition: range(
            max(offsets.start, min(theirs.get(partition, 0) for theirs in done.values())),
            offsets.stop,
        )
        for partition, offsets in held.items()
    }


def up_to(limit: int, letters: Iterable[DeadLetter]) -> Iterator[DeadLetter]:
    """Stop after `limit` letters that can be redriven; 0 = never."""
    count = 0
    for letter in letters:
        yield letter
        count += obstacle(letter) is None
        if count == limit > 0:
            return


def obstacle(letter: DeadLetter) -> str | None:
    """Why no worker could accept this letter, whatever has been mended; None if one might."""
    if letter.reason == "oversized":
        return f"oversized: a click has at most {MAX_CLICK_BYTES:,} bytes"
    if letter.cut:
        return "cut: the letter does not hold the whole message"
    if not letter.message.value:
        return "empty: there is nothing in it"
    return None


def redriven(topic: str, partitions: Collection[int], letter: DeadLetter) -> OutMessage:
    """The message as it first was, and in a header that this is not the first time.

    It goes to the partition that it came from, where the user's other clicks are: not all
    producers hash a key alike. Where that is not known (any more) the key decides.
    """
    home = (p for p in partitions if letter.origin.startswith(f"{topic}/{p}/".encode()))
    return OutMessage(
        topic,
        letter.message.key,
        letter.message.value,
        ((REDRIVEN, str(letter.redriven + 1).encode()),),
        next(home, None),
    )


def after(
    letters: Iterable[DeadLetter], committed: Mapping[str, Offsets]
) -> dict[str, dict[int, int]]:
    """What to commit for each reason once these letters are dealt with; never backwards."""
    offsets: dict[str, dict[int, int]] = defaultdict(dict)
    for letter in letters:
        partition, following = letter.message.partition, letter.message.offset + 1
        if following > committed[letter.reason].get(partition, 0):
            offsets[letter.reason][partition] = following
    return offsets
