"""ClickConsumer on real Kafka: what the worker's exactness rests on."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import libversion

from nextclick.shared.errors import CommitRefused, Fenced, Unavailable
from nextclick.shared.kafka import (
    ClickConsumer,
    GroupOffsets,
    LagMonitor,
    Publisher,
    TopicReader,
    ensure_topics,
)
from nextclick.shared.kafka.consumer import READS_NEW_TOPICS
from nextclick.shared.kafka.membership import NAME_TAKEN_SESSIONS, SESSION_TIMEOUT_MS
from nextclick.shared.messages import Message, OutMessage, offsets_after
from nextclick.shared.runtime import metrics
from nextclick.shared.runtime.settings import KafkaSettings
from tests.integration.traffic import (
    Shop,
    add_partitions,
    delete_records,
    make_clicks,
    make_topic_anew,
)
from tests.waiting import until


@pytest.fixture
def consumer(kafka: KafkaSettings, name: str) -> Iterator[ClickConsumer]:
    ensure_topics(kafka, [kafka.clicks_topic])
    Shop(kafka).send(make_clicks(100))
    consumer = ClickConsumer(kafka, kafka.clicks_topic, name)
    yield consumer
    consumer.close()


def read(consumer: ClickConsumer, count: int) -> list[Message]:
    messages: list[Message] = []

    def enough() -> bool:
        messages.extend(consumer.poll(100, 0.5))
        return len(messages) >= count

    until(enough, f"{count} messages")
    return sorted(messages, key=lambda m: (m.partition, m.offset))


def test_after_going_back_everything_uncommitted_comes_again(consumer: ClickConsumer) -> None:
    everything = read(consumer, 100)
    assert {m.partition for m in everything} == {0, 1, 2, 3}
    offsets = {0: 5, 1: 2}  # nothing is committed of the others: they begin anew
    consumer.commit_now(offsets)
    assert consumer.committed == offsets
    consumer.seek_to_committed()
    expected = [m for m in everything if m.offset >= offsets.get(m.partition, 0)]
    assert read(consumer, len(expected)) == expected


def test_an_asynchronous_commit_is_confirmed_by_a_later_poll(consumer: ClickConsumer) -> None:
    offsets = offsets_after(read(consumer, 100))
    consumer.commit(offsets)
    assert consumer.committing
    until(lambda: not consumer.poll(1, 0.05) and not consumer.committing, "the outcome")
    assert consumer.committed == offsets


def test_a_commit_by_one_who_left_the_group_is_refused(consumer: ClickConsumer) -> None:
    messages = read(consumer, 100)
    consumer._membership.client.unsubscribe()
    until(
        lambda: not consumer.poll(1, 0.05) and not consumer.assignment,
        "the partitions are given up",
    )
    with pytest.raises(CommitRefused):
        consumer.commit_now(offsets_after(messages))


def test_within_a_revoke_offsets_can_be_committed_whatever_librdkafka_logs(
    kafka: KafkaSettings, name: str
) -> None:
    """A client call within a callback must not end the process, nor wait for another thread."""
    ensure_topics(kafka, [kafka.clicks_topic])
    Shop(kafka).send(make_clicks(100))
    talkative = kafka.model_copy(update={"client_config": {"debug": "cgrp,consumer,broker"}})
    first = ClickConsumer(talkative, kafka.clicks_topic, name)
    offsets = offsets_after(read(first, 100))
    first.on_revoke = lambda: first.commit_now(offsets)
    second = ClickConsumer(talkative, kafka.clicks_topic, name)
    try:
        until(
            lambda: (
                (first.poll(100, 0.05), second.poll(100, 0.05))
                and len(first.assignment) == len(second.assignment) == 2
            ),
            "each has half of the partitions",
        )
        group = GroupOffsets(kafka, kafka.clicks_topic, name)
        assert group.committed() == offsets
        group.close()
    finally:
        first.on_revoke = lambda: None
        first.close()
        second.close()


def test_a_member_that_gets_no_partition_knows_that_it_gets_none(
    kafka: KafkaSettings, name: str
) -> None:
    one = kafka.model_copy(update={"partitions": 1})
    ensure_topics(one, [one.clicks_topic])
    first = ClickConsumer(one, one.clicks_topic, f"spare-{name}")
    until(lambda: first.poll(1, 0.1) or first.assignment, "the first owns the partition")
    second = ClickConsumer(one, one.clicks_topic, f"spare-{name}")
    assert not second.joined
    try:
        until(
            lambda: (first.poll(1, 0.05), second.poll(1, 0.05)) and first.joined and second.joined,
            "both know their partitions",
        )
        assert len(first.assignment) + len(second.assignment) == 1
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_where_to_begin_can_be_said_whatever_the_strategy(
    strategy: str, kafka: KafkaSettings, name: str
) -> None:
    """An eager strategy, which client_config may ask for, wants its partitions all at once."""
    ensure_topics(kafka, [kafka.clicks_topic])
    Shop(kafka).send(make_clicks(100))
    eager = {"partition.assignment.strategy": strategy}
    consumer = ClickConsumer(
        kafka.model_copy(update={"client_config": {**kafka.client_config, **eager}}),
        kafka.clicks_topic,
        name,
        seek=lambda partitions: dict.fromkeys(partitions, 10),
    )
    try:
        messages = read(consumer, 100 - 10 * kafka.partitions)
    finally:
        consumer.close()
    assert min(message.offset for message in messages) == 10


def test_who_was_shut_out_joins_anew_when_nobody_else_has_the_name(
    kafka: KafkaSettings, name: str
) -> None:
    """After an outage the group may hold a member that was us, and shut out the one that is."""
    ensure_topics(kafka, [kafka.clicks_topic])
    Shop(kafka).send(make_clicks(100))
    soon_dead = kafka.model_copy(update={"client_config": {"session.timeout.ms": 6000}})
    consumer = ClickConsumer(soon_dead, kafka.clicks_topic, name, instance_id="w")
    removed: list[set[int]] = []
    consumer.on_removed = removed.append
    first = read(consumer, 100)
    offsets = {0: 5, 1: 2}
    consumer.commit_now(offsets)
    other = ClickConsumer(soon_dead, kafka.clicks_topic, name, instance_id="w")
    read(other, 1)  # it has taken the name over
    other.close()  # a static member stays in the group until its session is over

    expected = [m for m in first if m.offset >= offsets.get(m.partition, 0)]
    again: list[Message] = []
    waited_for: set[str] = set()

    def everything() -> bool:
        try:
            again.extend(consumer.poll(100, 0.5))
        except Unavailable as error:
            waited_for.add(str(error))
        return len(again) >= len(expected)

    until(everything, "what is not committed")
    assert len(waited_for) == 1, "the name is not taken back while its owner may be alive"
    assert "there is a member w" in waited_for.pop()
    assert set.union(*removed) == {0, 1, 2, 3}
    assert sorted(again, key=lambda m: (m.partition, m.offset)) == expected
    consumer.close()


def test_who_was_shut_out_by_a_process_of_the_same_name_ends(
    kafka: KafkaSettings, name: str
) -> None:
    ensure_topics(kafka, [kafka.clicks_topic])
    now = 0.0
    consumer = ClickConsumer(kafka, kafka.clicks_topic, name, instance_id="w", clock=lambda: now)
    until(lambda: not consumer.poll(1, 0.1) and consumer.joined, "the first is a member")
    other = ClickConsumer(kafka, kafka.clicks_topic, name, instance_id="w")
    until(lambda: not other.poll(1, 0.1) and other.joined, "the second is")

    def shut_out() -> bool:
        try:
            consumer.poll(1, 0.1)
        except Unavailable:
            return True
        return False

    until(shut_out, "the first hears of it")
    now = NAME_TAKEN_SESSIONS * SESSION_TIMEOUT_MS / 1000 + 1
    with pytest.raises(Fenced, match="in our name"):
        consumer.poll(1, 0.1)
    other.close()
    consumer.close()


@pytest.mark.long
def test_partitions_that_a_replaced_member_gave_up_find_an_owner(
    kafka: KafkaSettings,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Kafka gives who takes a static member's name what that one kept, and begins no round."""
    monkeypatch.setattr("nextclick.shared.kafka.unassigned.LOOK_SECONDS", 0.2)
    ensure_topics(kafka, [kafka.clicks_topic])

    def member(instance_id: str) -> ClickConsumer:
        return ClickConsumer(kafka, kafka.clicks_topic, name, instance_id=instance_id)

    first, heir, other = member("a"), member("a"), member("b")

    def replace() -> None:
        first.on_revoke = lambda: None
        until(lambda: not heir.poll(1, 0.1) and heir.joined, "another one has its name")

    Shop(kafka).send(make_clicks(100))
    first.commit_now(offsets_after(read(first, 100)))
    first.on_revoke = replace
    try:
        until(
            lambda: (first.poll(1, 0.1), other.poll(1, 0.1)) and first._membership.is_shut_out,
            "it gives up two, and hears that its name is another one's",
        )
        assert len(heir.assignment) == 2
        assert not other.assignment
        until(
            lambda: (
                (heir.poll(1, 0.1), other.poll(1, 0.1))
                and len(heir.assignment) == len(other.assignment) == 2
            ),
            "each has half of the partitions",
        )
    finally:
        for consumer in (first, heir, other):
            consumer.close()
    assert "are nobody's: the group rebalances" in caplog.text


