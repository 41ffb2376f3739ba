"""What is wrong with a topic, from its messages alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.services.topics.findings import Finding, Report, check, line
from nextclick.services.topics.partitioner import java_partition, librdkafka_partition, murmur2
from nextclick.shared.click_rules import TimeBounds
from nextclick.shared.messages import REPLAYED, Message, Place

NOW = 1_700_000_000_000
DAY_MS = 86_400_000
PARTITIONS = range(4)
Partitioner = Callable[[bytes, int], int]


def sent(
    user: str = "ann",
    *,
    key: bytes | None = b"",
    partition: int | None = None,
    timestamp: object = NOW,
    frame: bytes = b"",
    partitioner: Partitioner = java_partition,
) -> Message:
    """A click as a good producer sends it, but for what is said; offset 7."""
    key = user.encode() if key == b"" else key
    if partition is None:
        partition = partitioner(key or b"", len(PARTITIONS))
    value = {"event_id": "e", "user_id": user, "item_id": "i", "timestamp": timestamp}
    return Message("clicks", partition, 7, key, frame + json.dumps(value).encode(), (), NOW)


def checked(messages: Sequence[Message]) -> Report:
    return check(messages, PARTITIONS, TimeBounds())


def found(*messages: Message) -> dict[str, Finding]:
    return {finding.name: finding for finding in checked(messages).findings}


CROWD = [sent(f"user-{i}") for i in range(100)]


@pytest.mark.parametrize(
    ("text", "hashed"),
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(text: str, hashed: int) -> None:
    """The vectors of Apache Kafka's own UtilsTest."""
    assert murmur2(text.encode()) == hashed


@given(st.binary(max_size=40), st.integers(1, 1000))
def test_a_hash_has_32_bits_and_a_partition_is_one(key: bytes, partitions: int) -> None:
    assert -(2**31) <= murmur2(key) < 2**31
    assert java_partition(key, partitions) in range(partitions)
    assert librdkafka_partition(key, partitions) in range(partitions)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)))
def test_what_a_good_producer_sends_is_fine(users: list[str]) -> None:
    report = checked([sent(user) for user in [*users, *users]])
    assert report.findings == []
    assert (report.messages, report.users) == (2 * len(users), len(set(users)))


@given(
    st.lists(
        st.builds(
            Message,
            st.just("clicks"),
            st.sampled_from(PARTITIONS),
            st.integers(0, 9),
            st.none() | st.binary(max_size=9),
            st.none() | st.binary(max_size=30),
            st.just(()),
            st.none() | st.integers(0, 10**13),
        )
    )
)
def test_any_messages_are_judged(messages: list[Message]) -> None:
    report = checked(messages)
    for finding in report.findings:
        assert 0 < finding.count <= max(len(messages), len(PARTITIONS))
        assert "\n" not in line(finding)


def test_a_topic_without_messages_or_with_few_users_has_nothing_wrong() -> None:
    assert checked([]).findings == []
    assert found(sent("ann"), sent("ann")) == {}


def test_clicks_without_a_key_are_counted_and_the_first_is_named() -> None:
    findings = found(sent("ann"), sent("bob", key=None, partition=1), sent("cy", key=None))
    assert findings.keys() == {"no_key"}
    assert (findings["no_key"].count, findings["no_key"].first) == (2, Place(1, 7))
    assert line(findings["no_key"]).startswith("no_key: 2 clicks have no key")
    assert line(findings["no_key"]).endswith("First: 1/7.")


def test_keys_that_are_something_else() -> None:
    session = sent("ann", key=b"session-9")
    framed = sent("bob", key=b"\x00\x00\x00\x00\x07bob")
    assert found(session, framed)["key_is_not_user_id"].count == 2
    number = Message(
        "clicks",
        java_partition(b"42", 4),
        7,
        b"42",
        b'{"event_id":"e","user_id":42,"item_id":"i","timestamp":%d}' % NOW,
        (),
        NOW,
    )
    assert found(number) == {}  # an integer is taken as text, also in the key


