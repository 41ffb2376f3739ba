from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from services.worker.loop import STEPS, Worker
from shared import metrics
from shared.errors import CommitRefused, ConfigurationError, Unavailable
from shared.messages import Message, OutMessage, Place
from shared.model_slot import ServedModel
from shared.patience import Stopped
from shared.schemas import Click, Recommendation
from shared.scorer import Scorer
from shared.sessions import ENTRIES_KEPT, MAX_UNCOMMITTED_CLICKS_PER_USER, MemorySessions
from tests.unit.builders import CPU, checkpoint


class Stage:
    """Every side effect of a step, in order."""

    def __init__(self, messages: list[Message]) -> None:
        self.events: list[tuple[str, int]] = []
        self.sent: list[OutMessage] = []
        self.fail_next: dict[str, Exception] = {}
        self.polled = threading.Event()
        self._messages = messages
        self._store = MemorySessions(gap_ms=0, ttl_seconds=60)
        self.model = ServedModel("v1", Scorer(checkpoint(), CPU, 3))

    def _note(self, what: str, count: int) -> None:
        if what in self.fail_next:
            raise self.fail_next.pop(what)
        self.events.append((what, count))

    def poll(
        self, max_messages: int, timeout: float, *, before_giving_up: Callable[[], None]
    ) -> list[Message]:
        self.polled.set()
        batch, self._messages = self._messages[:max_messages], self._messages[max_messages:]
        return batch

    def append(
        self, clicks: Sequence[Click], places: Sequence[Place] | None = None
    ) -> list[list[str]]:
        self._note("append", len(clicks))
        return self._store.append(clicks, places)

    def send(self, messages: Sequence[OutMessage]) -> None:
        messages = list(messages)
        self.sent += messages
        if messages:
            self._note(f"send {messages[0].topic}", len(messages))

    def close(self) -> None:
        self._note("close", 0)

    def wait_acknowledged(self) -> None:
        self._note("acknowledged", 0)

    def commit(self, messages: Sequence[Message]) -> None:
        self._note("commit", len(messages))

    def rewind(self, messages: Sequence[Message]) -> None:
        self._note("rewind", len(messages))
        self._messages = [*messages, *self._messages]


def worker(stage: Stage) -> Worker:
    return Worker(
        consumer=stage,  # type: ignore[arg-type]
        sessions=stage,
        slot=stage,  # type: ignore[arg-type]
        publisher=stage,  # type: ignore[arg-type]
        recommendations_topic="recommendations",
        dlq_topic="dlq",
        max_batch=256,
        stop=threading.Event(),
        commit=stage.commit,
    )


def one_step(ours: Worker) -> None:
    """One step, and what it leaves to the second thread."""
    ours.step()
    ours.settle()


def click(i: int, user: str = "u") -> Message:
    value = Click(event_id=f"e{i}", user_id=user, item_id="1", timestamp=i).model_dump_json()
    return Message("clicks", 0, i, user.encode(), value.encode())


def test_the_steps_come_in_their_order() -> None:
    stage = Stage([click(1), Message("clicks", 0, 2, b"u", b"?"), click(3)])
    one_step(worker(stage))
    assert stage.events == [
        ("append", 2),
        ("send recommendations", 2),
        ("send dlq", 1),
        ("acknowledged", 0),
        ("commit", 3),
    ]


def test_whoever_wants_to_know_hears_of_every_step() -> None:
    stage, heard = Stage([click(1)]), list[str]()
    ours = worker(stage)
    ours.reached = heard.append
    one_step(ours)
    assert tuple(heard) == STEPS


