"""services.worker.exactly_once: what is scored while a transaction is open goes into the next."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import pytest
from confluent_kafka import KafkaError

from nextclick.services.worker.exactly_once import (
    OVERDUE_SECONDS,
    QUEUE_POLL_SECONDS,
    ExactlyOnce,
)
from nextclick.services.worker.guarantee import ANSWER_POLL_SECONDS, IDLE_POLL_SECONDS, Batch
from nextclick.shared.errors import CommitRefused, Unavailable
from nextclick.shared.kafka.background import BackgroundCall
from nextclick.shared.messages import OutMessage


class Kafka:
    """A publisher whose transactions end when, and as, a test says; and a consumer's metadata."""

    def __init__(self) -> None:
        self.begun: list[Mapping[int, int]] = []
        self.group = "generation 7"
        self.may_end = threading.Event()
        self.may_end.set()
        self.outcomes: list[Exception | None] = []
        self.reconnects: list[Exception | None] = []
        self.reconnected = 0

    def group_metadata(self) -> str:
        return self.group

    def begin(
        self,
        messages: Sequence[OutMessage],
        offsets: Mapping[int, int],
        group: object,
        on_step: Callable[[str], None],
    ) -> BackgroundCall:
        assert group == "generation 7"
        self.begun.append(offsets)
        outcome = self.outcomes.pop(0) if self.outcomes else None

        def work() -> None:
            assert self.may_end.wait(10)
            if outcome is not None:
                raise outcome

        return BackgroundCall("transaction", work)

    def reconnect(self) -> None:
        error = self.reconnects.pop(0) if self.reconnects else None
        if error is not None:
            raise error
        self.reconnected += 1


def batch(offset: int) -> Batch:
    return Batch([], [], {0: offset}, Counter(u=1), 1)


def guarantee(kafka: Kafka) -> ExactlyOnce:
    return ExactlyOnce(kafka, kafka, clock=lambda: 0.0)  # type: ignore[arg-type]


def submit(ours: ExactlyOnce, offset: int) -> Batch:
    """As a step of the worker does it."""
    one = batch(offset)
    ours.submit(one)
    assert ours.advance() == []
    return one


def test_a_batch_is_released_once_its_transaction_is_committed() -> None:
    kafka = Kafka()
    ours, visible = guarantee(kafka), list[Batch]()
    ours.on_visible = lambda b, at: visible.append(b)
    kafka.may_end.clear()
    first = submit(ours, 5)
    assert ours.is_open
    kafka.may_end.set()
    ours.finish()
    assert ours.advance() == visible == [first]
    assert not ours.is_open


def test_what_is_scored_while_a_transaction_is_open_goes_into_the_next() -> None:
    kafka = Kafka()
    ours = guarantee(kafka)
    assert ours.poll_seconds == IDLE_POLL_SECONDS
    kafka.may_end.clear()
    batches = [submit(ours, 5)]
    assert ours.poll_seconds == ANSWER_POLL_SECONDS
    batches += [submit(ours, 9), submit(ours, 12)]
    assert ours.poll_seconds == QUEUE_POLL_SECONDS
    assert kafka.begun == [{0: 5}]
    kafka.may_end.set()
    ours.finish()
    assert kafka.begun == [{0: 5}, {0: 12}]
    assert ours.advance() == batches


def test_with_too_much_queued_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextclick.services.worker.exactly_once.MAX_OPEN_CLICKS", 2)
    kafka = Kafka()
    ours = guarantee(kafka)
    kafka.may_end.clear()
    for offset in (5, 9, 12):
        assert not ours.is_full
        submit(ours, offset)
    assert ours.is_full
    kafka.may_end.set()
    ours.finish()
    assert not ours.is_full


@pytest.mark.parametrize("call", ["advance", "finish"])
def test_an_aborted_transaction_is_said_before_anything_else_is_begun(call: str) -> None:
    """What was queued after it goes, too: the worker reads it again."""
    kafka = Kafka()
    kafka.outcomes = [CommitRefused("aborted")]
    ours = guarantee(kafka)
    kafka.may_end.clear()
    submit(ours, 5)
    submit(ours, 9)
    kafka.may_end.set()
    with pytest.raises(CommitRefused, match="aborted"):
        ours.finish() if call == "finish" else until_it_ends(ours)
    assert kafka.begun == [{0: 5}]
    assert kafka.reconnected == 0, "the client is fit to go on"
    assert not ours.is_open
    submit(ours, 5)
    ours.finish()
    assert len(ours.advance()) == 1