def test_a_user_on_several_partitions() -> None:
    home = java_partition(b"ann", 4)
    findings = found(sent("ann"), sent("ann", partition=(home + 1) % 4), *CROWD)
    several = findings["user_on_several_partitions"]
    assert (several.count, several.first) == (1, Place(home, 7))
    assert f"also at {(home + 1) % 4}/7" in several.text


def test_librdkafkas_default_is_recognised() -> None:
    crowd = [sent(f"user-{i}", partitioner=librdkafka_partition) for i in range(100)]
    findings = found(*crowd, *crowd)
    assert findings.keys() == {"not_murmur2"}
    elsewhere = sum(m.partition != java_partition(m.key or b"", 4) for m in crowd)
    assert findings["not_murmur2"].count == elsewhere > 50
    assert "of 100 keys" in findings["not_murmur2"].text
    assert "consistent_random" in findings["not_murmur2"].text


def test_another_partitioner_is_said_to_be_unknown() -> None:
    findings = found(*(sent(f"user-{i}", partition=i % 4) for i in range(100)))
    assert findings.keys() == {"not_murmur2"}
    assert "unknown partitioner, or the topic had fewer partitions" in findings["not_murmur2"].text


def test_partitions_that_got_nothing() -> None:
    half = [message for message in CROWD if message.partition % 2]
    findings = found(*half)
    assert findings.keys() == {"empty_partitions"}
    assert findings["empty_partitions"].count == 2
    assert ": 0, 2;" in findings["empty_partitions"].text


@pytest.mark.parametrize(
    ("timestamp", "name"),
    [
        (NOW // 1000, "time_in_seconds"),
        (NOW * 1000, "time_in_microseconds"),
        (NOW * 1_000_000, "time_in_nanoseconds"),
        ((NOW - 90 * DAY_MS) // 1000, "time_in_seconds"),
        (NOW - 2 * DAY_MS, "time_behind"),
        (NOW + 2 * DAY_MS, "time_ahead"),
        (0, "time_behind"),
        (NOW - DAY_MS, None),
        (NOW + 300_000, None),
        (NOW + 300_001, "time_ahead"),
    ],
    ids=[
        "seconds",
        "microseconds",
        "nanoseconds",
        "seconds of another month",
        "behind",
        "ahead",
        "zero",
        "a day behind",
        "five minutes ahead",
        "a little more",
    ],
)
def test_a_time_is_compared_with_kafkas(timestamp: int, name: str | None) -> None:
    assert list(found(sent(timestamp=timestamp))) == ([name] if name else [])


def test_a_replayed_click_may_be_old_but_not_from_the_future() -> None:
    old, ahead = sent(timestamp=NOW - 900 * DAY_MS), sent(timestamp=NOW + DAY_MS)
    replayed = [replace(message, headers=((REPLAYED, b"1"),)) for message in (old, ahead)]
    assert {name: one.count for name, one in found(*replayed).items()} == {"time_ahead": 1}


def test_without_kafkas_time_there_is_nothing_to_compare() -> None:
    message = sent(timestamp=0)
    assert found(Message("clicks", message.partition, 7, message.key, message.value)) == {}


def test_avro_is_named_and_json_behind_a_schema_registrys_frame_is_read() -> None:
    framed = sent("ann", frame=b"\x00\x00\x00\x00\x07", key=b"other")
    assert found(framed).keys() == {"key_is_not_user_id"}
    avro = Message(
        "clicks", java_partition(b"k", 4), 7, b"k", b"\x00\x00\x00\x00\x07\x02\x06ann", (), NOW
    )
    assert found(avro).keys() == {"framed"}


def test_what_is_no_click_says_the_commonest_reason() -> None:
    here = java_partition(b"k", 4)
    messages = [
        Message("clicks", here, 7, b"k", value, (), NOW) for value in (b"?", b"[1]", b"[2]", None)
    ]
    findings = found(*messages)
    assert findings.keys() == {"no_click"}
    assert findings["no_click"].count == 4
    assert "Input should be an object" in findings["no_click"].text