def test_a_click_that_was_answered_too_long_ago_is_not_answered_again() -> None:
    many = [click(i) for i in range(2 * ENTRIES_KEPT)]
    stage = Stage([*many, *many, click(99)])
    ours = worker(stage)
    ours.max_batch = len(many)
    before = metrics.ANSWERED_BEFORE._value.get()
    for _ in range(3):
        one_step(ours)
    answers = [Recommendation.model_validate_json(m.value or b"") for m in stage.sent]
    first = {a.event_id: a.history for a in answers[: len(many)]}
    assert len(answers) < 2 * len(many)
    assert all(first.get(a.event_id, a.history) == a.history for a in answers)
    assert answers[-1].event_id == "e99"
    skipped = 2 * len(many) + 1 - len(answers)
    assert metrics.ANSWERED_BEFORE._value.get() - before == skipped > 0
    assert [n for what, n in stage.events if what == "commit"][-1] == 1


def test_nothing_read_nothing_done() -> None:
    stage = Stage([])
    one_step(worker(stage))
    assert stage.events == []


def test_only_bad_clicks_are_dead_lettered_and_committed() -> None:
    stage = Stage([Message("clicks", 0, i, None, None) for i in range(3)])
    one_step(worker(stage))
    assert ("send dlq", 3) in stage.events
    assert stage.events[-1] == ("commit", 3)


@pytest.mark.parametrize("step", ["append", "acknowledged"])
def test_nothing_is_committed_before_it_is_acknowledged(step: str) -> None:
    stage = Stage([click(1)])
    stage.fail_next[step] = ConfigurationError("refused for good")
    with pytest.raises(ConfigurationError):
        one_step(worker(stage))
    assert "commit" not in [what for what, _ in stage.events]


@pytest.mark.parametrize("step", ["append", "acknowledged", "commit"])
def test_an_outage_is_waited_out_without_sending_anything_twice(step: str) -> None:
    stage = Stage([click(1)])
    stage.fail_next[step] = Unavailable("away for a moment")
    one_step(worker(stage))
    assert [what for what, _ in stage.events] == [
        "append",
        "send recommendations",
        "acknowledged",
        "commit",
    ]


def test_a_stop_during_an_outage_leaves_the_batch_uncommitted() -> None:
    stage = Stage([click(1)])
    stage.fail_next["acknowledged"] = Unavailable("away")
    ours = worker(stage)
    original = stage.append

    def append_then_stop(clicks: Sequence[Click], places: Sequence[Place]) -> list[list[str]]:
        ours.stop.set()
        return original(clicks, places)

    stage.append = append_then_stop  # type: ignore[method-assign]
    ours.run()  # returns: the process exits 0
    assert "commit" not in [what for what, _ in stage.events]


def test_a_hot_user_is_committed_in_parts_that_a_replay_still_knows() -> None:
    stage = Stage([click(i) for i in range(100)])
    one_step(worker(stage))
    parts = [count for what, count in stage.events if what == "commit"]
    assert sum(parts) == 100
    assert max(parts) == MAX_UNCOMMITTED_CLICKS_PER_USER


def answers(stage: Stage) -> list[Recommendation]:
    return [
        Recommendation.model_validate_json(m.value or b"")
        for m in stage.sent
        if m.topic == "recommendations"
    ]


def clicked(i: int, user: str, item: str) -> Message:
    value = Click(event_id=f"e{i}", user_id=user, item_id=item, timestamp=1000 + i)
    return Message("clicks", 0, i, user.encode(), value.model_dump_json().encode())


SOME = [clicked(i, "ab"[i % 2], str(i + 1)) for i in range(8)] + [clicked(8, "c", "unheard of")]


def test_every_click_is_answered_from_its_own_history() -> None:
    stage = Stage(SOME)
    ours = replace(worker(stage), now=lambda: 12.3456)
    one_step(ours)
    got = answers(stage)
    assert [a.event_id for a in got] == [f"e{i}" for i in range(9)]
    assert got[6].history == ["1", "3", "5", "7"]
    assert got[8].fallback == "unknown_items"
    for answer in got:
        (alone,) = stage.model.scorer.recommend([answer.history])
        assert answer.items == alone.items
        assert (answer.model_version, answer.scored_at) == ("v1", 12345)
    assert [m.key for m in stage.sent] == [a.user_id.encode() for a in got]


