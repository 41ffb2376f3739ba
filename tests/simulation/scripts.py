"""Short histories that run on the simulated Kafka and on a real one, and must look alike.

Each is a function of a Lab, which makes clients: the simulated ones, or those of confluent_kafka.
What they see is written down as lines of text; test_scripts.py compares the lines. A line says
nothing that may differ from run to run: where an assignor is free to choose, it has the number of
partitions and not which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)

SECONDS = 20.0
"""How long something may take that is waited for."""
REQUEST_SECONDS = 10.0
MEMBER = {
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": 6_000,
    "heartbeat.interval.ms": 300,
    "topic.metadata.refresh.interval.ms": 1_000,
}


class Lab(Protocol):
    """A Kafka with one topic and one group, for one script."""

    topic: str
    group: str
    lines: list[str]
    members: list[Member]

    def make_consumer(self, config: dict[str, Any]) -> Any:
        """A consumer of the group."""
        ...

    def make_producer(self, config: dict[str, Any]) -> Any:
        """A producer."""
        ...

    def make_admin(self) -> Any:
        """An AdminClient."""
        ...

    def now(self) -> float:
        """Seconds."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        ...

    def add_partitions(self, count: int) -> None:
        """So many more."""
        ...

    def remove_records(self, partition: int, before: int) -> None:
        """DeleteRecords."""
        ...

    def delete_topic(self) -> None:
        """Return when it has gone."""
        ...

    def create_topic(self, partitions: int) -> None:
        """Return when it is there."""
        ...


Script = Callable[[Lab], None]


@dataclass(frozen=True)
class Entry:
    """A script, and how much it takes."""

    run: Script
    partitions: int
    is_long: bool

    @property
    def name(self) -> str:
        """For people."""
        return self.run.__name__.replace("_", " ")


SCRIPTS: list[Entry] = []


def script(*, partitions: int = 2, long: bool = False) -> Callable[[Script], Script]:
    """Add a function to SCRIPTS."""

    def add(run: Script) -> Script:
        SCRIPTS.append(Entry(run, partitions, long))
        return run

    return add


def observe(lab: Lab, entry: Entry) -> list[str]:
    """Run a script; what was seen, line by line: of the lab, and then of each member."""
    try:
        entry.run(lab)
    finally:
        for member in lab.members:
            member.close()
    return [*lab.lines, *(line for member in lab.members for line in member.lines)]


def outcome(call: Callable[[], object]) -> str:
    """How a call ended."""
    try:
        call()
    except KafkaException as raised:
        return said(raised.args[0])
    return "done"


def said(error: KafkaError) -> str:
    """An error, as far as nextclick looks at it."""
    flags = [
        flag
        for flag, is_set in (
            ("fatal", error.fatal() or error.code() == KafkaError._FATAL),
            ("abort", error.txn_requires_abort()),
        )
        if is_set
    ]
    # Why a client has failed for good stands in the text only, and is nothing to us.
    name = "failed for good" if "fatal" in flags else error.name()
    return " ".join([name, *flags])