def test_what_was_committed_before_an_abort_is_not_released_after_it() -> None:
    """The worker has begun to count anew, and would take it off what it appends again."""
    kafka = Kafka()
    kafka.outcomes = [None, CommitRefused("aborted")]
    ours = guarantee(kafka)
    kafka.may_end.clear()
    submit(ours, 5)
    submit(ours, 9)
    kafka.may_end.set()
    with pytest.raises(CommitRefused, match="aborted"):
        ours.finish()
    assert kafka.begun == [{0: 5}, {0: 9}]
    assert ours.advance() == []


def until_it_ends(ours: ExactlyOnce) -> None:
    assert ours._open is not None
    ours._open.call._thread.join(10)
    ours.advance()


def test_with_an_unknown_outcome_the_client_is_thrown_away_before_going_on() -> None:
    """K3: a late EndTxn of the old one would end a transaction of the new one otherwise."""
    kafka = Kafka()
    kafka.outcomes = [Unavailable("timed out")]
    kafka.reconnects = [Unavailable("still away"), None]
    ours = guarantee(kafka)
    submit(ours, 5)
    with pytest.raises(Unavailable, match="still away"):
        ours.finish()
    assert ours.is_open
    with pytest.raises(CommitRefused, match="outcome of a transaction is unknown"):
        ours.finish()
    assert kafka.reconnected == 1
    assert not ours.is_open


@pytest.mark.parametrize("rebalance", ["on_revoke", "on_lost"])
def test_what_went_wrong_within_a_rebalance_is_said_after_it(rebalance: str) -> None:
    """In the rebalance there is nothing to go back to: positions cannot be sought there."""
    kafka = Kafka()
    kafka.outcomes = [CommitRefused("illegal generation")]
    ours = guarantee(kafka)
    submit(ours, 5)
    getattr(ours, rebalance)()
    ours.drop_partitions({0})
    ours.submit(batch(9))
    assert ours.is_open
    with pytest.raises(CommitRefused, match="illegal generation"):
        ours.advance()
    assert not ours.is_open


def one_open_one_queued() -> tuple[Kafka, ExactlyOnce]:
    """A transaction with offset 5 that may not end yet, and a batch with offset 9 behind it."""
    kafka = Kafka()
    ours = guarantee(kafka)
    kafka.may_end.clear()
    submit(ours, 5)
    submit(ours, 9)
    return kafka, ours


def test_before_a_partition_goes_everything_is_committed() -> None:
    kafka, ours = one_open_one_queued()
    revoking = threading.Thread(target=ours.on_revoke)
    revoking.start()
    assert revoking.is_alive()
    kafka.may_end.set()
    revoking.join(10)
    assert len(ours.advance()) == 2
    assert kafka.begun == [{0: 5}, {0: 9}]


def test_queued_batches_of_lost_partitions_are_dropped() -> None:
    """Its transaction would be shown no member and no generation, and Kafka would commit it."""
    kafka, ours = one_open_one_queued()
    kafka.group = "no member"
    kafka.may_end.set()
    ours.on_lost()
    assert kafka.begun == [{0: 5}]
    with pytest.raises(CommitRefused, match="lost"):
        ours.advance()
    assert not ours.is_open


def test_a_transaction_shows_the_group_of_the_time_when_it_was_read() -> None:
    kafka, ours = one_open_one_queued()
    kafka.group = "no member"
    kafka.may_end.set()
    ours.finish()  # begin() checks which group it is shown
    assert kafka.begun == [{0: 5}, {0: 9}]


def test_a_bare_error_of_the_client_is_no_success() -> None:
    """confluent-kafka raises one after a fatal error: `except BaseException` lets it pass."""

    def fail() -> None:
        raise KafkaError(KafkaError._FATAL)  # type: ignore[misc]

    with pytest.raises(Unavailable, match="the Kafka client failed"):
        BackgroundCall("transaction", fail).outcome()


def test_a_call_that_never_returns_is_left_behind() -> None:
    forever = threading.Event()
    call = BackgroundCall("commit", lambda: forever.wait(60))
    try:
        with pytest.raises(Unavailable, match="did not answer a commit"):
            call.outcome(timeout=0.01)
        assert not call.ended
    finally:
        forever.set()


def test_a_transaction_that_never_returns_is_left_behind() -> None:
    """librdkafka does not heed the timeouts of some calls; without clicks nobody would notice."""
    now = 0.0
    kafka = Kafka()
    ours = ExactlyOnce(kafka, kafka, clock=lambda: now)  # type: ignore[arg-type]
    kafka.may_end.clear()
    submit(ours, 5)
    now = OVERDUE_SECONDS
    assert ours.advance() == []
    now += 0.1
    with pytest.raises(CommitRefused, match="outcome of a transaction is unknown"):
        ours.advance()
    assert kafka.reconnected == 1
    kafka.may_end.set()