def test_what_a_crash_left_uncommitted_is_answered_again_bit_for_bit() -> None:
    stage = Stage([*SOME, *SOME])
    stage.fail_next["commit"] = ConfigurationError("the process dies here")
    ours = replace(worker(stage), max_batch=len(SOME), now=lambda: 1.0)
    with pytest.raises(ConfigurationError):
        one_step(ours)
    before = list(stage.sent)
    stage.sent.clear()
    one_step(replace(ours))  # whoever comes next, with the same store
    assert stage.sent == before
    assert stage.events[-1] == ("commit", len(SOME))


def test_one_model_answers_a_whole_batch_and_the_next_batch_gets_the_new_one() -> None:
    stage = Stage([click(i) for i in range(31)])
    new = ServedModel("v2", stage.model.scorer)
    append = stage.append

    def append_while_swapped(clicks: Sequence[Click], places: Sequence[Place]) -> list[list[str]]:
        stage.model = new
        return append(clicks, places)

    stage.append = append_while_swapped  # type: ignore[method-assign]
    ours = replace(worker(stage), max_batch=30)
    one_step(ours)
    one_step(ours)
    versions = [a.model_version for a in answers(stage)]
    assert versions == ["v1"] * 30 + ["v2"]


def test_each_part_goes_through_all_steps_before_the_next_begins() -> None:
    limit = MAX_UNCOMMITTED_CLICKS_PER_USER
    stage = Stage([click(i) for i in range(limit + 1)])
    one_step(worker(stage))
    assert stage.events == [
        (what, count)
        for count in (limit, 1)
        for what, count in [
            ("append", count),
            ("send recommendations", count),
            ("acknowledged", 0),
            ("commit", count),
        ]
    ]


def test_a_batch_is_no_larger_than_the_setting() -> None:
    stage = Stage([click(i, user=f"u{i}") for i in range(10)])
    ours = replace(worker(stage), max_batch=4)
    for _ in range(3):
        one_step(ours)
    assert [count for what, count in stage.events if what == "commit"] == [4, 4, 2]


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
    stage = Stage(
        [*SOME, Message("clicks", 0, 9, None, None), Message("clicks", 0, 10, None, b"?")]
    )
    one_step(worker(stage))
    assert [b - a for a, b in zip(before, counted(), strict=True)] == [9, 9, 1, 1, 1]


def test_a_click_from_the_future_has_waited_no_time() -> None:
    before = metrics.CLICK_TO_ACKNOWLEDGED._sum.get()
    stage = Stage([clicked(0, "a", "1")])
    one_step(replace(worker(stage), now=lambda: 0.5))  # the click is dated one second
    assert metrics.CLICK_TO_ACKNOWLEDGED._sum.get() == before


def test_dead_letters_are_said_once_per_batch(caplog: pytest.LogCaptureFixture) -> None:
    one_step(worker(Stage([Message("clicks", 3, i, None, b"?") for i in range(5)])))
    (warning,) = caplog.records
    assert "dead-lettered 5 messages" in warning.message
    assert "clicks/3/0" in warning.message


def test_it_runs_until_the_stop_and_finishes_the_batch_in_hand() -> None:
    stage = Stage([click(i, user=f"u{i}") for i in range(10)])
    ours = replace(worker(stage), max_batch=4)
    append = stage.append

    def append_then_stop(clicks: Sequence[Click], places: Sequence[Place]) -> list[list[str]]:
        ours.stop.set()
        return append(clicks, places)

    stage.append = append_then_stop  # type: ignore[method-assign]
    ours.run()
    assert stage.events[-1] == ("commit", 4)
    assert len(answers(stage)) == 4


def test_a_bug_is_not_waited_out() -> None:
    stage = Stage([click(1)])
    stage.fail_next["append"] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        worker(stage).run()
    assert stage.events == []


def held_up(stage: Stage) -> threading.Event:
    """Kafka acknowledges nothing until the event is set."""
    go_on = threading.Event()
    acknowledged = stage.wait_acknowledged

    def wait_acknowledged() -> None:
        assert go_on.wait(10)
        acknowledged()

    stage.wait_acknowledged = wait_acknowledged  # type: ignore[method-assign]
    return go_on