class Member:
    """A consumer, and what it has seen."""

    def __init__(self, lab: Lab, name: str, **config: Any) -> None:
        """config: with underscores for dots; `counts` notes how many partitions, not which."""
        self.counts = config.pop("counts", False)
        self.name = name
        self.lines: list[str] = []
        self.assigned: set[int] = set()
        self.failed = False
        self._lab = lab
        self._closed = False
        self.read: list[tuple[int, int]] = []
        dotted = {key.replace("_", "."): value for key, value in config.items()}
        self.client = lab.make_consumer({**MEMBER, "on_commit": self._committed, **dotted})
        lab.members.append(self)

    def join(self) -> Member:
        """Subscribe."""
        self.client.subscribe(
            [self._lab.topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )
        return self

    def poll(self, timeout: float = 0.02) -> None:
        """Once."""
        if self._closed:
            return
        message = self.client.poll(timeout)
        if message is None:
            return
        error = message.error()
        if error is None:
            self.read.append((message.partition(), message.offset()))
        else:
            self.failed = self.failed or error.code() == KafkaError._FATAL
            where = message.partition()
            of_one = error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError._PARTITION_EOF)
            self.note(f"error {said(error)}" + (f" of {where}" if of_one else ""))

    def note(self, line: str) -> None:
        """Write down."""
        self.lines.append(f"{self.name}: {line}")

    def commit(self, offsets: dict[int, int]) -> str:
        """And wait; how it ended."""
        places = [TopicPartition(self._lab.topic, p, o) for p, o in offsets.items()]
        return outcome(lambda: _raise_of(self.client.commit(offsets=places, asynchronous=False)))

    def commit_later(self, offsets: dict[int, int]) -> None:
        """The outcome is noted by a poll."""
        places = [TopicPartition(self._lab.topic, p, o) for p, o in offsets.items()]
        self.client.commit(offsets=places, asynchronous=True)

    def committed(self, *partitions: int, timeout: float = REQUEST_SECONDS) -> str:
        """What the group has committed; - is nothing."""
        places = [TopicPartition(self._lab.topic, p) for p in partitions]
        try:
            found = self.client.committed(places, timeout=timeout)
        except KafkaException as raised:
            return said(raised.args[0])
        return " ".join(str(p.offset) if p.offset >= 0 else "-" for p in found)

    def seek(self, partition: int, offset: int) -> str:
        """How it ended."""
        place = TopicPartition(self._lab.topic, partition, offset)
        return outcome(lambda: self.client.seek(place))

    def held(self, partition: int) -> str:
        """The watermarks."""
        place = TopicPartition(self._lab.topic, partition)
        first, end = self.client.get_watermark_offsets(place, timeout=REQUEST_SECONDS)
        return f"{first} to {end}"

    def close(self) -> None:
        """Leave."""
        if not self._closed:
            self._closed = True
            self.client.close()

    def _on_assign(self, client: Any, places: Sequence[TopicPartition]) -> None:
        self.assigned |= {place.partition for place in places}
        self._note_of("assigned", places)

    def _on_revoke(self, client: Any, places: Sequence[TopicPartition]) -> None:
        self.assigned -= {place.partition for place in places}
        self._note_of("revoked", places)

    def _on_lost(self, client: Any, places: Sequence[TopicPartition]) -> None:
        self.assigned -= {place.partition for place in places}
        self._note_of("lost", places)

    def _note_of(self, what: str, places: Sequence[TopicPartition]) -> None:
        numbers = sorted(place.partition for place in places)
        if self._closed:
            what += " on closing"
        if numbers:  # a round that changes nothing may be told or not
            self.note(f"{what} {len(numbers) if self.counts else numbers}")

    def _committed(self, error: KafkaError | None, places: Sequence[TopicPartition]) -> None:
        self.note(f"commit: {'done' if error is None else said(error)}")


def _raise_of(places: Sequence[TopicPartition] | None) -> None:
    for place in places or ():
        if place.error is not None:
            raise KafkaException(place.error)


def until(lab: Lab, condition: Callable[[], bool], what: str) -> None:
    """Poll all members in turn until something holds."""
    deadline = lab.now() + SECONDS
    while not condition():
        assert lab.now() < deadline, f"not within {SECONDS:g} s: {what}; {lab.lines}"
        for member in lab.members:
            member.poll()
        if not lab.members:
            lab.sleep(0.02)


def has(*wanted: tuple[Member, int]) -> Callable[[], bool]:
    """Whether members have so many partitions."""
    return lambda: all(len(member.assigned) == count for member, count in wanted)


def put(lab: Lab, partition: int, count: int) -> None:
    """Append messages, without a transaction."""
    producer = lab.make_producer({})
    send(lab, producer, partition, count)
    assert producer.flush(REQUEST_SECONDS) == 0


def send(lab: Lab, producer: Any, partition: int, count: int) -> None:
    """Produce messages."""
    for number in range(count):
        producer.produce(
            lab.topic, b"v%d" % number, b"k", partition=partition, on_delivery=lambda *_: None
        )


def transactional(lab: Lab, name: str = "id", **config: Any) -> Any:
    """A transactional producer that is ready."""
    dotted = {key.replace("_", "."): value for key, value in config.items()}
    producer = lab.make_producer({"transactional.id": f"{lab.group}-{name}", **dotted})
    producer.init_transactions(REQUEST_SECONDS)
    return producer


def places(lab: Lab, offsets: dict[int, int]) -> list[TopicPartition]:
    """For send_offsets_to_transaction."""
    return [TopicPartition(lab.topic, p, o) for p, o in offsets.items()]


