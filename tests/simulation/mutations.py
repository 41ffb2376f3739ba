"""Promises broken on purpose: with each of them the simulation must find a violation."""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

from nextclick.services.worker import decide, loop
from nextclick.services.worker.at_least_once import AtLeastOnce
from nextclick.services.worker.exactly_once import ExactlyOnce
from nextclick.services.worker.guarantee import Batch
from nextclick.services.worker.guard import Guard
from nextclick.services.worker.loop import Worker
from nextclick.shared.errors import CommitRefused, Unavailable
from nextclick.shared.kafka import ClickConsumer, Publisher, TransactionalPublisher, consumer
from nextclick.shared.kafka.client import REQUEST_SECONDS
from nextclick.shared.kafka.commits import Commits
from nextclick.shared.kafka.positions import Positions
from nextclick.shared.kafka.publisher import Receipt
from nextclick.shared.kafka.unassigned import UnassignedPartitions
from nextclick.shared.messages import Message, OutMessage, offsets_after
from nextclick.shared.model.delta import Delta
from nextclick.shared.redis import RedisSessions, sessions
from nextclick.shared.registry import ModelSlot, Registry, ServedModel
from nextclick.shared.registry.registry import NEWEST_DELTA
from nextclick.trainer.collect.collector import Collector
from nextclick.trainer.data import ClickLog
from nextclick.trainer.learn import learning
from nextclick.trainer.learn.learning import learn
from tests.simulation.faults import (
    ADDED,
    AT_LEAST_ONCE,
    DELTAS,
    DIES_AFTER,
    EVENT_LOG,
    EXACTLY_ONCE,
    HELD,
    MADE_ANEW,
    QUIET_SECONDS,
    REMOVED,
    Fault,
    Scenario,
)
from tests.simulation.group import GroupMetadata
from tests.simulation.history import Result, run

SEEDS = 5_000
"""So many are looked at for each, about a minute of an idle core."""

Break = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutation:
    """A promise, under which guarantee it is broken, and how."""

    name: str
    guarantee: str
    break_it: Break
    adapt: Callable[[Scenario], Scenario] = lambda drawn: drawn
    """Makes likely what it takes, where that is rare."""


@dataclass(frozen=True)
class Found:
    """The first history that violates something."""

    result: Result
    seeds: int
    seconds: float


def find(
    guarantee: str, seeds: int, adapt: Callable[[Scenario], Scenario] = lambda drawn: drawn
) -> Found | None:
    """Look for a violation, seed by seed."""
    began = time.monotonic()
    for seed in range(seeds):
        result = run(seed, guarantee, adapt=adapt)
        if result.violations:
            return Found(result, seed + 1, time.monotonic() - began)
    return None


def commit_ahead_of_acknowledgement(patch: pytest.MonkeyPatch) -> None:
    """Offsets are committed while the answers are still on their way."""
    send = Publisher.send

    def send_and_forget(self: Publisher, messages: Iterable[OutMessage]) -> Receipt:
        send(self, messages)
        return Receipt()

    patch.setattr(Publisher, "send", send_and_forget)
    patch.setattr(Publisher, "wait_acknowledged", lambda self, timeout=0.0: None)


def acknowledged_out_of_order(patch: pytest.MonkeyPatch) -> None:
    """A batch is committed although one before it is not acknowledged."""

    def note_acknowledged(self: AtLeastOnce) -> None:
        for batch in [b for b in self._produced if b.receipt.outstanding == 0]:
            self._produced.remove(batch)
            self._acknowledged.append(batch)

    patch.setattr(AtLeastOnce, "_note_acknowledged", note_acknowledged)


def offsets_of_one_transaction_out_of_order(patch: pytest.MonkeyPatch) -> None:
    """Of the batches in one transaction, not the newest but the oldest offset counts."""
    begin = TransactionalPublisher.begin

    def begin_with_oldest(
        self: TransactionalPublisher,
        messages: Sequence[OutMessage],
        offsets: Mapping[int, int],
        *rest: Any,
    ) -> Any:
        oldest: dict[int, int] = {}
        for batch in begun[-1]:
            oldest = {**batch.offsets, **oldest}
        return begin(self, messages, oldest, *rest)

    begun: deque[Sequence[Batch]] = deque(maxlen=1)
    original = ExactlyOnce._begin

    def note(self: ExactlyOnce) -> None:
        begun.append(list(self._queued))
        original(self)

    patch.setattr(ExactlyOnce, "_begin", note)
    patch.setattr(TransactionalPublisher, "begin", begin_with_oldest)


