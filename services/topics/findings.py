"""Checks of a sample of messages of the clicks topic for mistakes of producers. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from nextclick.services.topics.partitioner import java_partition, librdkafka_partition
from nextclick.shared.click_rules import REMEDIES, TimeBounds, time_anomaly_of
from nextclick.shared.errors import BadClick
from nextclick.shared.messages import Message, Place
from nextclick.shared.schemas import ReadFramed, decode_click

UNLIKELY = 0.001
"""Empty partitions are reported if fewer than this many are expected by chance."""


@dataclass(frozen=True)
class Finding:
    """One problem: its fixed name, the number of cases, the first position, and a description."""

    name: str
    count: int
    first: Place | None
    text: str


@dataclass(frozen=True)
class Report:
    """The size of the sample, and the problems in it."""

    partitions: int
    messages: int
    users: int
    findings: list[Finding]


@dataclass(frozen=True, slots=True)
class _Inspected:
    """The properties of a message that the checks need."""

    place: Place
    key: bytes | None
    framed: bool
    user_id: str | None
    no_click: str | None
    """Why the value is not a valid click; None if it is one."""
    time: str
    """What is wrong with the timestamp, see `time_anomaly`; "" if nothing."""


def check(
    messages: Iterable[Message],
    partitions: Sequence[int],
    bounds: TimeBounds,
    read_framed: ReadFramed | None = None,
) -> Report:
    """Check a sample of messages. partitions: all partitions of the topic.

    read_framed: reads values with a schema in a schema registry.
    """
    inspected = [_inspect(message, bounds, read_framed) for message in messages]
    users = {one.user_id for one in inspected if one.user_id is not None}
    findings = [
        *_framing(inspected),
        *_no_clicks(inspected),
        *_keys(inspected),
        *_scattered_users(inspected),
        *_partitioner(inspected, len(partitions)),
        *_empty_partitions(inspected, partitions, len(users)),
        *_times(inspected),
    ]
    return Report(len(partitions), len(inspected), len(users), findings)


def _inspect(message: Message, bounds: TimeBounds, read_framed: ReadFramed | None) -> _Inspected:
    user_id, no_click, framed, anomaly = None, None, False, ""
    try:
        click = decode_click(message.value, message.headers, read_framed)
        user_id = click.user_id
        anomaly = time_anomaly_of(click, message, bounds)
    except BadClick as error:
        no_click, framed = str(error), error.reason == "framed"
    place = Place(message.partition, message.offset)
    return _Inspected(place, message.key, framed, user_id, no_click, anomaly)


def _finding(name: str, wrong: Sequence[_Inspected], text: str) -> Iterator[Finding]:
    if wrong:
        yield Finding(name, len(wrong), wrong[0].place, text)


def _framing(inspected: Sequence[_Inspected]) -> Iterator[Finding]:
    framed = [one for one in inspected if one.framed]
    for reason, _ in Counter(one.no_click for one in framed).most_common(1):
        text = f"messages of a schema registry's serializer cannot be read, most often: {reason}"
        yield from _finding("framed", framed, text)


def _no_clicks(inspected: Sequence[_Inspected]) -> Iterator[Finding]:
    wrong = [one for one in inspected if one.no_click and not one.framed]
    reasons = Counter(one.no_click for one in wrong)
    for reason, _ in reasons.most_common(1):
        yield from _finding(
            "no_click",
            wrong,
            f"messages are not clicks, most often because of: {reason}; workers send them to "
            "the dead-letter topic, see `nextclick dlq list`",
        )


def _keys(inspected: Sequence[_Inspected]) -> Iterator[Finding]:
    clicks = [one for one in inspected if one.user_id is not None]
    yield from _finding(
        "no_key",
        [one for one in clicks if one.key is None],
        "clicks have no key, so a user's clicks lie anywhere and lose their order: "
        "send the user id as the key",
    )
    yield from _finding(
        "key_is_not_user_id",
        [one for one in clicks if one.key is not None and one.key != (one.user_id or "").encode()],
        "clicks have a key that is not their user_id, as UTF-8 and nothing else: "
        "send the user id as the key",
    )


def _scattered_users(inspected: Sequence[_Inspected]) -> Iterator[Finding]:
    first_of: dict[str, dict[int, _Inspected]] = defaultdict(dict)
    for one in inspected:
        if one.user_id is not None:
            first_of[one.user_id].setdefault(one.place.partition, one)
    scattered = [list(places.values()) for places in first_of.values() if len(places) > 1]
    if scattered:
        here, there, *_ = (one.place for one in scattered[0])
        yield Finding(
            "user_on_several_partitions",
            len(scattered),
            here,
            f"users have clicks on more than one partition, one of them also at {_at(there)}: two "
            "workers answer them, in no order; key every click by its user, let all producers "
            "use the same partitioner, and give a topic no partitions later",
        )


def _partitioner(inspected: Sequence[_Inspected], partitions: int) -> Iterator[Finding]:
    # Each key counts once, so that a few busy users do not dominate the count.
    placed: dict[tuple[bytes, int], Place] = {}
    for one in inspected:
        if one.key is not None:
            placed.setdefault((one.key, one.place.partition), one.place)
    elsewhere = [(k, p) for k, p in placed if p != java_partition(k, partitions)]
    if not elsewhere:
        return
    if all(p == librdkafka_partition(k, partitions) for k, p in elsewhere):
        cause = "they are where librdkafka's default, consistent_random, puts them"
    else:
        cause = "of an unknown partitioner, or the topic had fewer partitions then"
    yield Finding(
        "not_murmur2",
        len(elsewhere),
        placed[elsewhere[0]],
        f"of {len(placed):,} keys are not where Kafka's Java client and nextclick put them "
        f"(murmur2): {cause}; set partitioner=murmur2_random in producers made with librdkafka. "
        "Users move once when the partitioner changes: see docs/operations.md",
    )


def _empty_partitions(
    inspected: Sequence[_Inspected], partitions: Sequence[int], users: int
) -> Iterator[Finding]:
    count = len(partitions)
    empty = sorted(set(partitions) - {one.place.partition for one in inspected})
    # With few users, partitions are empty by chance: the left side is their expected number.
    if empty and count * (1 - 1 / count) ** users < UNLIKELY:
        yield Finding(
            "empty_partitions",
            len(empty),
            None,
            f"partitions hold nothing, though {users:,} users could fill them: "
            f"{', '.join(map(str, empty))}; their workers are idle: check the keys",
        )


def _times(inspected: Sequence[_Inspected]) -> Iterator[Finding]:
    for name in dict.fromkeys(one.time for one in inspected if one.time):
        yield from _finding(name, [one for one in inspected if one.time == name], REMEDIES[name])


def _at(place: Place) -> str:
    return f"{place.partition}/{place.offset}"


def line(finding: Finding) -> str:
    """A finding as one line of text."""
    where = "" if finding.first is None else f" First: {_at(finding.first)}."
    return f"{finding.name}: {finding.count:,} {finding.text}.{where}"