def reader(lab: Lab, partition: int = 0, **config: Any) -> Member:
    """Reads a partition from its beginning, as no member of the group."""
    member = Member(lab, "reader", **config)
    member.client.assign([TopicPartition(lab.topic, partition, OFFSET_BEGINNING)])
    return member


def offsets_read(member: Member) -> str:
    """In their order."""
    return " ".join(str(offset) for _, offset in member.read)


# Membership


@script(partitions=4)
def a_member_alone_has_all_partitions(lab: Lab) -> None:
    a = Member(lab, "a").join()
    until(lab, has((a, 4)), "assigned")
    a.close()


@script(partitions=4)
def a_second_member_is_given_half(lab: Lab) -> None:
    a = Member(lab, "a", counts=True).join()
    until(lab, has((a, 4)), "a has all")
    b = Member(lab, "b", counts=True).join()
    until(lab, has((a, 2), (b, 2)), "halves")
    b.close()
    until(lab, has((a, 4)), "a has all again")


@script(partitions=4)
def with_range_everything_is_given_up_first(lab: Lab) -> None:
    a = Member(lab, "a", counts=True, partition_assignment_strategy="range").join()
    until(lab, has((a, 4)), "a has all")
    b = Member(lab, "b", counts=True, partition_assignment_strategy="range").join()
    until(lab, has((a, 2), (b, 2)), "halves")
    b.close()
    until(lab, has((a, 4)), "a has all again")


@script(partitions=1)
def a_member_too_many_has_nothing(lab: Lab) -> None:
    a = Member(lab, "a").join()
    until(lab, has((a, 1)), "a has all")
    b = Member(lab, "b").join()
    until(lab, lambda: instances(lab, members=True) == 2, "b is in")
    a.close()
    until(lab, has((b, 1)), "b has all")


def instances(lab: Lab, *, members: bool = False) -> Any:
    """The static members of the group by name, or how many members there are at all."""
    group = lab.make_admin().describe_consumer_groups([lab.group], request_timeout=REQUEST_SECONDS)[
        lab.group
    ]
    found = group.result().members
    if members:
        return len(found)
    return sorted(m.group_instance_id for m in found if m.group_instance_id)


@script(partitions=4)
def static_members_are_known_by_name(lab: Lab) -> None:
    a = Member(lab, "a", counts=True, group_instance_id="one").join()
    b = Member(lab, "b", counts=True, group_instance_id="two").join()
    until(lab, has((a, 2), (b, 2)), "halves")
    a.lines.clear()
    b.lines.clear()
    lab.lines.append(f"{instances(lab)}")


@script(partitions=4)
def a_static_member_comes_back_and_nobody_else_notices(lab: Lab) -> None:
    a = Member(lab, "a", counts=True, group_instance_id="one").join()
    until(lab, has((a, 4)), "a has all")
    b = Member(lab, "b", counts=True, group_instance_id="two").join()
    until(lab, has((a, 2), (b, 2)), "halves")
    before = set(b.assigned)
    a.lines.clear()
    b.close()
    b.lines.clear()
    again = Member(lab, "b again", counts=True, group_instance_id="two").join()
    until(lab, has((again, 2)), "the same")
    lab.lines.append(f"the same partitions: {again.assigned == before}")


@script()
def who_joins_under_a_name_shuts_out_the_other(lab: Lab) -> None:
    a = Member(lab, "a", group_instance_id="one").join()
    until(lab, has((a, 2)), "a has all")
    b = Member(lab, "b", group_instance_id="one").join()
    until(lab, lambda: has((b, 2))() and a.failed, "b has all, and a hears of it")
    lab.lines.append(f"b commits: {b.commit({0: 1})}")


@script(long=True)
def a_static_member_that_is_gone_has_its_partitions_for_its_session(lab: Lab) -> None:
    a = Member(lab, "a", counts=True, group_instance_id="one").join()
    b = Member(lab, "b", counts=True, group_instance_id="two").join()
    until(lab, has((a, 1), (b, 1)), "halves")
    a.lines.clear()
    b.lines.clear()
    a.close()
    a.lines.clear()
    gone = lab.now()
    until(lab, has((b, 2)), "b has all")
    lab.lines.append(f"after 5 s: {lab.now() - gone > 5}")


