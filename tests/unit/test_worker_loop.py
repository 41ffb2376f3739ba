from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from services.worker.loop import Worker
from services.worker.model_slot import ServedModel
from shared.errors import ConfigurationError, Unavailable
from shared.messages import Message, OutMessage
from shared.schemas import Click
from shared.scorer import Scorer
from shared.sessions import MAX_UNCOMMITTED_CLICKS_PER_USER, MemorySessions
from tests.unit.builders import CPU, checkpoint


class Stage:
    """Every side effect of a step, in order."""

    def __init__(self, messages: list[Message]) -> None:
        self.events: list[tuple[str, int]] = []
        self.sent: list[OutMessage] = []
        self.fail_next: dict[str, Exception] = {}
        self._messages = messages
        self._store = MemorySessions(gap_ms=0, ttl_seconds=60)
        self.model = ServedModel("v1", Scorer(checkpoint(), CPU, 3))

    def _note(self, what: str, count: int) -> None:
        if what in self.fail_next:
            raise self.fail_next.pop(what)
        self.events.append((what, count))

    def poll(self, max_messages: int, timeout: float) -> list[Message]:
        batch, self._messages = self._messages[:max_messages], self._messages[max_messages:]
        return batch

    def append(self, clicks: Sequence[Click]) -> list[list[str]]:
        self._note("append", len(clicks))
        return self._store.append(clicks)

    def send(self, messages: Sequence[OutMessage]) -> None:
        messages = list(messages)
        self.sent += messages
        if messages:
            self._note(f"send {messages[0].topic}", len(messages))

    def wait_acknowledged(self) -> None:
        self._note("acknowledged", 0)

    def commit(self, messages: Sequence[Message]) -> None:
        self._note("commit", len(messages))


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
    )


def click(i: int, user: str = "u") -> Message:
    value = Click(event_id=f"e{i}", user_id=user, item_id="1", timestamp=i).model_dump_json()
    return Message("clicks", 0, i, user.encode(), value.encode())


def test_the_steps_come_in_their_order() -> None:
    stage = Stage([click(1), Message("clicks", 0, 2, b"u", b"?"), click(3)])
    worker(stage).step()
    assert stage.events == [
        ("append", 2),
        ("send recommendations", 2),
        ("send dlq", 1),
        ("acknowledged", 0),
        ("commit", 3),
    ]


def test_nothing_read_nothing_done() -> None:
    stage = Stage([])
    worker(stage).step()
    assert stage.events == []


def test_only_bad_clicks_are_dead_lettered_and_committed() -> None:
    stage = Stage([Message("clicks", 0, i, None, None) for i in range(3)])
    worker(stage).step()
    assert ("send dlq", 3) in stage.events
    assert stage.events[-1] == ("commit", 3)


@pytest.mark.parametrize("step", ["append", "acknowledged"])
def test_nothing_is_committed_before_it_is_acknowledged(step: str) -> None:
    stage = Stage([click(1)])
    stage.fail_next[step] = ConfigurationError("refused for good")
    with pytest.raises(ConfigurationError):
        worker(stage).step()
    assert "commit" not in [what for what, _ in stage.events]


@pytest.mark.parametrize("step", ["append", "acknowledged", "commit"])
def test_an_outage_is_waited_out_without_sending_anything_twice(step: str) -> None:
    stage = Stage([click(1)])
    stage.fail_next[step] = Unavailable("away for a moment")
    worker(stage).step()
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

    def append_then_stop(clicks: Sequence[Click]) -> list[list[str]]:
        ours.stop.set()
        return original(clicks)

    stage.append = append_then_stop  # type: ignore[method-assign]
    ours.run()  # returns: the process exits 0
    assert "commit" not in [what for what, _ in stage.events]


def test_a_hot_user_is_committed_in_parts_that_a_replay_still_knows() -> None:
    stage = Stage([click(i) for i in range(100)])
    worker(stage).step()
    parts = [count for what, count in stage.events if what == "commit"]
    assert sum(parts) == 100
    assert max(parts) == MAX_UNCOMMITTED_CLICKS_PER_USER
