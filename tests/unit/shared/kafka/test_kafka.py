from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_NOT_AVAILABLE, TopicPartition

from nextclick.shared.kafka import ClickConsumer
from nextclick.shared.kafka.client import RepeatFilter, read_message
from nextclick.shared.runtime.settings import KafkaSettings


class FakeMessage(SimpleNamespace):
    """As much of a librdkafka message as a consumer looks at."""

    def error(self) -> None:
        return None

    def topic(self) -> str:
        return "clicks"

    def partition(self) -> int:
        return int(self.p)

    def offset(self) -> int:
        return int(self.o)

    def key(self) -> None:
        return None

    value = headers = key

    def timestamp(self) -> tuple[int, int]:
        return TIMESTAMP_CREATE_TIME, 1_700_000_000_000


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(TIMESTAMP_CREATE_TIME, 17), (TIMESTAMP_NOT_AVAILABLE, None)],
    ids=["given", "not available"],
)
def test_kafkas_time_is_taken_over(kind: int, expected: int | None) -> None:
    message = FakeMessage(p=0, o=0)
    message.timestamp = lambda: (kind, 17)
    assert read_message(message).timestamp_ms == expected  # type: ignore[arg-type]


def offsets_kept(given_up: list[int], got_back: list[int]) -> list[tuple[int, int]]:
    """Which of the messages 0/5 and 1/6 a poll keeps, with a rebalance in its middle."""
    consumer = ClickConsumer(KafkaSettings(bootstrap_servers="127.0.0.1:1"), "clicks", "g")

    def poll_with_rebalance(timeout: float) -> FakeMessage:
        consumer._on_revoke(None, [TopicPartition("clicks", p) for p in given_up])  # type: ignore[arg-type]
        consumer._on_assign(None, [TopicPartition("clicks", p) for p in got_back])  # type: ignore[arg-type]
        return FakeMessage(p=0, o=5)

    consumer._consumer.close()
    consumer._consumer = SimpleNamespace(
        subscribe=lambda topics, **callbacks: None,
        poll=poll_with_rebalance,
        consume=lambda n, timeout: [FakeMessage(p=1, o=6)],
    )
    return [(m.partition, m.offset) for m in consumer.poll(10, 0.1)]


def test_messages_of_partitions_given_up_meanwhile_are_left_to_their_new_owner() -> None:
    assert offsets_kept(given_up=[1], got_back=[]) == [(0, 5)]


def test_messages_of_partitions_given_up_and_got_back_are_ours() -> None:
    assert offsets_kept(given_up=[0, 1], got_back=[0]) == [(0, 5)]
    assert offsets_kept(given_up=[0, 1], got_back=[0, 1]) == [(0, 5), (1, 6)]


def test_a_header_whose_name_is_no_text_costs_only_the_headers() -> None:
    """Anybody can send one, and the client then raises this: the worker must not stop for it."""

    class Spoilt(FakeMessage):
        def headers(self) -> None:
            raise SystemError("returned a result with an exception set")

    message = read_message(Spoilt(p=0, o=5))  # type: ignore[arg-type]
    assert (message.offset, message.headers) == (5, ())


def test_what_librdkafka_repeats_is_said_once_a_minute() -> None:
    now = 0.0
    said = RepeatFilter(clock=lambda: now)

    def passes(text: str) -> bool:
        return said.filter(logging.LogRecord("librdkafka", logging.ERROR, "", 0, text, (), None))

    assert passes("connect to broker 1 failed (after 0ms)")
    assert not passes("connect to broker 1 failed (after 17ms)")
    assert passes("another thing")
    now = 61.0
    assert passes("connect to broker 1 failed (after 2ms)")