@script(long=True)
def who_does_not_poll_leaves_and_loses_what_it_had(lab: Lab) -> None:
    put(lab, 0, 3)
    a = Member(lab, "a", max_poll_interval_ms=6_000).join()
    until(lab, has((a, 2)), "a has all")
    lab.lines.append(f"a commits: {a.commit({0: 1})}")
    lab.sleep(8)
    lab.lines.append(f"a commits too late: {a.commit({0: 2})}")
    lab.lines.append(f"committed: {a.committed(0)}")
    until(lab, lambda: any("lost" in line for line in a.lines), "a hears of it")
    until(lab, has((a, 2)), "a is back")
    a.lines = [line for line in a.lines if "error" not in line]


@script(partitions=2)
def added_partitions_are_found(lab: Lab) -> None:
    a = Member(lab, "a").join()
    until(lab, has((a, 2)), "a has two")
    lab.add_partitions(1)
    until(lab, has((a, 3)), "a has three")
    a.close()


@script(long=True)
def partitions_that_are_added_while_a_static_member_is_away_are_nobodys(lab: Lab) -> None:
    a = Member(lab, "a", group_instance_id="one").join()
    until(lab, has((a, 2)), "a has two")
    a.close()
    a.lines.clear()
    lab.add_partitions(1)
    again = Member(lab, "a again", group_instance_id="one").join()
    until(lab, has((again, 2)), "a has them again")
    later = lab.now() + 5
    until(lab, lambda: lab.now() > later, "five refreshes of the metadata")


# Offsets


@script()
def offsets_are_committed_and_read_on_from(lab: Lab) -> None:
    put(lab, 0, 5)
    a = Member(lab, "a").join()
    until(lab, lambda: len(a.read) == 5, "all is read")
    lab.lines.append(f"nothing yet: {a.committed(0, 1)}")
    lab.lines.append(f"a commits: {a.commit({0: 3})}")
    lab.lines.append(f"committed: {a.committed(0, 1)}")
    a.close()
    b = Member(lab, "b").join()
    until(lab, lambda: len(b.read) == 2, "the rest is read")
    lab.lines.append(f"b reads {offsets_read(b)}")


@script()
def an_asynchronous_commit_is_heard_of_in_a_poll(lab: Lab) -> None:
    a = Member(lab, "a").join()
    until(lab, has((a, 2)), "a has all")
    a.lines.clear()
    a.commit_later({0: 7})
    until(lab, lambda: bool([line for line in a.lines if "commit" in line]), "the outcome")
    lab.lines.append(f"committed: {a.committed(0)}")
    a.lines = [line for line in a.lines if "commit" in line]


@script(partitions=2)
def who_has_a_partition_is_not_looked_at_in_a_commit(lab: Lab) -> None:
    a = Member(lab, "a", counts=True).join()
    until(lab, has((a, 2)), "a has all")
    b = Member(lab, "b", counts=True).join()
    until(lab, has((a, 1), (b, 1)), "halves")
    lab.lines.append(f"a commits both: {a.commit({0: 3, 1: 4})}")
    lab.lines.append(f"committed: {a.committed(0, 1)}")


@script()
def who_is_no_member_commits_in_an_empty_group_only(lab: Lab) -> None:
    outside = Member(lab, "outside")
    lab.lines.append(f"nobody is in: {outside.commit({0: 2})}")
    a = Member(lab, "a").join()
    until(lab, has((a, 2)), "a has all")
    lab.lines.append(f"a is in: {outside.commit({0: 3})}")
    lab.lines.append(f"committed: {a.committed(0)}")
    a.lines.clear()


@script()
def an_older_offset_replaces_a_newer_one(lab: Lab) -> None:
    a = Member(lab, "a").join()
    until(lab, has((a, 2)), "a has all")
    lab.lines.append(f"{a.commit({0: 9})}, {a.commit({0: 4})}: {a.committed(0)}")
    a.lines.clear()


@script()
def without_an_offset_reading_stops_with_an_error(lab: Lab) -> None:
    put(lab, 0, 1)
    a = Member(lab, "a", auto_offset_reset="error").join()
    until(lab, lambda: len([line for line in a.lines if "error" in line]) == 2, "both stop")
    lab.lines.append(f"seek: {a.seek(0, 0)}")
    a.client.incremental_unassign(places(lab, {0: 0}))
    a.client.incremental_assign(places(lab, {0: 0}))
    until(lab, lambda: a.read == [(0, 0)], "it is read")
    a.lines.sort()


