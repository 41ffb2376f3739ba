"""services.worker.guarantees.ExactlyOnce: one transaction ends while the next batch is scored."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import pytest

from services.worker.guarantees import Batch, ExactlyOnce
from shared.errors import CommitRefused, Fenced, Unavailable
from shared.kafka.background import BackgroundCall
from shared.messages import OutMessage


class Kafka:
    """A publisher whose transactions end when, and as, a test says; and a consumer's metadata."""

    def __init__(self) -> None:
        self.begun: list[Mapping[int, int]] = []
        self.may_end = threading.Event()
        self.may_end.set()
        self.outcomes: list[Exception | None] = []
        self.reconnects: list[Exception | None] = []
        self.reconnected = 0

    def group_metadata(self) -> str:
        return "generation 7"

    def begin(
        self,
        messages: Sequence[OutMessage],
        offsets: Mapping[int, int],
        group: object,
        reached: Callable[[str], None],
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
    return ExactlyOnce(kafka, kafka)  # type: ignore[arg-type]


def test_a_batch_is_released_once_its_transaction_is_committed() -> None:
    kafka = Kafka()
    ours, visible = guarantee(kafka), list[Batch]()
    ours.on_visible = lambda b, at: visible.append(b)
    kafka.may_end.clear()
    first = batch(5)
    ours.submit(first)
    assert ours.advance() == []
    assert ours.is_open
    kafka.may_end.set()
    ours.finish()
    assert ours.advance() == visible == [first]
    assert not ours.is_open


def test_the_next_transaction_begins_when_the_one_before_has_ended() -> None:
    kafka = Kafka()
    ours = guarantee(kafka)
    kafka.may_end.clear()
    ours.submit(batch(5))
    second = threading.Thread(target=ours.submit, args=[batch(9)])
    second.start()
    assert kafka.begun == [{0: 5}]
    kafka.may_end.set()
    second.join(10)
    assert kafka.begun == [{0: 5}, {0: 9}]
    ours.finish()
    assert [b.offsets for b in ours.advance()] == [{0: 5}, {0: 9}]


@pytest.mark.parametrize("call", ["submit", "finish"])
def test_an_aborted_transaction_is_said_before_anything_else_is_begun(call: str) -> None:
    kafka = Kafka()
    kafka.outcomes = [CommitRefused("aborted")]
    ours = guarantee(kafka)
    ours.submit(batch(5))
    with pytest.raises(CommitRefused, match="aborted"):
        ours.submit(batch(9)) if call == "submit" else ours.finish()
    assert kafka.begun == [{0: 5}]
    assert kafka.reconnected == 0, "the client is fit to go on"
    assert ours.advance() == []
    ours.submit(batch(5))
    ours.finish()
    assert len(ours.advance()) == 1


def test_with_an_unknown_outcome_the_client_is_thrown_away_before_going_on() -> None:
    """K3: a late EndTxn of the old one would end a transaction of the new one otherwise."""
    kafka = Kafka()
    kafka.outcomes = [Unavailable("timed out")]
    kafka.reconnects = [Unavailable("still away"), None]
    ours = guarantee(kafka)
    ours.submit(batch(5))
    with pytest.raises(Unavailable, match="still away"):
        ours.finish()
    assert ours.is_open
    with pytest.raises(CommitRefused, match="nobody knows"):
        ours.finish()
    assert kafka.reconnected == 1
    assert not ours.is_open


@pytest.mark.parametrize("rebalance", ["before_revoke", "on_lost"])
def test_what_went_wrong_within_a_rebalance_is_said_after_it(rebalance: str) -> None:
    """In the rebalance there is nothing to go back to: positions cannot be sought there."""
    kafka = Kafka()
    kafka.outcomes = [CommitRefused("illegal generation")]
    ours = guarantee(kafka)
    ours.submit(batch(5))
    getattr(ours, rebalance)()
    ours.forget({0})
    assert ours.is_open
    with pytest.raises(CommitRefused, match="illegal generation"):
        ours.advance()
    assert not ours.is_open


def test_before_a_partition_goes_its_transaction_has_ended() -> None:
    kafka = Kafka()
    ours = guarantee(kafka)
    kafka.may_end.clear()
    ours.submit(batch(5))
    revoking = threading.Thread(target=ours.before_revoke)
    revoking.start()
    assert revoking.is_alive()
    kafka.may_end.set()
    revoking.join(10)
    assert len(ours.advance()) == 1


def test_a_worker_that_was_fenced_off_ends() -> None:
    kafka = Kafka()
    kafka.outcomes = [Fenced("somebody else")]
    ours = guarantee(kafka)
    ours.submit(batch(5))
    with pytest.raises(Fenced):
        ours.finish()


def test_a_call_that_never_returns_is_left_behind() -> None:
    forever = threading.Event()
    call = BackgroundCall("commit", lambda: forever.wait(60))
    try:
        with pytest.raises(Unavailable, match="did not answer a commit"):
            call.outcome(timeout=0.01)
        assert not call.ended
    finally:
        forever.set()
