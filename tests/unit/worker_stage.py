"""Every side effect of a worker, in order, with clocks and answers that a test decides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from nextclick.services.worker.at_least_once import COMMIT_SECONDS, AtLeastOnce
from nextclick.services.worker.decide import AnswerTopic
from nextclick.services.worker.loop import Worker
from nextclick.shared.kafka.publisher import Receipt
from nextclick.shared.messages import Message, OutMessage, Place
from nextclick.shared.model import Scorer
from nextclick.shared.redis import MemorySessions, Session
from nextclick.shared.registry import Arms, ServedModel
from nextclick.shared.schemas import Click, Recommendation
from tests.unit.builders import CPU, checkpoint


class Stage:
    """Plays consumer, publisher, sessions and model slot of one worker."""

    def __init__(self, messages: list[Message]) -> None:
        self.events: list[tuple[str, int]] = []
        self.sent: list[OutMessage] = []
        self.fail_next: dict[str, Exception] = {}
        self.time = 0.0
        """Of the clock that commits go by; each poll moves it past the next commit."""
        self.poll_takes = COMMIT_SECONDS
        self.wall_time = 1.0
        """Epoch seconds."""
        self.acknowledges = True
        """Whether Kafka acknowledges at once, else when `acknowledge` is called."""
        self.refuses_commits = False
        """As a group in a rebalance does."""
        self.on_revoke: Callable[[], None]
        self.on_lost: Callable[[], None]
        self.on_removed: Callable[[set[int]], None]
        self.committed: dict[int, int] = {}
        self.committing = False
        self.model = ServedModel("v1", Scorer(checkpoint(), CPU, 3))
        self.arms: Arms | None = None
        self.during_poll: Callable[[], None] = lambda: None
        self._messages = messages
        self._store = MemorySessions(gap_ms=0, ttl_seconds=60, past_days=365)
        self._receipts: list[Receipt] = []
        self._commit_outcome: Mapping[int, int] = {}

    def note(self, what: str, count: int) -> None:
        if what in self.fail_next:
            raise self.fail_next.pop(what)
        self.events.append((what, count))

    # The consumer.

    def poll(self, max_messages: int, timeout: float) -> list[Message]:
        self.time += self.poll_takes
        during, self.during_poll = self.during_poll, lambda: None
        during()
        if self.committing:
            self.committing = False
            self.committed |= self._commit_outcome
        batch, self._messages = self._messages[:max_messages], self._messages[max_messages:]
        return batch

    def commit(self, offsets: Mapping[int, int]) -> None:
        self.note("commit", sum(offsets.values()))
        self.committing = True
        self._commit_outcome = {} if self.refuses_commits else dict(offsets)

    def commit_now(self, offsets: Mapping[int, int]) -> None:
        self.note("commit now", sum(offsets.values()))
        self.committed |= offsets

    def seek_to_committed(self) -> None:
        self.note("seek", sum(self.committed.values()))

    # The publisher.

    def send(self, messages: Sequence[OutMessage]) -> Receipt:
        for topic in dict.fromkeys(m.topic for m in messages):
            self.note(f"send {topic}", sum(m.topic == topic for m in messages))
        self.sent += messages
        receipt = Receipt()
        receipt.outstanding = len(messages)
        self._receipts.append(receipt)
        return receipt

    def serve(self) -> None:
        if self.acknowledges:
            self.acknowledge()

    def acknowledge(self, which: Iterable[int] | None = None) -> None:
        """Acknowledge everything sent so far, or only some of the calls of `send`."""
        for number in range(len(self._receipts)) if which is None else which:
            self._receipts[number].outstanding = 0

    def wait_acknowledged(self) -> None:
        self.note("wait", 0)
        self.acknowledge()

    # The session store; `model` makes it a slot, too.

    def append(
        self, clicks: Sequence[Click], places: Sequence[Place] | None = None
    ) -> list[list[str]]:
        self.note("append", len(clicks))
        return self._store.append(clicks, places)

    def append_with_past(
        self, clicks: Sequence[Click], places: Sequence[Place] | None = None
    ) -> list[Session]:
        self.note("append", len(clicks))
        return self._store.append_with_past(clicks, places)

    def close(self) -> None:
        self.note("close", 0)

    # What came of it.

    def names(self) -> list[str]:
        return [what for what, _ in self.events]

    def answers(self) -> list[Recommendation]:
        return [
            Recommendation.model_validate_json(m.value or b"")
            for m in self.sent
            if m.topic == "recommendations"
        ]


def worker(
    stage: Stage,
    max_batch: int = 256,
    now: float | None = None,
    topics: Sequence[AnswerTopic] = (AnswerTopic("recommendations"),),
) -> Worker:
    """A worker at least once, all of whose neighbours are the stage."""
    guarantee = AtLeastOnce(stage, stage, clock=lambda: stage.time, now=lambda: stage.wall_time)  # type: ignore[arg-type]
    ours = Worker(
        consumer=stage,  # type: ignore[arg-type]
        sessions=stage,  # type: ignore[arg-type]
        slot=stage,  # type: ignore[arg-type]
        guarantee=guarantee,
        topics=topics,
        dlq_topic="dlq",
        max_batch=max_batch,
        stop=threading.Event(),
    )
    if now is not None:
        ours.now = lambda: now
    return ours


def click(i: int, user: str = "u", item: str = "1", partition: int = 0) -> Message:
    value = Click(event_id=f"e{i}", user_id=user, item_id=item, timestamp=1000 + i)
    return Message("clicks", partition, i, user.encode(), value.model_dump_json().encode())


def garbage(i: int, value: bytes | None = b"?", partition: int = 0) -> Message:
    return Message("clicks", partition, i, None, value)