def test_the_next_batch_is_read_while_the_last_one_is_being_settled() -> None:
    stage = Stage([click(1), click(2)])
    go_on = held_up(stage)
    ours = replace(worker(stage), max_batch=1)
    ours.step()
    assert [what for what, _ in stage.events] == ["append", "send recommendations"]
    stage.polled.clear()
    second = threading.Thread(target=ours.step)
    second.start()
    assert stage.polled.wait(10)
    assert len(stage.events) == 2, "appended before the last batch was settled"
    go_on.set()
    second.join()
    ours.settle()
    one = ["append", "send recommendations", "acknowledged", "commit"]
    assert [what for what, _ in stage.events] == 2 * one


def test_partitions_are_given_up_only_when_all_is_settled() -> None:
    stage = Stage([click(1)])
    go_on = held_up(stage)
    ours = worker(stage)
    ours.step()

    def rebalance(_: int, __: float, *, before_giving_up: Callable[[], None]) -> list[Message]:
        go_on.set()
        before_giving_up()
        assert stage.events[-1] == ("commit", 1)
        return []

    stage.poll = rebalance  # type: ignore[method-assign, assignment]
    ours.step()


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_after_a_refused_commit_it_goes_back_to_what_was_committed_last(batch: int) -> None:
    undisturbed, stage = Stage(SOME), Stage(SOME)
    one_step(replace(worker(undisturbed), now=lambda: 1.0))
    stage.fail_next["commit"] = CommitRefused("the group moved on")
    ours = replace(worker(stage), max_batch=batch, now=lambda: 1.0)
    for _ in range(len(SOME) + 3):
        ours.step()
    assert stage.sent == undisturbed.sent[:batch] + undisturbed.sent
    assert sum(count for what, count in stage.events if what == "commit") == len(SOME)


def test_a_hot_user_goes_back_no_further_than_a_replay_still_knows() -> None:
    limit = MAX_UNCOMMITTED_CLICKS_PER_USER
    stage = Stage([click(i) for i in range(5 * limit)])
    commit = stage.commit

    def refuse_the_third(messages: Sequence[Message]) -> None:
        if messages[0].offset == 2 * limit and ("rewind", 3 * limit) not in stage.events:
            raise CommitRefused("the group moved on")
        commit(messages)

    stage.commit = refuse_the_third  # type: ignore[method-assign]
    ours = worker(stage)
    one_step(ours)
    assert ("rewind", 3 * limit) in stage.events
    one_step(ours)
    histories = {a.event_id: a.history for a in answers(stage)}
    assert len(answers(stage)) == 6 * limit  # the third part twice
    expected = MemorySessions(gap_ms=0, ttl_seconds=60).append(
        [Click.model_validate_json(click(i).value or b"") for i in range(5 * limit)]
    )
    assert all(a.history == histories[a.event_id] for a in answers(stage))
    assert [histories[f"e{i}"] for i in range(5 * limit)] == expected


@pytest.mark.parametrize("more", [[], [click(2)]])
def test_what_goes_wrong_while_settling_ends_the_worker(more: list[Message]) -> None:
    stage = Stage([click(1), *more])
    stage.fail_next["acknowledged"] = ConfigurationError("refused for good")
    with pytest.raises(ConfigurationError):
        replace(worker(stage), max_batch=1).run()
    assert "commit" not in [what for what, _ in stage.events]


def test_a_crash_does_not_wait_for_a_server_that_is_away() -> None:
    stage = Stage([click(1), click(2)])
    ours = replace(worker(stage), max_batch=1)

    def away() -> None:
        raise Unavailable("for good")

    stage.wait_acknowledged = away  # type: ignore[method-assign]
    ours.step()
    settling = ours._settled
    assert settling is not None
    ours.slot = None  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        ours.run()
    assert isinstance(settling.exception(timeout=10), Stopped)