def removed_unread() -> float:
    return float(metrics.REMOVED_UNREAD._value.get())


def test_what_was_removed_before_it_was_read_is_counted(
    kafka: KafkaSettings, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(kafka)
    ensure_topics(kafka, [kafka.clicks_topic])
    shop.send(make_clicks(200))
    before = removed_unread()
    delete_records(kafka, {0: 3})
    consumer = ClickConsumer(kafka, kafka.clicks_topic, name)
    everything = read(consumer, 197)
    assert removed_unread() == before, "a group that has never read loses nothing"
    consumer.commit_now({0: 5, 1: 2})
    consumer.close()

    delete_records(kafka, {0: 9, 1: 2, 2: 4})
    kept = [m for m in everything if m.offset >= {0: 9, 1: 2, 2: 4}.get(m.partition, 0)]
    again = ClickConsumer(kafka, kafka.clicks_topic, name)
    try:
        assert read(again, len(kept)) == kept
    finally:
        again.close()
    assert removed_unread() - before == 9 - 5, "of partition 2 nothing was ever committed"
    assert "4 messages of partition 0 were removed before they were read" in caplog.text
    assert "offsets 5 to 8" in caplog.text


def test_where_to_begin_may_lie_before_what_is_left(kafka: KafkaSettings, name: str) -> None:
    ensure_topics(kafka, [kafka.clicks_topic])
    Shop(kafka).send(make_clicks(200))
    delete_records(kafka, {0: 12, 1: 3})
    before = removed_unread()
    consumer = ClickConsumer(
        kafka, kafka.clicks_topic, name, seek=lambda partitions: dict.fromkeys(partitions, 10)
    )
    try:
        messages = read(consumer, 200 - 4 * 10 - 2)
    finally:
        consumer.close()
    assert min(m.offset for m in messages if m.partition == 0) == 12
    assert removed_unread() - before == 2


def test_a_topic_that_is_made_anew_is_read_from_its_beginning(
    kafka: KafkaSettings, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    ensure_topics(kafka, [kafka.clicks_topic])
    Shop(kafka).send(make_clicks(100))
    consumer = ClickConsumer(kafka, kafka.clicks_topic, name)
    removed: list[set[int]] = []
    consumer.on_removed = removed.append
    try:
        offsets = offsets_after(read(consumer, 100))
        consumer.commit_now(offsets)
        make_topic_anew(kafka, kafka.clicks_topic)
        if libversion()[1] < READS_NEW_TOPICS:
            with pytest.raises(Fenced, match="a restart does"):
                until(lambda: consumer.poll(100, 0.1) and False, "it is noticed", 20)
            return
        until(
            lambda: not consumer.poll(100, 0.1) and "was made anew" in caplog.text, "it is noticed"
        )
        assert {0, 1, 2, 3} in removed
        Shop(kafka).send(make_clicks(400, seed=1))  # it is longer than what was read of the former
        messages = read(consumer, 400)
    finally:
        consumer.close()
    assert {m.partition: 0 for m in messages} == {
        m.partition: m.offset for m in reversed(messages)
    }, "from the first of each partition"
    assert len(messages) == 400


def test_partitions_that_are_added_are_read_within_ten_seconds(
    consumer: ClickConsumer, kafka: KafkaSettings
) -> None:
    read(consumer, 100)
    add_partitions(kafka, 6)
    watch = time.monotonic()
    until(lambda: not consumer.poll(1, 0.1) and len(consumer.assignment) == 6, "they are assigned")
    assert time.monotonic() - watch < 10


def test_a_reader_outside_any_group_sees_partitions_that_are_added(
    kafka: KafkaSettings, consumer: ClickConsumer
) -> None:
    reader = TopicReader(kafka, [kafka.clicks_topic], at_end=True)
    monitor = LagMonitor(kafka, kafka.clicks_topic, "nobody")
    try:
        add_partitions(kafka, 6)
        until(lambda: 5 in monitor.lags(), "lag of the new partition")
        publisher = Publisher(kafka)
        publisher.send([OutMessage(kafka.clicks_topic, b"u", b"new", partition=5)])
        publisher.wait_acknowledged()
        until(lambda: [m.value for m in reader.poll(10, 0.1)] == [b"new"], "what is on it", 10)
        assert monitor.lags()[5] == 1
    finally:
        reader.close()
        monitor.close()


def test_what_was_removed_is_no_lag(kafka: KafkaSettings) -> None:
    ensure_topics(kafka, [kafka.clicks_topic])
    Shop(kafka).send(make_clicks(100))
    monitor = LagMonitor(kafka, kafka.clicks_topic, "nobody")
    try:
        assert monitor.lag() == 100
        delete_records(kafka, {0: 9})
        assert monitor.lag() == 91
    finally:
        monitor.close()
