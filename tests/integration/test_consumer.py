"""ClickConsumer on real Kafka: what the worker's exactness rests on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nextclick.shared.errors import CommitRefused, Fenced, Unavailable
from nextclick.shared.kafka import ClickConsumer, GroupOffsets, ensure_topics
from nextclick.shared.kafka.consumer import NAME_TAKEN_SECONDS
from nextclick.shared.messages import Message, offsets_after
from nextclick.shared.runtime.settings import KafkaSettings
from tests.integration.traffic import Shop, make_clicks
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
    consumer._consumer.unsubscribe()
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
    time = 0.0
    consumer = ClickConsumer(kafka, kafka.clicks_topic, name, instance_id="w", clock=lambda: time)
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
    time = NAME_TAKEN_SECONDS + 1
    with pytest.raises(Fenced, match="in our name"):
        consumer.poll(1, 0.1)
    other.close()
    consumer.close()