@script(partitions=1)
def an_offset_that_has_been_removed_stops_reading(lab: Lab) -> None:
    put(lab, 0, 6)
    a = Member(lab, "a").join()
    until(lab, lambda: len(a.read) == 6, "all is read")
    lab.lines.append(f"a commits: {a.commit({0: 2})}")
    a.close()
    a.lines.clear()
    lab.remove_records(0, 4)
    lab.lines.append(f"held: {a_reader_of(lab).held(0)}")
    b = Member(lab, "b", auto_offset_reset="error").join()
    until(lab, lambda: any("error" in line for line in b.lines), "b is told")


@script(partitions=1)
def records_removed_under_a_reader(lab: Lab) -> None:
    put(lab, 0, 6)
    a = reader(lab)
    until(lab, lambda: len(a.read) == 6, "all is read")
    lab.remove_records(0, 6)
    put(lab, 0, 2)
    until(lab, lambda: len(a.read) == 8, "the new ones are read")
    lab.lines.append(f"{offsets_read(a)}; held: {a.held(0)}")


def a_reader_of(lab: Lab) -> Member:
    """Who asks only."""
    return Member(lab, "asks")


@script(partitions=1)
def seeking_reads_again(lab: Lab) -> None:
    put(lab, 0, 3)
    a = Member(lab, "a").join()
    lab.lines.append(f"before it is assigned: {a.seek(0, 0)}")
    until(lab, lambda: len(a.read) == 3, "all is read")
    lab.lines.append(f"afterwards: {a.seek(0, 1)}")
    until(lab, lambda: len(a.read) == 5, "two are read again")
    lab.lines.append(offsets_read(a))
    a.lines.clear()


@script(partitions=1)
def a_position_is_what_was_given_out(lab: Lab) -> None:
    """Also where reading was begun at some offset: finding of the simulation, with range."""
    put(lab, 0, 3)
    a = Member(lab, "a")
    a.client.assign(places(lab, {0: 1}))
    lab.lines.append(f"at first: {position(lab, a)}")
    until(lab, lambda: len(a.read) == 2, "the rest is read")
    lab.lines.append(f"then: {position(lab, a)}")


def position(lab: Lab, member: Member) -> str:
    """Of partition 0."""
    offset = member.client.position(places(lab, {0: 0}))[0].offset
    return "none" if offset == OFFSET_INVALID else str(offset)


@script(partitions=1)
def the_end_of_a_partition_is_told(lab: Lab) -> None:
    put(lab, 0, 2)
    a = reader(lab, enable_partition_eof=True)
    until(lab, lambda: bool(a.lines), "the end")
    put(lab, 0, 1)
    until(lab, lambda: len(a.lines) == 2, "the end again")
    lab.lines.append(offsets_read(a))


# Topics


def topic_id(lab: Lab) -> Any:
    """KIP-516."""
    asked = lab.make_admin().describe_topics(
        TopicCollection([lab.topic]), request_timeout=REQUEST_SECONDS
    )
    found = asked[lab.topic].result().topic_id
    return found.get_most_significant_bits(), found.get_least_significant_bits()


@script()
def a_topic_made_anew_has_another_id_and_no_offsets(lab: Lab) -> None:
    put(lab, 0, 3)
    a = Member(lab, "a").join()
    until(lab, lambda: len(a.read) == 3, "all is read")
    lab.lines.append(f"a commits: {a.commit({0: 3})}")
    a.close()
    a.lines.clear()
    before = topic_id(lab)
    lab.lines.append(f"the same id: {topic_id(lab) == before}")
    lab.delete_topic()
    lab.lines.append(f"deleted: {outcome(lambda: topic_id(lab))}")
    lab.create_topic(2)
    asks = a_reader_of(lab)
    lab.lines.append(f"the same id: {topic_id(lab) == before}")
    lab.lines.append(f"committed: {asks.committed(0)}; held: {asks.held(0)}")


# Producers and transactions


@script(partitions=1)
def messages_of_a_producer_keep_their_order(lab: Lab) -> None:
    put(lab, 0, 50)
    a = reader(lab)
    until(lab, lambda: len(a.read) == 50, "all is read")
    lab.lines.append(f"in order: {a.read == [(0, n) for n in range(50)]}")


