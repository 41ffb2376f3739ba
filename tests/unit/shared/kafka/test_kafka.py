from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import (
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from nextclick.shared.errors import CommitRefused, Fenced, Unavailable
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

    consumer._membership.client.close()
    consumer._membership.client = SimpleNamespace(
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


class Client:
    """A librdkafka consumer whose commits end as a test says."""

    def __init__(self) -> None:
        self.on_commit: Callable[..., None] = lambda error, places: None
        self.commits: list[dict[int, int]] = []
        self.refusal: KafkaError | None = None
        self.may_return = threading.Event()

    def describe_topics(self, topics: object, request_timeout: float) -> dict[str, Future[None]]:
        return {"clicks": Future()}

    def subscribe(self, topics: list[str], **callbacks: object) -> None:
        pass

    def set_sasl_credentials(self, user: str, password: str) -> None:
        pass

    def poll(self, timeout: float) -> None:
        return None

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition]:
        self.commits.append({place.partition: place.offset for place in offsets})
        if not asynchronous:
            assert self.may_return.wait(10)
            if self.refusal is not None:
                raise KafkaException(self.refusal)
        return offsets

    def close(self) -> None:
        assert self.may_return.wait(10)


def consumer_of(client: Client) -> ClickConsumer:
    """A member that has partition 0."""

    def make(kind: object, config: dict[str, Any]) -> Client:
        if kind is Consumer:
            client.on_commit = config["on_commit"]
        return client

    settings = KafkaSettings(bootstrap_servers="127.0.0.1:1")
    consumer = ClickConsumer(settings, "clicks", "g", make_client=make)
    consumer._on_assign(None, [TopicPartition("clicks", 0)])  # type: ignore[arg-type]
    return consumer


def test_a_commit_that_ends_late_and_refused_does_not_end_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nextclick.shared.kafka.commits.REQUEST_SECONDS", 0.01)
    client = Client()
    client.refusal = KafkaError(KafkaError.UNKNOWN_MEMBER_ID)
    consumer = consumer_of(client)
    consumer.poll(1, 0)
    with pytest.raises(Unavailable):
        consumer.commit_now({0: 5})
    assert consumer._commits._call is not None
    client.may_return.set()
    consumer._commits._call._thread.join(10)
    monkeypatch.setattr("nextclick.shared.kafka.commits.REQUEST_SECONDS", 10)
    with pytest.raises(CommitRefused):  # the second one's own
        consumer.commit_now({0: 5})
    assert client.commits == [{0: 5}, {0: 5}]


def test_a_client_whose_commit_hangs_is_left_behind_if_there_is_a_new_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would take the password only after the commit, which waits for the login."""
    monkeypatch.setattr("nextclick.shared.kafka.commits.REQUEST_SECONDS", 0.01)
    file = tmp_path / "password"
    file.write_text("first")
    made: list[tuple[Client, str]] = []

    def make(kind: object, config: dict[str, Any]) -> Client:
        client = Client()
        if kind is Consumer:
            made.append((client, config["sasl.password"]))
        return client

    settings = KafkaSettings(client_config={"sasl.username": "u"}, sasl_password_file=str(file))
    consumer = ClickConsumer(settings, "clicks", "g", make_client=make)
    consumer._on_assign(None, [TopicPartition("clicks", 0)])  # type: ignore[arg-type]
    consumer.poll(1, 0)
    for _ in range(2):
        with pytest.raises(Unavailable):
            consumer.commit_now({0: 5})
    assert len(made) == 1, "the password is the same"
    file.write_text("second")
    with pytest.raises(Unavailable):
        consumer.commit_now({0: 5})
    with pytest.raises(CommitRefused):  # the next poll joins the group
        consumer.commit_now({0: 5})
    consumer.poll(1, 0)
    assert [password for _, password in made] == ["first", "second"]
    assert consumer.assignment == set()
    assert made[1][0].commits == []
    made[0][0].may_return.set()


def test_a_client_that_never_closes_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("nextclick.shared.kafka.consumer.CLOSE_SECONDS", 0.01)
    client = Client()
    consumer_of(client).close()
    assert "not leaving the group" in caplog.text
    client.may_return.set()


def test_a_client_that_was_shut_out_and_never_closes_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its thread would keep a core busy beside that of the next client."""
    monkeypatch.setattr("nextclick.shared.kafka.membership.CLOSE_SECONDS", 0.01)
    client = Client()
    consumer = consumer_of(client)
    consumer.poll(1, 0)
    consumer._membership.note_shut_out(KafkaError(KafkaError._FATAL))
    with pytest.raises(Fenced, match="a restart joins the group g anew"):
        consumer.poll(1, 0)
    consumer.close()  # does not wait for it once more
    assert "not leaving the group" in caplog.text
    client.may_return.set()


def test_offsets_that_an_older_commit_has_overwritten_are_committed_again() -> None:
    """The client repeats a commit when the connection breaks, if need be after a newer one."""
    client = Client()
    consumer = consumer_of(client)
    for offset in (5, 9):
        consumer.commit({0: offset})
    for offset in (9, 5):
        client.on_commit(None, [TopicPartition("clicks", 0, offset)])
    consumer.poll(1, 0)
    assert client.commits == [{0: 5}, {0: 9}, {0: 9}]
    assert consumer.committed == {0: 9}
    client.on_commit(KafkaError(KafkaError.REBALANCE_IN_PROGRESS), [TopicPartition("clicks", 0, 9)])
    consumer.poll(1, 0)
    client.on_commit(None, [TopicPartition("clicks", 0, 9)])
    consumer.poll(1, 0)
    assert client.commits[3:] == [{0: 9}], "until it works, and no longer"


def test_a_partition_without_offset_that_is_revoked_in_the_same_poll_is_left_alone() -> None:
    """It was begun to be read by us, beside its new owner."""
    client = Client()
    consumer = consumer_of(client)
    no_offset = FakeMessage(p=0, o=-1)
    no_offset.error = lambda: KafkaError(KafkaError._AUTO_OFFSET_RESET)

    def revoke(count: int, timeout: float) -> list[FakeMessage]:
        consumer._on_revoke(None, [TopicPartition("clicks", 0)])  # type: ignore[arg-type]
        return []

    client.poll = lambda timeout: no_offset  # type: ignore[method-assign, assignment, return-value]
    client.consume = revoke  # type: ignore[attr-defined]
    assert consumer.poll(10, 0) == []
    assert consumer._positions.unplaced == set()


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
