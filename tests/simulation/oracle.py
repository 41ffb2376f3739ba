"""What must hold in every history.

- Every click is answered: to a reader of committed messages, once everything has settled.
- Exactly once: no click is answered twice to such a reader. At least once: all answers to one click
  are alike, and if nothing but joins and orderly departures happened there is one.
- Every answer has the history of a run that nothing interrupts: the user's last ten items, in the
  order of the log, up to the click.
- Every list is the one that the model version, or version and delta, which it names gives for that
  history, and no batch has answers of two.
- What is published is never replaced by something else of the same name, and once faults have ended
  every worker serves the newest version and delta, which knows the newest click.
- Offsets are committed only when every click before them is answered.
- Once faults have ended everything is answered within a bound.

For an event log, "answered" means that it holds the click, once, as one of its topic.

What some faults cost is part of the promise, and no more than that may be missing:

- Clicks that were removed before they were read are not answered, nor in histories; they are
  counted.
- Clicks of a topic that was deleted need not be answered.
- Users whose keys Redis has dropped begin anew: their histories hold all that they clicked since,
  and of what they clicked before perhaps something. What they clicked before and was not committed
  then may stay unanswered, if a worker dies meanwhile: a known fault, see docs/guarantees.md.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nextclick.shared.schemas import Click, Recommendation
from nextclick.shared.windows import HISTORY_LENGTH
from nextclick.trainer.collect import Row
from tests.simulation.log import Record


def event_of(value: bytes | None) -> str:
    """The event id of a click or an answer, without reading the rest."""
    assert value is not None
    start = value.index(b'"event_id":"') + 12
    return value[start : value.index(b'"', start)].decode()


class _Where(NamedTuple):
    """Of a click."""

    user: str
    nth: int
    """Among the user's."""
    topic: int
    """Id of the topic."""
    partition: int
    offset: int


class _Dropped(NamedTuple):
    """Redis has dropped a user's key."""

    clicks: int
    """How many clicks of the user were on the topic then."""
    answered: Collection[str]
    """What was answered by then."""


