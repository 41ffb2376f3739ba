"""What must hold in every history.

- Every click is answered: to a reader of committed messages, once everything has settled.
- Exactly once: no click is answered twice to such a reader. At least once: all answers to one click
  are alike, and if nothing but joins and orderly departures happened there is one.
- Every answer has the history of a run that nothing interrupts: the user's last ten items, in the
  order of the log, up to the click.
- Offsets are committed only when every click before them is answered.
- Once faults have ended everything is answered within a bound.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nextclick.shared.schemas import Click, Recommendation
from nextclick.shared.windows import HISTORY_LENGTH
from tests.simulation.log import Record


def event_of(value: bytes | None) -> str:
    """The event id of an answer, without reading the rest."""
    assert value is not None
    start = value.index(b'"event_id":"') + 12
    return value[start : value.index(b'"', start)].decode()


@dataclass
class Oracle:
    """Hears what happens to Kafka, and finds what is wrong."""

    violations: list[str] = field(default_factory=list)
    histories: dict[str, list[str]] = field(default_factory=dict)
    """What each click's answer must have."""
    _clicks: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Event ids, by partition."""
    _answered: set[str] = field(default_factory=set)
    """To a reader of committed messages, now or as soon as all markers are written."""
    _in_transactions: dict[int, list[str]] = field(default_factory=dict)
    _committed: dict[int, int] = field(default_factory=dict)
    _items: defaultdict[str, deque[str]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=HISTORY_LENGTH))
    )

    def clicked(self, click: Click, partition: int) -> None:
        """A click has been appended to the log."""
        items = self._items[click.user_id]
        items.append(click.item_id)
        self.histories[click.event_id] = list(items)
        self._clicks[partition].append(click.event_id)

    def answered(self, producer: int, records: Iterable[Record]) -> None:
        """Answers have been appended, in a transaction if the producer's id says so."""
        events = [event_of(record.value) for record in records]
        if producer < 0:
            self._answered.update(events)
        else:
            self._in_transactions.setdefault(producer, []).extend(events)

    def decided(self, producer: int, committed: bool) -> None:
        """A transaction has been committed or aborted."""
        events = self._in_transactions.pop(producer, ())
        if committed:
            self._answered.update(events)

    def committed(self, offsets: Mapping[int, int]) -> None:
        """The group's offsets are about to be these."""
        for partition, offset in offsets.items():
            known = self._committed.get(partition, 0)
            for event in self._clicks[partition][known:offset]:
                if event not in self._answered:
                    self.violations.append(
                        f"offset {offset} of partition {partition} was committed, "
                        f"and {event} is not answered"
                    )
                    break
            self._committed[partition] = max(known, offset)

    def judge(self, answers: Iterable[Record], *, once: bool) -> None:
        """At the end: all answers that a reader of committed messages sees. `once`: no doubles."""
        seen: dict[str, list[Recommendation]] = {}
        for record in answers:
            answer = Recommendation.model_validate_json(record.value or b"")
            seen.setdefault(answer.event_id, []).append(answer)
        for event, history in self.histories.items():
            theirs = seen.pop(event, [])
            if not theirs:
                self.violations.append(f"{event} is not answered")
            if len(theirs) > 1 and once:
                self.violations.append(f"{event} is answered {len(theirs)} times")
            if any(a.history != history for a in theirs):
                wrong = [a.history for a in theirs if a.history != history]
                self.violations.append(f"{event} has the history {wrong[0]}, not {history}")
            if any((a.items, a.model_version) != _list_of(theirs[0]) for a in theirs):
                self.violations.append(f"{event} has answers that differ")
        if seen:
            self.violations.append(f"answers to what nobody clicked: {sorted(seen)}")


def _list_of(answer: Recommendation) -> tuple[Sequence[object], str]:
    return answer.items, answer.model_version
