"""services.worker.loop with a guarantee of at least once: what happens, and in which order."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from nextclick.bench.agreement import lists_agree
from nextclick.services.worker.at_least_once import COMMIT_POLL_SECONDS
from nextclick.services.worker.exactly_once import ExactlyOnce
from nextclick.services.worker.guarantee import (
    ANSWER_POLL_SECONDS,
    IDLE_POLL_SECONDS,
    OVERDUE_SECONDS,
)
from nextclick.services.worker.loop import STEPS, Worker
from nextclick.shared.errors import CommitRefused, ConfigurationError, Unavailable
from nextclick.shared.kafka.background import BackgroundCall
from nextclick.shared.messages import Message, OutMessage, Place
from nextclick.shared.redis import ENTRIES_KEPT, MAX_UNCOMMITTED_CLICKS_PER_USER, MemorySessions
from nextclick.shared.registry import ServedModel
from nextclick.shared.runtime import metrics
from nextclick.shared.schemas import Click
from tests.unit.worker_stage import Stage, click, garbage, worker

LIMIT = MAX_UNCOMMITTED_CLICKS_PER_USER


def until_all_is_committed(ours: Worker, steps: int = 10) -> None:
    for _ in range(steps):
        ours.step()
    assert not ours.guarantee.is_open


def test_the_steps_come_in_their_order() -> None:
    stage = Stage([click(1), garbage(2), click(3)])
    until_all_is_committed(worker(stage))
    assert stage.events == [
        ("append", 2),
        ("send recommendations", 2),
        ("send dlq", 1),
        ("commit", 4),
    ]


def test_on_step_is_called_for_every_step() -> None:
    stage, heard = Stage([click(1)]), list[str]()
    ours = worker(stage)
    ours.on_step = ours.guarantee._on_step = heard.append  # type: ignore[attr-defined]
    until_all_is_committed(ours)
    assert tuple(heard) == STEPS


def test_a_poll_without_messages_does_nothing() -> None:
    stage = Stage([])
    worker(stage).step()
    assert stage.events == []


def test_the_next_batch_is_answered_while_the_last_one_is_open() -> None:
    stage = Stage([click(i, user=f"u{i}") for i in range(3)])
    stage.acknowledges = False
    ours = worker(stage, max_batch=1)
    for _ in range(3):
        ours.step()
    assert stage.names() == 3 * ["append", "send recommendations"]


@pytest.mark.parametrize("acknowledged", [[1], [1, 2], [2]])
def test_nothing_is_committed_ahead_of_an_acknowledgement(acknowledged: list[int]) -> None:
    """The second batch may be acknowledged before the first."""
    stage = Stage([click(i, user=f"u{i}") for i in range(3)])
    stage.acknowledges = False
    ours = worker(stage, max_batch=1)
    for _ in range(3):
        ours.step()
    stage.acknowledge(acknowledged)
    ours.step()
    assert "commit" not in stage.names()
    stage.acknowledge([0])
    ours.step()
    assert stage.events[-1] == ("commit", 1 + len(acknowledged) if 1 in acknowledged else 1)


def test_commits_are_commit_seconds_apart() -> None:
    stage = Stage([click(i, user=f"u{i}") for i in range(12)])
    stage.poll_takes = 0.03
    ours = worker(stage, max_batch=1)
    for _ in range(12):
        ours.step()
    offsets = [count for what, count in stage.events if what == "commit"]
    assert offsets == [5, 9], "one in 0.1 s, with all that is acknowledged by then"


def test_a_commit_refused_in_a_rebalance_is_made_again() -> None:
    stage = Stage([click(1)])
    stage.refuses_commits = True
    ours = worker(stage)
    for _ in range(3):
        ours.step()
    assert ours.guarantee.is_open
    stage.refuses_commits = False
    until_all_is_committed(ours)
    assert stage.committed == {0: 2}
    assert len(stage.answers()) == 1, "nothing was answered again for it"


def test_only_bad_clicks_are_dead_lettered_and_committed() -> None:
    stage = Stage([garbage(i, None) for i in range(3)])
    until_all_is_committed(worker(stage))
    assert ("send dlq", 3) in stage.events
    assert stage.committed == {0: 3}


def test_an_outage_of_the_sessions_is_waited_out() -> None:
    stage = Stage([click(1)])
    stage.fail_next["append"] = Unavailable("away for a moment")
    until_all_is_committed(worker(stage))
    assert stage.names() == ["append", "send recommendations", "commit"]


def test_an_outage_at_the_end_leaves_the_batch_uncommitted() -> None:
    stage = Stage([click(1)])
    stage.acknowledges = False
    stage.fail_next["wait"] = Unavailable("away")
    ours = worker(stage)
    stage.during_poll = ours.stop.set
    ours.run()  # returns: the process exits 0
    assert "commit now" not in stage.names()


def test_at_the_end_what_is_open_is_finished() -> None:
    stage = Stage([click(i, user=f"u{i}") for i in range(10)])
    stage.acknowledges = False
    ours = worker(stage, max_batch=4)
    stage.during_poll = ours.stop.set
    ours.run()
    assert stage.events[-2:] == [("wait", 0), ("commit now", 4)]
    assert len(stage.answers()) == 4


def test_a_hot_user_never_has_more_uncommitted_clicks_than_a_replay_still_knows() -> None:
    stage = Stage([click(i) for i in range(100)])
    stage.poll_takes = 0.0  # so no commit is due by the clock
    ours = worker(stage)
    uncommitted = 0
    for _ in range(10):
        ours.step()
    for what, count in stage.events:
        if what == "append":
            uncommitted += count
            assert uncommitted <= LIMIT
        elif what == "commit now":
            uncommitted = 0
    assert len(stage.answers()) == 100


def test_the_clicks_of_others_do_not_count_for_a_user() -> None:
    stage = Stage([click(i, user=f"u{i % 50}") for i in range(256)])
    ours = worker(stage)
    ours.step()
    assert stage.events[0] == ("append", 256)


def test_a_worker_that_waits_for_a_hot_users_commit_still_serves_a_rebalance() -> None:
    """The commit is refused until the group has polled: it must get there."""
    stage = Stage([click(i) for i in range(LIMIT + 1)])
    stage.poll_takes = 0.0
    ours = worker(stage)
    ours.step()
    polls = []
    stage.during_poll = lambda: polls.append(1)

    def refused(offsets: object) -> None:
        raise CommitRefused("the group rebalances")

    commit_now, stage.commit_now = stage.commit_now, refused  # type: ignore[method-assign]
    ours.step()
    assert polls
    assert len(stage.answers()) == LIMIT
    stage.commit_now = commit_now  # type: ignore[method-assign]
    for _ in range(3):
        ours.step()
    assert len(stage.answers()) == LIMIT + 1


def test_when_partitions_are_revoked_open_batches_are_finished_and_waiting_messages_dropped() -> (
    None
):
    stage = Stage(
        [click(0, "a"), click(1, "b", partition=1)]
        + [click(2 + i, "a") for i in range(LIMIT)]
        + [click(99, "b", partition=1)]
    )
    stage.acknowledges = False
    stage.poll_takes = 0.0
    ours = worker(stage)
    ours.step()
    assert len(stage.answers()) == LIMIT + 1, "the next click of the hot user waits for a commit"
    stage.poll_takes = 0.1

    def rebalance() -> None:
        stage.on_revoke()
        assert stage.events[-1][0] == "commit now"
        stage.on_removed({0})
        stage.acknowledges = True

    stage.during_poll = rebalance
    until_all_is_committed(ours)
    answered = [a.event_id for a in stage.answers()]
    assert answered[-1] == "e99", "of the partition that stayed"
    assert len(answered) == LIMIT + 2, "not the waiting click of the one that went"


def test_what_was_lost_is_not_committed() -> None:
    stage = Stage([click(0, "a"), click(0, "b", partition=1)])
    stage.acknowledges = False
    ours = worker(stage)
    ours.step()

    def lost() -> None:
        stage.on_lost()
        stage.on_removed({1})
        stage.acknowledge()

    stage.during_poll = lost
    until_all_is_committed(ours)
    assert stage.committed == {0: 1}


def test_a_click_that_was_answered_too_long_ago_is_not_answered_again() -> None:
    many = [click(i) for i in range(2 * ENTRIES_KEPT)]
    stage = Stage([*many, *many, click(99)])
    before = metrics.ANSWERED_BEFORE._value.get()
    until_all_is_committed(worker(stage), steps=30)
    answers = stage.answers()
    first = {a.event_id: a.history for a in answers[: len(many)]}
    assert len(answers) < 2 * len(many)
    assert all(first.get(a.event_id, a.history) == a.history for a in answers)
    assert answers[-1].event_id == "e99"
    skipped = 2 * len(many) + 1 - len(answers)
    assert metrics.ANSWERED_BEFORE._value.get() - before == skipped > 0
    assert stage.committed == {0: 100}


SOME = [click(i, "ab"[i % 2], str(i + 1)) for i in range(8)] + [click(8, "c", "unheard of")]


def test_every_click_is_answered_from_its_own_history() -> None:
    stage = Stage(SOME)
    worker(stage, now=12.3456).step()
    got = stage.answers()
    assert [a.event_id for a in got] == [f"e{i}" for i in range(9)]
    assert got[6].history == ["1", "3", "5", "7"]
    assert got[8].fallback == "unknown_items"
    for answer in got:
        (alone,) = stage.model.scorer.recommend([answer.history])
        assert lists_agree(answer.items, alone.items)
        assert (answer.model_version, answer.scored_at) == ("v1", 12345)
    assert [m.key for m in stage.sent] == [a.user_id.encode() for a in got]


def test_what_a_crash_left_uncommitted_is_answered_again_the_same() -> None:
    stage = Stage(SOME)
    stage.fail_next["commit"] = ConfigurationError("the process dies here")
    with pytest.raises(ConfigurationError):
        until_all_is_committed(worker(stage, len(SOME), now=1.0))
    before = list(stage.sent)
    stage.sent.clear()
    stage._messages = SOME
    until_all_is_committed(worker(stage, len(SOME), now=1.0))  # the next, with the same store
    assert stage.sent == before
    assert stage.committed == {0: len(SOME)}


def test_a_replay_of_a_hot_user_gives_the_histories_of_an_undisturbed_run() -> None:
    """From each point at which a crash may leave the offsets."""
    clicks = [click(i) for i in range(5 * LIMIT)]
    expected = MemorySessions(gap_ms=0, ttl_seconds=60).append(
        [Click.model_validate_json(message.value or b"") for message in clicks]
    )
    for dies_after in range(1, 5):
        stage = Stage(clicks)
        stage.poll_takes = 0.0
        ours = worker(stage)
        for _ in range(dies_after):
            ours.step()
        stage._messages = clicks[stage.committed.get(0, 0) :]
        stage.poll_takes = 0.1
        until_all_is_committed(worker(stage), steps=20)
        for answer in stage.answers():
            assert answer.history == expected[int(answer.event_id[1:])]
        assert {a.event_id for a in stage.answers()} == {f"e{i}" for i in range(5 * LIMIT)}


def test_one_model_answers_a_whole_batch_and_the_next_batch_gets_the_new_one() -> None:
    stage = Stage([click(i, user=f"u{i}") for i in range(31)])
    new = ServedModel("v2", stage.model.scorer)
    append = stage.append

    def append_while_swapped(clicks: Sequence[Click], places: Sequence[Place]) -> list[list[str]]:
        stage.model = new
        return append(clicks, places)

    stage.append = append_while_swapped  # type: ignore[method-assign, assignment]
    ours = worker(stage, max_batch=30)
    ours.step()
    ours.step()
    assert [a.model_version for a in stage.answers()] == ["v1"] * 30 + ["v2"]


def test_a_batch_is_no_larger_than_the_setting() -> None:
    stage = Stage([click(i, user=f"u{i}") for i in range(10)])
    ours = worker(stage, max_batch=4)
    for _ in range(3):
        ours.step()
    assert [count for what, count in stage.events if what == "append"] == [4, 4, 2]


def test_it_counts_answers_fallbacks_and_dead_letters() -> None:
    def counted() -> list[float]:
        return [
            metrics.CLICKS._value.get(),
            metrics.RECOMMENDATIONS._value.get(),
            metrics.FALLBACKS.labels("unknown_items")._value.get(),
            metrics.DEAD_LETTERS.labels("empty")._value.get(),
            metrics.DEAD_LETTERS.labels("not_json")._value.get(),
        ]

    before = counted()
    until_all_is_committed(worker(Stage([*SOME, garbage(9, None), garbage(10)])))
    assert [b - a for a, b in zip(before, counted(), strict=True)] == [9, 9, 1, 1, 1]


def test_a_click_has_waited_until_its_answer_was_acknowledged() -> None:
    stage = Stage([click(0, "a")])  # dated one second
    ours = worker(stage)
    stage.acknowledges = False
    before = metrics.CLICK_TO_ACKNOWLEDGED._sum.get()
    ours.step()
    assert metrics.CLICK_TO_ACKNOWLEDGED._sum.get() == before
    stage.wall_time = 1.25
    stage.acknowledge()
    ours.step()
    stage.wall_time = 2.0
    until_all_is_committed(ours)
    assert metrics.CLICK_TO_ACKNOWLEDGED._sum.get() - before == pytest.approx(0.25)


def test_polls_are_short_while_answers_are_not_acknowledged() -> None:
    stage = Stage([click(0, "a")])
    stage.acknowledges, stage.poll_takes = False, 0.0
    ours = worker(stage)
    ours.step()
    assert ours.guarantee.poll_seconds == ANSWER_POLL_SECONDS
    stage.time += OVERDUE_SECONDS
    assert ours.guarantee.poll_seconds == COMMIT_POLL_SECONDS, "but not while it is away"
    stage.acknowledge()
    ours.step()
    assert ours.guarantee.poll_seconds == COMMIT_POLL_SECONDS
    until_all_is_committed(ours)
    assert ours.guarantee.poll_seconds == IDLE_POLL_SECONDS


def test_a_click_from_the_future_has_waited_no_time() -> None:
    stage = Stage([click(500, "a")])  # dated one and a half seconds
    before = metrics.CLICK_TO_ACKNOWLEDGED._sum.get()
    until_all_is_committed(worker(stage))
    assert metrics.CLICK_TO_ACKNOWLEDGED._sum.get() == before


def test_dead_letters_are_logged_once_per_batch(caplog: pytest.LogCaptureFixture) -> None:
    worker(Stage([garbage(i, partition=3) for i in range(5)])).step()
    (warning,) = caplog.records
    assert "dead-lettered 5 messages" in warning.message
    assert "clicks/3/0" in warning.message


def test_a_bug_is_not_retried_and_nothing_is_finished_after_it() -> None:
    stage = Stage([click(1), click(2, "v")])
    ours = worker(stage, max_batch=1)
    stage.acknowledges = False
    ours.step()
    stage.fail_next["append"] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        ours.run()
    ours.close()
    stage.on_revoke()  # what the client calls as it leaves the group
    assert stage.names() == ["append", "send recommendations", "close", "close"]


def test_what_kafka_refuses_for_good_ends_the_worker() -> None:
    stage = Stage([click(1)])

    def refused() -> None:
        raise ConfigurationError("refused for good")

    stage.serve = refused  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError):
        worker(stage).run()
    assert "commit" not in stage.names()


def test_it_waits_with_too_many_open_clicks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextclick.services.worker.at_least_once.MAX_OPEN_CLICKS", 6)
    stage = Stage([click(i, user=f"u{i}") for i in range(10)])
    stage.acknowledges, stage.poll_takes = False, 0.0
    ours = worker(stage, max_batch=2)
    for _ in range(5):
        ours.step()
    assert stage.names().count("wait") == 1
    assert stage.names().index("wait") == 6, "after the third batch"


class TransactionalStage(Stage):
    """A stage for a guarantee of exactly once, some of whose transactions do not succeed."""

    def __init__(
        self, messages: list[Message], failures: dict[int, tuple[Exception, bool]]
    ) -> None:
        """By the number of a transaction, what it raises and whether it is committed anyway."""
        super().__init__(messages)
        self._topic = messages
        self._failures = failures
        self._begun = itertools.count(1)
        self.reconnected = 0

    def group_metadata(self) -> None:
        return None

    def begin(
        self,
        messages: Sequence[OutMessage],
        offsets: Mapping[int, int],
        group: None,
        on_step: Callable[[str], None],
    ) -> BackgroundCall:
        error, committed = self._failures.get(next(self._begun), (None, True))

        def work() -> None:
            if committed:
                self.sent += messages
                self.committed |= offsets
            if error is not None:
                raise error

        return BackgroundCall("transaction", work)

    def reconnect(self) -> None:
        self.reconnected += 1

    def seek_to_committed(self) -> None:
        self._messages = self._topic[self.committed.get(0, 0) :]


@pytest.mark.parametrize("batch", [1, 3, 9])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    ("error", "committed", "reconnects"),
    [
        pytest.param(CommitRefused("aborted"), False, 0, id="aborted"),
        pytest.param(Unavailable("timed out"), False, 1, id="unknown, not committed"),
        pytest.param(Unavailable("timed out"), True, 1, id="unknown, committed"),
    ],
)
def test_exactly_once_whatever_becomes_of_a_transaction(
    error: Exception, committed: bool, reconnects: int, number: int, batch: int
) -> None:
    stage = TransactionalStage(SOME, {number: (error, committed)})
    ours = worker(stage, batch)
    ours = replace(ours, guarantee=ExactlyOnce(stage, stage))  # type: ignore[arg-type]
    while stage.committed.get(0) != len(SOME) or ours.guarantee.is_open:
        ours.step()
    assert [a.event_id for a in stage.answers()] == [f"e{i}" for i in range(len(SOME))]
    assert [a.history for a in stage.answers()] == MemorySessions(gap_ms=0, ttl_seconds=60).append(
        [Click.model_validate_json(message.value or b"") for message in SOME]
    )
    assert stage.reconnected == (reconnects if number * batch <= len(SOME) else 0)


def test_since_when_kafka_is_waited_for_is_known() -> None:
    stage = Stage([click(1), click(2, "other")])
    stage.acknowledges = False
    ours = worker(stage)
    ours.max_batch = 1
    ours.step()
    assert ours.open_since is not None
    ours.open_since -= 100
    ours.step()
    assert len(stage.sent) == 2
    assert time.monotonic() - ours.open_since > 99, "nothing was committed"
    stage.acknowledge()
    until_all_is_committed(ours)
    assert ours.open_since is None


def test_waiting_for_redis_is_not_waiting_for_kafka() -> None:
    stage = Stage([click(1)])
    ours, seen = worker(stage), list[float | None]()
    ours.open_since = time.monotonic() - 60
    append = ours.sessions.append

    def away(*clicks: object) -> object:
        seen.append(ours.open_since)
        return append(*clicks)  # type: ignore[arg-type]

    ours.sessions.append = away  # type: ignore[method-assign, assignment]
    ours.step()
    assert seen == [None]