@script(partitions=1)
def a_transaction_is_seen_when_it_is_committed(lab: Lab) -> None:
    producer, committed = transactional(lab), reader(lab)
    anything = reader(lab, isolation_level="read_uncommitted")
    producer.begin_transaction()
    send(lab, producer, 0, 2)
    assert producer.flush(REQUEST_SECONDS) == 0
    put(lab, 0, 1)
    until(lab, lambda: len(anything.read) == 3, "it is there")
    lab.lines.append(f"before: {offsets_read(committed)}")
    lab.lines.append(f"commit: {outcome(lambda: producer.commit_transaction(REQUEST_SECONDS))}")
    until(lab, lambda: len(committed.read) == 3, "it is seen")
    put(lab, 0, 1)
    until(lab, lambda: len(committed.read) == 4, "what follows is seen")
    lab.lines.append(f"after: {offsets_read(committed)}; held: {committed.held(0)}")


@script(partitions=1)
def an_aborted_transaction_is_never_seen(lab: Lab) -> None:
    producer, committed = transactional(lab), reader(lab)
    producer.begin_transaction()
    send(lab, producer, 0, 2)
    assert producer.flush(REQUEST_SECONDS) == 0
    lab.lines.append(f"abort: {outcome(lambda: producer.abort_transaction(REQUEST_SECONDS))}")
    producer.begin_transaction()
    send(lab, producer, 0, 1)
    lab.lines.append(f"commit: {outcome(lambda: producer.commit_transaction(REQUEST_SECONDS))}")
    until(lab, lambda: len(committed.read) == 1, "the second is seen")
    lab.lines.append(f"{offsets_read(committed)}; held: {committed.held(0)}")


@script(partitions=1)
def who_takes_the_id_aborts_and_fences(lab: Lab) -> None:
    first = transactional(lab)
    first.begin_transaction()
    send(lab, first, 0, 2)
    assert first.flush(REQUEST_SECONDS) == 0
    second = transactional(lab)
    lab.lines.append(f"first: {outcome(lambda: first.commit_transaction(REQUEST_SECONDS))}")
    lab.lines.append(f"begins: {outcome(first.begin_transaction)}")
    lab.lines.append(f"aborts: {outcome(lambda: first.abort_transaction(REQUEST_SECONDS))}")
    second.begin_transaction()
    send(lab, second, 0, 1)
    lab.lines.append(f"second: {outcome(lambda: second.commit_transaction(REQUEST_SECONDS))}")
    committed = reader(lab)
    until(lab, lambda: len(committed.read) == 1, "the second's is seen")
    lab.lines.append(offsets_read(committed))


@script(partitions=1)
def calls_in_a_wrong_order(lab: Lab) -> None:
    producer = transactional(lab)
    lab.lines.append(f"produce: {outcome(lambda: send(lab, producer, 0, 1))}")
    lab.lines.append(f"commit: {outcome(lambda: producer.commit_transaction(REQUEST_SECONDS))}")
    producer.begin_transaction()
    lab.lines.append(f"begin twice: {outcome(producer.begin_transaction)}")
    lab.lines.append(f"empty: {outcome(lambda: producer.commit_transaction(REQUEST_SECONDS))}")


@script(long=True)
def a_transaction_that_times_out_is_aborted(lab: Lab) -> None:
    producer, committed = transactional(lab, transaction_timeout_ms=1_000), reader(lab)
    producer.begin_transaction()
    send(lab, producer, 0, 1)
    assert producer.flush(REQUEST_SECONDS) == 0
    put(lab, 0, 1)
    until(lab, lambda: len(committed.read) == 1, "readers go on")
    lab.lines.append(f"seen: {offsets_read(committed)}")
    lab.lines.append(f"commit: {outcome(lambda: producer.commit_transaction(REQUEST_SECONDS))}")


@script()
def offsets_in_a_transaction_count_when_it_is_committed(lab: Lab) -> None:
    a, producer = Member(lab, "a").join(), transactional(lab)
    until(lab, has((a, 2)), "a has all")
    a.lines.clear()
    producer.begin_transaction()
    sent = outcome(lambda: offer(lab, producer, a.client.consumer_group_metadata(), {0: 5}))
    lab.lines.append(f"offsets: {sent}")
    lab.lines.append(f"while it is open: {a.committed(0, timeout=1.0)}")
    lab.lines.append(f"of another partition: {a.committed(1, timeout=1.0)}")
    lab.lines.append(f"commit: {outcome(lambda: producer.commit_transaction(REQUEST_SECONDS))}")
    lab.lines.append(f"committed: {a.committed(0)}")
    producer.begin_transaction()
    offer(lab, producer, a.client.consumer_group_metadata(), {0: 8})
    lab.lines.append(f"abort: {outcome(lambda: producer.abort_transaction(REQUEST_SECONDS))}")
    lab.lines.append(f"committed: {a.committed(0)}")