def offsets_outside_the_transaction(patch: pytest.MonkeyPatch) -> None:
    """Offsets are committed after the transaction instead of in it."""
    begin, end = TransactionalPublisher.begin, ExactlyOnce._end

    def begin_without_offsets(
        self: TransactionalPublisher, messages: Any, offsets: Any, *rest: Any
    ) -> Any:
        return begin(self, messages, {}, *rest)

    def end_then_commit(self: ExactlyOnce) -> None:
        transaction = self._open
        end(self)
        if transaction is not None:
            for batch in transaction.batches:
                self._consumer.commit_now(batch.offsets)

    patch.setattr(TransactionalPublisher, "begin", begin_without_offsets)
    patch.setattr(ExactlyOnce, "_end", end_then_commit)


def no_group_metadata(patch: pytest.MonkeyPatch) -> None:
    """A transaction does not say which member of the group commits."""
    patch.setattr(ClickConsumer, "group_metadata", lambda self: GroupMetadata("", -1, ""))


def metadata_from_before_a_rebalance(patch: pytest.MonkeyPatch) -> None:
    """What the group was when the first batch was read is shown for ever."""
    original = ClickConsumer.group_metadata

    def first(self: ClickConsumer) -> Any:
        known = self.__dict__.setdefault("first_metadata", None)
        if known is None:
            known = self.__dict__["first_metadata"] = original(self)
        return known

    patch.setattr(ClickConsumer, "group_metadata", first)


def go_on_after_an_unknown_outcome(patch: pytest.MonkeyPatch) -> None:
    """The producer asks again until it works, instead of being thrown away."""
    original = TransactionalPublisher._abort

    def ask_again(self: TransactionalPublisher, producer: Any, raised: KafkaException) -> None:
        while "commit_transaction timed out" in raised.args[0].str():
            try:
                producer.commit_transaction(REQUEST_SECONDS)
                return
            except KafkaException as again:
                raised = again
        original(self, producer, raised)

    patch.setattr(TransactionalPublisher, "_abort", ask_again)


def no_rewind(patch: pytest.MonkeyPatch) -> None:
    """After a refused commit the worker reads on from where it is."""
    patch.setattr(ClickConsumer, "seek_to_committed", lambda self: None)


def rewind_to_what_is_remembered(patch: pytest.MonkeyPatch) -> None:
    """K4: the worker goes back to what it committed itself, whoever has had the partition since."""
    end, poll = ExactlyOnce._end, ClickConsumer.poll

    def remembered(member: ClickConsumer) -> dict[int, int]:
        found: dict[int, int] = member.__dict__.setdefault("remembered", {})
        return found

    def poll_and_remember(self: ClickConsumer, *arguments: Any) -> list[Message]:
        messages = poll(self, *arguments)
        for message in messages:
            remembered(self).setdefault(message.partition, message.offset)
        return messages

    def end_and_remember(self: ExactlyOnce) -> None:
        transaction = self._open
        end(self)
        if transaction is not None:
            for batch in transaction.batches:
                remembered(self._consumer).update(batch.offsets)

    def seek(self: ClickConsumer) -> None:
        for partition in self.assignment:
            offset = remembered(self).get(partition, OFFSET_BEGINNING)
            try:
                self._membership.client.seek(TopicPartition(self.topic, partition, offset))
            except KafkaException:
                continue

    patch.setattr(ClickConsumer, "poll", poll_and_remember)
    patch.setattr(ExactlyOnce, "_end", end_and_remember)
    patch.setattr(ClickConsumer, "seek_to_committed", seek)