@dataclass
class Oracle:
    """Hears what happens to Kafka, and finds what is wrong."""

    violations: list[str] = field(default_factory=list)
    _topic: int = 1
    """Id of the topic of clicks."""
    _clicks_on_topic: int = 0
    _where: dict[str, _Where] = field(default_factory=dict)
    _sequences: defaultdict[str, list[tuple[str, str]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """By user, event and item of each click."""
    _clicks: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Event ids, by partition."""
    _answered: set[str] = field(default_factory=set)
    """To a reader of committed messages, now or as soon as all markers are written."""
    _in_transactions: dict[int, list[str]] = field(default_factory=dict)
    _committed: dict[int, int] = field(default_factory=dict)
    _removed: set[str] = field(default_factory=set)
    """Removed from the topic, or gone with it."""
    _counted: set[str] = field(default_factory=set)
    """Those of them that have to be counted, if they were not read."""
    _dropped: defaultdict[str, list[_Dropped]] = field(default_factory=lambda: defaultdict(list))

    def clicked(self, click: Click, partition: int) -> None:
        """A click has been appended to the log."""
        sequence = self._sequences[click.user_id]
        clicks = self._clicks[partition]
        if not self._clicks_on_topic:
            # What was committed before is of a former topic.
            self._committed.clear()
        self._where[click.event_id] = _Where(
            click.user_id, len(sequence), self._topic, partition, len(clicks)
        )
        sequence.append((click.event_id, click.item_id))
        clicks.append(click.event_id)
        self._clicks_on_topic += 1

    def answered(self, producer: int, events: Sequence[str]) -> None:
        """Answers have been appended, in a transaction if the producer's id says so."""
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
                if event not in self._answered and event not in self._removed:
                    self.violations.append(
                        f"offset {offset} of partition {partition} was committed, "
                        f"and {event} is not answered"
                    )
                    break
            self._committed[partition] = max(known, offset)

    def removed(self, partition: int, before: int, *, counted: bool) -> None:
        """Clicks of a partition were removed, read or not; who has not read them `counted` them."""
        events = self._clicks[partition][:before]
        self._removed.update(events)
        if counted:
            self._counted.update(events)

    def topic_deleted(self) -> None:
        """There will be another one."""
        self._removed.update(self._where)
        self._topic += 1
        self._clicks.clear()
        self._clicks_on_topic = 0

    def dropped(self, user: str) -> None:
        """Redis knows nothing of a user any more."""
        self._dropped[user].append(_Dropped(len(self._sequences[user]), set(self._answered)))
        for event, _ in self._sequences[user]:
            where = self._where[event]
            if where.offset >= self._committed.get(where.partition, 0):
                self._removed.add(event)

    def submitted(self, versions: Iterable[str]) -> None:
        """A worker has scored a batch; the versions of the models that its answers name."""
        if len(set(versions)) > 1:
            self.violations.append(f"a batch has answers of the models {sorted(set(versions))}")

    def changed(self, path: str) -> None:
        """A file of a model version, or a delta, was replaced by one with another content."""
        self.violations.append(f"{path} was written twice, and is not the same")

    @property
    def all_is_answered(self) -> bool:
        """Whether every click that must be is."""
        return all(e in self._answered or e in self._removed for e in self._where)

    # At the end

    def judge(
        self,
        answers: Iterable[Record],
        items_of: Callable[[str, Sequence[str]], Sequence[str]],
        *,
        once: bool,
    ) -> None:
        """All answers that a reader of committed messages sees. `once`: no doubles.

        `items_of`: what a model version recommends for a history.
        """
        seen: dict[str, list[Recommendation]] = {}
        for record in answers:
            answer = Recommendation.model_validate_json(record.value or b"")
            seen.setdefault(answer.event_id, []).append(answer)
        for event, where in self._where.items():
            theirs = seen.pop(event, [])
            if not theirs:
                if event not in self._removed:
                    self.violations.append(f"{event} is not answered")
                continue
            if len(theirs) > 1 and once:
                self.violations.append(f"{event} is answered {len(theirs)} times")
            for number, answer in enumerate(theirs):
                self._judge_history(answer, where, again=number > 0)
                items = [item.item_id for item in answer.items]
                if items != items_of(answer.model_version, answer.history):
                    self.violations.append(
                        f"{event} has a list that is not of the model {answer.model_version}"
                    )
            if len({tuple(a.history) for a in theirs}) > 1 and not self._dropped[where.user]:
                self.violations.append(f"{event} has answers that differ")
        if seen:
            self.violations.append(f"answers to what nobody clicked: {sorted(seen)}")

    def _judge_history(self, answer: Recommendation, where: _Where, *, again: bool) -> None:
        """`again`: an answer to the same click is older."""
        sequence = self._sequences[where.user]
        # What came before this need not be in the history.
        first = max(
            (
                min(dropped.clicks, where.nth)
                for dropped in self._dropped[where.user]
                if again or answer.event_id not in dropped.answered
            ),
            default=0,
        )
        index = where.nth
        for item in reversed(answer.history):
            while index >= 0 and sequence[index][1] != item and self._is_lost(sequence[index][0]):
                index -= 1
            if index < 0 or sequence[index][1] != item:
                break
            index -= 1
        else:
            if answer.history and (
                len(answer.history) == HISTORY_LENGTH
                or all(self._is_lost(event) for event, _ in sequence[first : index + 1])
            ):
                return
        if self._dropped[where.user] and self._is_of_someone_dropped(
            answer, sequence, where, first
        ):
            return
        whole = [item for _, item in sequence[: where.nth + 1]][-HISTORY_LENGTH:]
        self.violations.append(
            f"{answer.event_id} has the history {answer.history}, not {whole}"
            + (f"; to begin after click {first} would do" if first else "")
        )

    def _is_of_someone_dropped(
        self,
        answer: Recommendation,
        sequence: Sequence[tuple[str, str]],
        where: _Where,
        first: int,
    ) -> bool:
        """Whether at least the right items are there.

        What was not committed when the key was dropped may come after what was appended since, in
        the same way in which it may stay unanswered.
        """
        before = {item for _, item in sequence[: where.nth]}
        must = {item for event, item in sequence[first : where.nth] if not self._is_lost(event)}
        *history, last = answer.history
        late = {item for event, item in sequence if event in self._removed}
        return (
            last == sequence[where.nth][1]
            and set(history) <= before | late
            and (len(history) == HISTORY_LENGTH - 1 or must <= set(history))
        )

    def _is_lost(self, event: str) -> bool:
        return event in self._removed and event not in self._answered

    def judge_counted(self, counted: int, *, exactly: bool) -> None:
        """How many clicks the product says were removed before they were read."""
        lost = {event for event in self._removed if self._is_lost(event)}
        least = len(lost & self._counted)
        if counted < least or (exactly and counted > len(lost)):
            self.violations.append(
                f"{counted} clicks are said to have been removed unread, "
                f"{least if counted < least else len(lost)} were"
            )

    def judge_log(self, rows: Sequence[tuple[str, Row]]) -> None:
        """What an event log holds: the id of its topic, and the row."""
        seen: Counter[str] = Counter()
        topics: dict[int, str] = {}
        for topic_id, row in rows:
            where = self._where[row.event_id]
            if (row.kafka_partition, row.kafka_offset) != (
                where.partition,
                where.offset,
            ) or topics.setdefault(where.topic, topic_id) != topic_id:
                self.violations.append(f"{row}, and lay at {where}")
            seen[row.event_id] += 1
        if len(set(topics.values())) < len(topics):
            self.violations.append(f"the log takes two topics for one: {topics}")
        for event in self._where:
            if not seen[event] and event not in self._removed:
                self.violations.append(f"{event} is not logged")
            if seen[event] > 1:
                self.violations.append(f"{event} is logged {seen[event]} times")