def offer(lab: Lab, producer: Any, metadata: Any, offsets: dict[int, int]) -> None:
    """send_offsets_to_transaction."""
    producer.send_offsets_to_transaction(places(lab, offsets), metadata, REQUEST_SECONDS)


@script()
def offsets_of_an_older_generation_are_refused(lab: Lab) -> None:
    a, producer = Member(lab, "a", counts=True).join(), transactional(lab)
    until(lab, has((a, 2)), "a has all")
    before = a.client.consumer_group_metadata()
    b = Member(lab, "b", counts=True).join()
    until(lab, has((a, 1), (b, 1)), "halves")
    producer.begin_transaction()
    send(lab, producer, 0, 1)
    lab.lines.append(f"older: {outcome(lambda: offer(lab, producer, before, {0: 5}))}")
    lab.lines.append(f"produce: {outcome(lambda: send(lab, producer, 0, 1))}")
    lab.lines.append(f"commit: {outcome(lambda: producer.commit_transaction(REQUEST_SECONDS))}")
    lab.lines.append(f"abort: {outcome(lambda: producer.abort_transaction(REQUEST_SECONDS))}")
    producer.begin_transaction()
    now = a.client.consumer_group_metadata()
    lab.lines.append(f"now: {outcome(lambda: offer(lab, producer, now, {0: 6}))}")
    lab.lines.append(f"commit: {outcome(lambda: producer.commit_transaction(REQUEST_SECONDS))}")
    lab.lines.append(f"committed: {a.committed(0)}")
    a.lines.clear()
    b.lines.clear()


@script()
def offsets_of_who_has_left_are_refused(lab: Lab) -> None:
    a, producer = Member(lab, "a").join(), transactional(lab)
    until(lab, has((a, 2)), "a has all")
    before = a.client.consumer_group_metadata()
    a.close()
    a.lines.clear()
    producer.begin_transaction()
    lab.lines.append(f"{outcome(lambda: offer(lab, producer, before, {0: 5}))}")
    lab.lines.append(f"abort: {outcome(lambda: producer.abort_transaction(REQUEST_SECONDS))}")


@script()
def offsets_of_who_was_shut_out_are_refused(lab: Lab) -> None:
    a, producer = Member(lab, "a", group_instance_id="one").join(), transactional(lab)
    until(lab, has((a, 2)), "a has all")
    before = a.client.consumer_group_metadata()
    b = Member(lab, "b", group_instance_id="one").join()
    until(lab, has((b, 2)), "b has all")
    producer.begin_transaction()
    lab.lines.append(f"{outcome(lambda: offer(lab, producer, before, {0: 5}))}")
    lab.lines.append(f"abort: {outcome(lambda: producer.abort_transaction(REQUEST_SECONDS))}")
    a.lines.clear()
    b.lines.clear()


@script()
def offsets_of_nobody_are_taken(lab: Lab) -> None:
    a, producer = Member(lab, "a").join(), transactional(lab)
    until(lab, has((a, 2)), "a has all")
    a.lines.clear()
    nobody = Member(lab, "nobody").client.consumer_group_metadata()
    producer.begin_transaction()
    lab.lines.append(f"{outcome(lambda: offer(lab, producer, nobody, {0: 5}))}")
    lab.lines.append(f"commit: {outcome(lambda: producer.commit_transaction(REQUEST_SECONDS))}")
    lab.lines.append(f"committed: {a.committed(0)}")


@script()
def a_transaction_of_two_partitions_is_seen_on_both(lab: Lab) -> None:
    producer = transactional(lab)
    producer.begin_transaction()
    send(lab, producer, 0, 1)
    send(lab, producer, 1, 2)
    lab.lines.append(f"commit: {outcome(lambda: producer.commit_transaction(REQUEST_SECONDS))}")
    zero, one = reader(lab, 0), reader(lab, 1)
    until(lab, lambda: len(zero.read) == 1 and len(one.read) == 2, "all is seen")
    lab.lines.append(f"held: {zero.held(0)}, {zero.held(1)}")