def append_twice(patch: pytest.MonkeyPatch) -> None:
    """Sessions recognise no click that they hold, nor how far they have come."""
    numbers = count()
    patch.setattr(sessions, "event_digest", lambda event_id: next(numbers).to_bytes(8, "big"))
    append = RedisSessions.append
    patch.setattr(RedisSessions, "append", lambda self, clicks, places=None: append(self, clicks))


def replay_depth_too_small(patch: pytest.MonkeyPatch) -> None:
    """Of one user more clicks may be uncommitted than can be replayed exactly.

    ENTRIES_KEPT would allow one more than MAX_UNCOMMITTED_CLICKS_PER_USER; two more are too many.
    """
    patch.setattr(
        loop, "MAX_UNCOMMITTED_CLICKS_PER_USER", sessions.MAX_UNCOMMITTED_CLICKS_PER_USER + 2
    )


def answer_from_revoked_partitions(patch: pytest.MonkeyPatch) -> None:
    """What was read of a partition is answered although it has gone."""

    kept = ClickConsumer._kept

    def keep_all(self: ClickConsumer, raws: Sequence[Any]) -> list[Message]:
        self._revoked.clear()
        return kept(self, raws)

    patch.setattr(ClickConsumer, "_kept", keep_all)
    patch.setattr(Worker, "_drop_partitions", lambda self, partitions: None)


def wait_for_a_second_thread_in_a_rebalance(patch: pytest.MonkeyPatch) -> None:
    """K1: within a callback, a commit by another thread, which waits for the poll that calls it."""
    commit_now = ClickConsumer.commit_now

    def in_a_thread(self: ClickConsumer, offsets: Mapping[int, int]) -> None:
        within, self._within_callback = self._within_callback, False
        try:
            while True:
                try:
                    commit_now(self, offsets)
                    return
                except Unavailable:
                    if not within:
                        raise
        finally:
            self._within_callback = within

    patch.setattr(ClickConsumer, "commit_now", in_a_thread)


def late_commit_ends_the_worker(patch: pytest.MonkeyPatch) -> None:
    """As it was: how an older commit ended is raised by the next one."""
    commit_now = ClickConsumer.commit_now

    def wait_first(self: ClickConsumer, offsets: Mapping[int, int]) -> None:
        self._commits._wait_for_call()
        commit_now(self, offsets)

    patch.setattr(ClickConsumer, "commit_now", wait_first)


def count_what_was_committed_before_an_abort(patch: pytest.MonkeyPatch) -> None:
    """As it was: after going back, batches from before it are taken off the uncommitted ones."""
    settle = ExactlyOnce._settle

    def settle_and_keep(self: ExactlyOnce) -> None:
        settled = self._committed
        try:
            settle(self)
        except CommitRefused:
            self._committed = kept[-1] if kept else settled
            raise

    kept: deque[list[Batch]] = deque(maxlen=1)
    end = ExactlyOnce._end

    def end_and_keep(self: ExactlyOnce) -> None:
        kept.append(list(self._committed))
        end(self)
        kept.append(list(self._committed))

    patch.setattr(ExactlyOnce, "_end", end_and_keep)
    patch.setattr(ExactlyOnce, "_settle", settle_and_keep)


def refused_transaction_taken_for_committed(patch: pytest.MonkeyPatch) -> None:
    """Nobody hears that a transaction was aborted."""
    end = ExactlyOnce._end

    def end_quietly(self: ExactlyOnce) -> None:
        try:
            end(self)
        except CommitRefused:
            self._outcome_unknown = False

    patch.setattr(ExactlyOnce, "_end", end_quietly)


def uncommitted_clicks_not_counted(patch: pytest.MonkeyPatch) -> None:
    """A batch is as large as it likes, however many of its clicks are one user's."""

    def take_all(
        waiting: deque[decide.DecodedMessage], max_messages: int, *_: object
    ) -> list[decide.DecodedMessage]:
        return [waiting.popleft() for _ in range(min(max_messages, len(waiting)))]

    patch.setattr(decide, "take_batch", take_all)


def unassigned_partitions_are_left(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks whether the group has left partitions to nobody."""
    patch.setattr(UnassignedPartitions, "look", lambda self: None)


def swap_within_a_batch(patch: pytest.MonkeyPatch) -> None:
    """The slot is read again for all clicks of a batch but the first."""
    answer, recommend = Worker._answer, Guard.recommend

    def answer_with_slot(self: Worker, batch: list[decide.DecodedMessage]) -> None:
        self.arms.guard.__dict__["slot"] = self.slot
        answer(self, batch)

    def recommend_with_both(self: Guard, model: Any, requests: Any, *_: Any) -> Any:
        _, (first,) = recommend(self, model, requests[:1])
        model, (rest,) = recommend(self, self.__dict__["slot"].model, requests[1:])
        return model, [first + rest]

    patch.setattr(Worker, "_answer", answer_with_slot)
    patch.setattr(Guard, "recommend", recommend_with_both)


def commit_ahead_of_append(patch: pytest.MonkeyPatch) -> None:
    """The collector commits what it has read, and then writes it to the event log."""
    flush = Collector.flush

    def commit_first(self: Collector) -> None:
        if self._unlogged:
            with contextlib.suppress(CommitRefused):
                self.until_available(self.consumer.commit_now, offsets_after(self._unlogged))
        flush(self)

    patch.setattr(Collector, "flush", commit_first)


def log_what_was_revoked(patch: pytest.MonkeyPatch) -> None:
    """As it was: what the collector has read of a partition is logged although that has gone."""
    patch.setattr(Collector, "_forget", lambda self, partitions: None)


def topic_not_asked_for_before_the_append(patch: pytest.MonkeyPatch) -> None:
    """K5: clicks are logged whatever topic they are of."""
    patch.setattr(Collector, "_topic_changed", lambda self: False)


def removed_clicks_not_counted(patch: pytest.MonkeyPatch) -> None:
    """K9: reading goes on where the partition begins now, without a word."""
    patch.setattr(Positions, "start", lambda self, partition, wanted, held: held.start)


def forget_what_is_not_read(patch: pytest.MonkeyPatch) -> None:
    """As it was: going back, who does not read a partition is taken for somebody who does."""
    patch.setattr(Positions, "go_back", lambda self, partition: self.forget([partition]))


def take_commits_of_a_former_topic(patch: pytest.MonkeyPatch) -> None:
    """As it was: what was committed of a topic that is no more counts for the one of its name."""
    patch.setattr(Commits, "heard", Commits._ended)


def read_on_from_the_clients_position(patch: pytest.MonkeyPatch) -> None:
    """As it was: with eager assignment, the client is asked where the other partitions are."""

    def read_from(self: ClickConsumer, starts: Mapping[int, int]) -> None:
        others = [TopicPartition(self.topic, p) for p in self.assignment - starts.keys()]
        places = [TopicPartition(self.topic, p, offset) for p, offset in starts.items()]
        self._client.assign([*self._client.position(others), *places])

    patch.setattr(ClickConsumer, "_read_from", read_from)


def partitions_found_late(patch: pytest.MonkeyPatch) -> None:
    """K8: librdkafka's own time between two looks at the metadata."""
    patch.setattr(consumer, "METADATA_REFRESH_MS", 300_000)


def delta_not_named(patch: pytest.MonkeyPatch) -> None:
    """Lists by a delta name its base alone."""
    patch.setattr(ServedModel, "name", property(lambda self: self.version))


def delta_outlives_its_base(patch: pytest.MonkeyPatch) -> None:
    """A version that takes over is served under the number of the last delta of the one before."""
    swap = ModelSlot._swap

    def swap_and_keep(self: ModelSlot, version: str, **options: Any) -> None:
        before = self._model
        swap(self, version, **options)
        if before is not None and self._model is not None:
            self._model = replace(self._model, delta=before.delta)

    patch.setattr(ModelSlot, "_swap", swap_and_keep)


def delta_named_before_it_serves(patch: pytest.MonkeyPatch) -> None:
    """The slot takes a delta's number at once, and its scorer when it has been loaded."""
    take = ModelSlot._take_delta

    def number_first(self: ModelSlot, served: ServedModel) -> None:
        number = self._registry.newest_delta(served.version)
        if number is not None and number != served.delta:
            self._model = replace(served, delta=number)
            self._registry.load_delta(served.version, number)
            self._model = served
        take(self, served)

    patch.setattr(ModelSlot, "_take_delta", number_first)


def delta_named_before_it_is_there(patch: pytest.MonkeyPatch) -> None:
    """`delta.json` is written first, and then the delta."""
    add = Registry._add

    def name_first(self: Registry, name: str, content: bytes) -> None:
        base, _, file = name.partition("/")
        number = int(file.removeprefix("delta-"))
        self._replace(f"{base}/{NEWEST_DELTA}", json.dumps({"number": number}).encode())
        add(self, name, content)

    patch.setattr(Registry, "_add", name_first)


def number_of_a_delta_used_twice(patch: pytest.MonkeyPatch) -> None:
    """As it was: who made a delta and died before it was named makes another of its number."""

    def named(self: Registry, version: str) -> list[int]:
        newest = self.newest_delta(version)
        return [] if newest is None else [newest]

    patch.setattr(Registry, "delta_numbers", named)
    patch.setattr(Registry, "_add", lambda self, name, content: self._replace(name, content))


def delta_of_the_newest_clicks_alone(patch: pytest.MonkeyPatch) -> None:
    """A delta counts what came since the one before, which it replaces."""

    def learn_new(log: ClickLog, base: Any, version: str, *rest: Any) -> Delta | None:
        before, learned[version] = learned.get(version, 0), len(log.items)
        *rest, _ = rest
        return learn(log, base, version, *rest, len(log.items) - before)

    learned: dict[str, int] = {}
    patch.setattr(learning, "learn", learn_new)


def commits_held(drawn: Scenario) -> Scenario:
    """A stream of clicks, slow requests, and commits that are held for long."""
    return replace(
        drawn,
        clicks=tuple((number * 0.4, number % 4) for number in range(75)),
        max_batch=2,
        slowest=0.3,
        rates=((HELD, 0.003),),
        focus="commit_transaction",
        timed=(),
        quiet_after=20.0,
    )


def busy_user(drawn: Scenario) -> Scenario:
    """All clicks are of one user, and there before anybody reads."""
    return replace(drawn, users=1, clicks=tuple((0.0, 0) for _ in range(75)))


def made_anew(drawn: Scenario) -> Scenario:
    """The topic is made anew while there are clicks on it."""
    begins = drawn.quiet_after + QUIET_SECONDS
    return replace(
        drawn,
        clicks=tuple((0.0, n % 4) for n in range(30)) + tuple((begins, n % 4) for n in range(30)),
        timed=(Fault(-1, MADE_ANEW, 1.0, at=1.0),),
    )


def removed(drawn: Scenario) -> Scenario:
    """Clicks are removed before anybody has read them."""
    return replace(drawn, timed=tuple(Fault(-n, REMOVED, at=n * 0.5) for n in (1, 2, 3, 4)))


def trainer_dies(drawn: Scenario) -> Scenario:
    """Often just after it has sent a delta, while there are clicks all the time."""
    return replace(
        drawn,
        clicks=tuple((number * 0.2, number % 4) for number in range(75)),
        timed=(),
        rates=((DIES_AFTER, 0.01),),
        focus="bucket pipe_file",
        swap_seconds=0.0,
        delta_seconds=0.5,
        quiet_after=20.0,
    )


def slow(drawn: Scenario) -> Scenario:
    """Requests take up to two seconds."""
    return replace(drawn, slowest=2.0, timed=(), swap_seconds=0.0)


def busy_user_who_stays(drawn: Scenario) -> Scenario:
    """The same, and neither partitions nor models change more than they must."""
    return replace(busy_user(drawn), max_batch=8, assignor="cooperative-sticky", swap_seconds=0.0)


def eager(drawn: Scenario) -> Scenario:
    """Every rebalance takes everything."""
    return replace(drawn, assignor="range", timed=(), rates=())


def added(drawn: Scenario) -> Scenario:
    """Partitions are added, and clicked on."""
    clicks = tuple((2.0 + n, 1000 * (n % 2) + n) for n in range(10))
    return replace(drawn, static=False, clicks=clicks, timed=(Fault(-1, ADDED, at=1.0),))


MUTATIONS = [
    Mutation("a swap within a batch, or a delta", DELTAS, swap_within_a_batch),
    Mutation("a delta is not named", DELTAS, delta_not_named),
    Mutation("a delta outlives its base", DELTAS, delta_outlives_its_base),
    Mutation("a delta is named before it serves", DELTAS, delta_named_before_it_serves),
    Mutation("a delta is named before it is there", DELTAS, delta_named_before_it_is_there, slow),
    Mutation("a delta's number is used twice", DELTAS, number_of_a_delta_used_twice, trainer_dies),
    Mutation("a delta of the newest clicks alone", DELTAS, delta_of_the_newest_clicks_alone),
    Mutation("a swap within a batch", AT_LEAST_ONCE, swap_within_a_batch),
    Mutation("collector commits ahead of its append", EVENT_LOG, commit_ahead_of_append),
    Mutation("collector logs what was revoked", EVENT_LOG, log_what_was_revoked),
    Mutation(
        "collector does not ask which topic it is",
        EVENT_LOG,
        topic_not_asked_for_before_the_append,
        made_anew,
    ),
    Mutation("removed clicks not counted", AT_LEAST_ONCE, removed_clicks_not_counted, removed),
    Mutation(
        "reads on from the client's position",
        EXACTLY_ONCE,
        read_on_from_the_clients_position,
        eager,
    ),
    Mutation(
        "going back forgets what is not read", EXACTLY_ONCE, forget_what_is_not_read, made_anew
    ),
    Mutation(
        "takes commits of a former topic", AT_LEAST_ONCE, take_commits_of_a_former_topic, made_anew
    ),
    Mutation("added partitions found late", AT_LEAST_ONCE, partitions_found_late, added),
    Mutation("commit ahead of acknowledgement", AT_LEAST_ONCE, commit_ahead_of_acknowledgement),
    Mutation("batches acknowledged out of order", AT_LEAST_ONCE, acknowledged_out_of_order),
    Mutation("Redis append not idempotent", AT_LEAST_ONCE, append_twice),
    Mutation("replay depth too small", AT_LEAST_ONCE, replay_depth_too_small, busy_user),
    Mutation(
        "uncommitted clicks not counted", AT_LEAST_ONCE, uncommitted_clicks_not_counted, busy_user
    ),
    Mutation(
        "waits for a second thread in a rebalance",
        AT_LEAST_ONCE,
        wait_for_a_second_thread_in_a_rebalance,
    ),
    Mutation("a late commit ends the worker", AT_LEAST_ONCE, late_commit_ends_the_worker),
    Mutation("unassigned partitions are left", AT_LEAST_ONCE, unassigned_partitions_are_left),
    Mutation(
        "offsets of one transaction out of order",
        EXACTLY_ONCE,
        offsets_of_one_transaction_out_of_order,
    ),
    Mutation("offsets outside the transaction", EXACTLY_ONCE, offsets_outside_the_transaction),
    Mutation("no group metadata", EXACTLY_ONCE, no_group_metadata),
    Mutation("metadata from before a rebalance", EXACTLY_ONCE, metadata_from_before_a_rebalance),
    Mutation(
        "goes on after an unknown outcome",
        EXACTLY_ONCE,
        go_on_after_an_unknown_outcome,
        commits_held,
    ),
    Mutation("no rewind after a refused commit", EXACTLY_ONCE, no_rewind),
    Mutation("rewinds to what is remembered", EXACTLY_ONCE, rewind_to_what_is_remembered),
    Mutation(
        "refused transaction taken for committed",
        EXACTLY_ONCE,
        refused_transaction_taken_for_committed,
    ),
    Mutation(
        "counts what was committed before an abort",
        EXACTLY_ONCE,
        count_what_was_committed_before_an_abort,
        busy_user_who_stays,
    ),
    Mutation("answers from revoked partitions", EXACTLY_ONCE, answer_from_revoked_partitions),
]
