"""confluent_kafka.Consumer, as far as nextclick uses it, on a simulated Kafka.

Rules of the model, and where they come from:

- Messages, rebalances, outcomes of commits and errors come through one queue, in order, and all
  callbacks are called inside `poll`, `consume` and `close` (librdkafka). Heartbeats, joining and
  fetching go on in the background.
- A call waits, without a time-out, until the call of another thread has returned; callbacks may
  call (confluent-kafka 2.16; seen: finding K1).
- `consume` may serve a rebalance between two messages that it returns (librdkafka before 2.4).
- Cooperative rebalancing (KIP-429): a member goes on while it joins a round; what it must give up
  is revoked after it, what it gets is assigned, and if it gave something up it joins another round.
- A member that Kafka does not know any more, that is of another generation, or that has not been
  answered for its session time-out has lost all it had: `on_lost` in the place of `on_revoke`, in
  the next poll. At once its group metadata names no member, and the old generation, which Kafka
  refuses (seen with librdkafka 2.16 on Kafka 4.1); of another generation, the member and none.
- Reading begins at the committed offset, asked for after the assignment, again while a transaction
  is open over it (KIP-447). Where there is none, and auto.offset.reset is `error`, it stops with
  _AUTO_OFFSET_RESET. `seek` fails before it has begun and after it has stopped (librdkafka,
  rd_kafka_toppar_seek).
  Where the committed offset, or the one that comes next, is not there any more it does the same.
- Eager rebalancing (`range`, KIP-62): a member gives up all it has before it joins a round.
- A static member that was away while partitions were added finds them there, and does not ask
  anybody to share them out: they are nobody's until the group rebalances.
- Partitions that are added, and topics that are deleted, are noticed with the next refresh of the
  metadata (topic.metadata.refresh.interval.ms); then a member joins a round (librdkafka).
- A topic that was made anew between two refreshes is the old one to a member: it reads on where it
  was (seen with librdkafka 2.16).
- Who is fenced as a static member has failed for good: _FATAL (seen: finding K2).
- A member that does not poll for max.poll.interval.ms leaves (KIP-62).
- `close` leaves the group, unless the member is static (KIP-345).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    TIMESTAMP_NOT_AVAILABLE,
    ConsumerGroupState,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
    Uuid,
)
from greenlet import getcurrent

from tests.simulation.cluster import Cluster
from tests.simulation.group import (
    Description,
    GroupMetadata,
    Joined,
    Synced,
    cooperative_sticky,
    range_assignor,
)
from tests.simulation.log import Partition, Record
from tests.simulation.network import BROKEN, RETRY_SECONDS, Connection, Reply, TimedOut
from tests.simulation.scheduler import Process, Signal

OnPartitions = Callable[["Consumer", list[TopicPartition]], None]

REBALANCE_IN_PROGRESS = int(KafkaError.REBALANCE_IN_PROGRESS)
UNKNOWN_MEMBER_ID = int(KafkaError.UNKNOWN_MEMBER_ID)
ILLEGAL_GENERATION = int(KafkaError.ILLEGAL_GENERATION)
UNKNOWN_TOPIC = -1
"""In the place of a topic's id."""
FENCED_INSTANCE_ID = int(KafkaError.FENCED_INSTANCE_ID)

JOINING, SYNCING, CALLING, STEADY = "joining", "syncing", "calling back", "steady"
MAX_POLL_MS = 300_000
METADATA_REFRESH_MS = 300_000
CLOSE_SECONDS = 5.0


class ReadMessage:
    """What confluent_kafka gives out; `error` is an error or None."""

    def __init__(
        self, topic: str, partition: int, offset: int, record: Record, error: KafkaError | None
    ) -> None:
        self._topic, self._partition, self._offset = topic, partition, offset
        self._record, self._error = record, error

    def error(self) -> KafkaError | None:
        return self._error

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return self._record.key

    def value(self) -> bytes | None:
        return self._record.value

    def headers(self) -> list[tuple[str, bytes]]:
        return list(self._record.headers)

    def timestamp(self) -> tuple[int, int]:
        return TIMESTAMP_NOT_AVAILABLE, 0


class Admin:
    """confluent_kafka.admin.AdminClient, as far as a ClickConsumer uses it."""

    def __init__(self, process: Process, cluster: Cluster) -> None:
        self._process = process
        self._cluster = cluster
        self._group = cluster.group
        self._topics = cluster.topics
        self._connection = Connection(process, cluster.server, "admin")

    def describe_topics(
        self, topics: TopicCollection, request_timeout: float
    ) -> dict[str, _TopicDescription]:
        """Metadata of topics."""
        described = {}
        for name in topics.topic_names:
            future = described[name] = _TopicDescription(self._process, request_timeout)
            self._connection.send(
                "describe topic", partial(self._describe_topic, name), future.answered
            )
        return described

    def _describe_topic(self, name: str, reply: Reply) -> None:
        found = name in self._topics
        reply((self._cluster.ids[name], self._topics[name]) if found else UNKNOWN_TOPIC)

    def describe_consumer_groups(
        self, names: Sequence[str], request_timeout: float
    ) -> dict[str, _Described]:
        """DescribeGroups, of the only group there is."""
        describe = partial(
            self._connection.request,
            "describe group",
            lambda reply: reply(self._group.describe()),
            request_timeout,
        )
        clicks = next(iter(self._topics))  # what the group reads
        return {name: _Described(describe, clicks) for name in names}


class _PartitionDescription(NamedTuple):
    id: int


class _TopicDescription:
    """A future, and what it holds."""

    def __init__(self, process: Process, timeout: float) -> None:
        self.partitions: list[_PartitionDescription] = []
        self._world = process.world
        self._came = Signal(process)
        self._deadline = process.world.now + timeout
        self._answer: Any = None

    def answered(self, answer: Any) -> None:
        self._answer = answer
        self._came.give()

    def done(self) -> bool:
        return self._answer is not None or self._world.now >= self._deadline

    def result(self) -> _TopicDescription:
        while not self.done():
            self._came.wait(self._deadline - self._world.now)
        if self._answer == UNKNOWN_TOPIC:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        if not isinstance(self._answer, tuple):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        number, count = self._answer
        self.topic_id = Uuid(1, number)
        self.partitions = [_PartitionDescription(partition) for partition in range(count)]
        return self


class _TopicMetadata:
    def __init__(self, count: int | None) -> None:
        self.partitions = dict.fromkeys(range(count or 0))
        self.error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART) if count is None else None


class _Metadata(NamedTuple):
    topics: dict[str, _TopicMetadata]


class _DescribedAssignment(NamedTuple):
    topic_partitions: Sequence[TopicPartition]


class _DescribedMember(NamedTuple):
    group_instance_id: str
    assignment: _DescribedAssignment


class _Described:
    """A future, and what it holds."""

    state = ConsumerGroupState.UNKNOWN

    def __init__(self, describe: Callable[[], Description], topic: str) -> None:
        self._describe = describe
        self._topic = topic
        self.members: list[_DescribedMember] = []

    def result(self) -> _Described:
        try:
            stable, members = self._describe()
        except TimedOut:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None
        if stable:
            self.state = ConsumerGroupState.STABLE
        for instance, partitions in members:
            places = [TopicPartition(self._topic, partition) for partition in partitions]
            self.members.append(_DescribedMember(instance, _DescribedAssignment(places)))
        return self


class _Reading:
    """Reads one partition from some offset on; another one takes its place after a seek."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.next: int | None = None
        """None: the committed offset is being asked for, or reading has stopped."""
        self.position = OFFSET_INVALID
        """Comes after the newest message that was given out."""
        self.told_end_at = -1


class _Read(NamedTuple):
    reading: _Reading
    offset: int
    record: Record


class _End(NamedTuple):
    reading: _Reading
    offset: int


class _Revoke(NamedTuple):
    partitions: Sequence[int]
    then_assign: Sequence[int]
    all: bool


class _Assign(NamedTuple):
    partitions: Sequence[int]


class _NoOffset(NamedTuple):
    reading: _Reading


class _Committed(NamedTuple):
    error: int
    places: list[TopicPartition]


_Item = _Read | _End | _NoOffset | _Revoke | _Assign | _Committed | KafkaError


class Consumer:
    """A client of one process."""

    def __init__(self, process: Process, cluster: Cluster, config: dict[str, Any]) -> None:
        strategy = config.get("partition.assignment.strategy", "range")
        self._incremental = strategy == "cooperative-sticky"
        self._assignor = cooperative_sticky if self._incremental else range_assignor
        self._process = process
        self._world = process.world
        self._cluster = cluster
        self._faults = cluster.server.faults
        self._instance: str = config.get("group.instance.id", "")
        self._session_seconds = config.get("session.timeout.ms", 45_000) / 1000
        self._heartbeat_seconds = config.get("heartbeat.interval.ms", 3000) / 1000
        self._max_poll_seconds = config.get("max.poll.interval.ms", MAX_POLL_MS) / 1000
        refresh_ms = config.get("topic.metadata.refresh.interval.ms", METADATA_REFRESH_MS)
        self._refresh_seconds = refresh_ms / 1000
        self._without_offset: str = config.get("auto.offset.reset", "latest")
        self._tells_end: bool = config.get("enable.partition.eof", False)
        self._committed_only = config.get("isolation.level") != "read_uncommitted"
        self._on_commit = config.get("on_commit")
        self._topic = ""
        self._subscribed = self._failed = False
        self._topic = ""
        self._subscribed = False
        self._queue: deque[_Item] = deque()
        self._news = Signal(process)
        self._coordinator = Connection(process, cluster.server, "group")
        self._data = Connection(process, cluster.server, "data")
        self._caller: object = None
        self._returned = Signal(process)
        self._member, self._generation = "", -1
        self._state = JOINING
        self._attempt = 0
        """Counts joins; answers to older ones are of no interest."""
        self._lost = False
        self._lose_later = False
        """What was assigned in the callback that is due or under way is lost, too."""
        self._readings: dict[int, _Reading] = {}
        self._assigned_by_callback = False
        self._heartbeat_under_way = False
        self._heard = 0.0
        self._polled = 0.0
        self._closed = False

    # The application's calls

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Wait until the call of another thread has returned."""
        me = getcurrent()
        if self._caller is me:
            yield
            return
        while self._caller is not None:
            self._returned.wait()
        self._caller = me
        try:
            yield
        finally:
            self._caller = None
            self._returned.give()

    def subscribe(
        self,
        topics: Sequence[str],
        on_assign: OnPartitions,
        on_revoke: OnPartitions = lambda _, partitions: None,
        on_lost: OnPartitions = lambda _, partitions: None,
    ) -> None:
        """Begin to join the group."""
        (self._topic,) = topics
        self._subscribed = True
        self._on_assign, self._on_revoke, self._on_lost = on_assign, on_revoke, on_lost
        self._polled = self._world.now
        self._partition_count = self._cluster.topics.get(self._topic, 0)
        """As the metadata say that we have."""
        self._refresh_at = self._world.now + self._refresh_seconds
        self._join()
        self._world.after(self._heartbeat_seconds, self._tick, self._process)

    def poll(self, timeout: float) -> ReadMessage | None:
        """Serve the queue until there is a message."""
        with self._exclusive():
            self._faults.at_point(self._process, "poll")
            deadline = self._world.now + timeout
            while True:
                self._polled = self._world.now
                message = self._next_message()
                if message is not None:
                    return message
                left = deadline - self._world.now
                if left <= 0:
                    return None
                if not self._news.wait(left):
                    self._process.sleep(self._faults.sluggishness())
                    deadline = self._world.now

    def consume(self, count: int, timeout: float) -> list[ReadMessage]:
        """Take what is there."""
        assert timeout == 0
        with self._exclusive():
            messages: list[ReadMessage] = []
            while len(messages) < count:
                message = self._next_message()
                if message is None:
                    break
                messages.append(message)
            return messages

    def commit(
        self, offsets: Sequence[TopicPartition], asynchronous: bool
    ) -> Sequence[TopicPartition] | None:
        """OffsetCommit; the outcome of an asynchronous one comes through the queue."""
        with self._exclusive():
            by = self._metadata()
            numbers = {place.partition: place.offset for place in offsets}
            commit = partial(self._cluster.group.commit, by, numbers)
            if asynchronous:
                self._commit_later(commit, list(offsets))
                return None
            error = self._coordinator.request("commit", lambda reply: reply(commit()), None)
            if error:
                raise KafkaException(KafkaError(error))
            return offsets

    def committed(self, places: Sequence[TopicPartition], timeout: float) -> list[TopicPartition]:
        """OffsetFetch, of what is stable."""
        with self._exclusive():
            deadline = self._world.now + timeout
            return [self._committed_of(place, deadline) for place in places]

    def _committed_of(self, place: TopicPartition, deadline: float) -> TopicPartition:
        group, partition = self._cluster.group, place.partition
        while True:
            try:
                offset = self._coordinator.request(
                    "fetch offset",
                    lambda reply: reply(group.fetch_offset(partition)),
                    deadline - self._world.now,
                )
            except TimedOut:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None
            if offset is not None:
                return TopicPartition(place.topic, partition, offset)
            if self._world.now + RETRY_SECONDS >= deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            self._process.sleep(RETRY_SECONDS)

    def seek(self, place: TopicPartition) -> None:
        """Read on from there."""
        with self._exclusive():
            self._faults.at_point(self._process, "seek")
            reading = self._readings.get(place.partition)
            if reading is None:
                raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))
            if reading.next is None:
                raise KafkaException(KafkaError(KafkaError._STATE))
            self._read_from(place)

    def consumer_group_metadata(self) -> GroupMetadata:
        """Who we are in the group now."""
        with self._exclusive():
            return self._metadata()

    def incremental_assign(self, partitions: Sequence[TopicPartition]) -> None:
        """Begin to read these, too."""
        with self._exclusive():
            self._assigned_by_callback = True
            for place in partitions:
                self._read_from(place)

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        """Begin to read these, and no others."""
        with self._exclusive():
            self._assigned_by_callback = True
            self._readings.clear()
            for place in partitions:
                self._topic = place.topic
                self._read_from(place)

    def _read_from(self, place: TopicPartition) -> None:
        reading = self._readings[place.partition] = _Reading(place.partition)
        if place.offset >= 0 or place.offset == OFFSET_BEGINNING:
            log = self._cluster.partitions.get((self._topic, place.partition))
            first = log.start if log is not None else 0
            reading.next = place.offset if place.offset >= 0 else first
            self._fetch(reading)
        else:
            self._begin_at_committed(reading)

    def position(self, places: Sequence[TopicPartition]) -> list[TopicPartition]:
        """After the newest message of each that was given out."""
        with self._exclusive():
            return [
                TopicPartition(
                    place.topic, place.partition, self._readings[place.partition].position
                )
                for place in places
            ]

    def incremental_unassign(self, partitions: Sequence[TopicPartition]) -> None:
        """Read these no more."""
        with self._exclusive():
            for place in partitions:
                self._readings.pop(place.partition, None)

    def get_watermark_offsets(self, place: TopicPartition, timeout: float) -> tuple[int, int]:
        """ListOffsets."""

        def list_offsets(reply: Reply) -> None:
            log = self._cluster.partitions.get((place.topic, place.partition))
            if log is None or log.led_from > self._world.now:
                reply(BROKEN)  # as good as: it is asked for again
            else:
                reply((log.start, len(log.records)))

        with self._exclusive():
            try:
                first, end = self._data.request("list offsets", list_offsets, timeout)
            except TimedOut:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None
            return first, end

    def list_topics(self, topic: str, timeout: float) -> _Metadata:
        """Metadata of one topic."""
        topics = self._cluster.topics
        with self._exclusive():
            try:
                count = self._data.request(
                    "metadata", lambda reply: reply(topics.get(topic)), timeout
                )
            except TimedOut:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None
            return _Metadata({topic: _TopicMetadata(count)})

    def close(self) -> None:
        """Leave the group."""
        with self._exclusive():
            self._faults.at_point(self._process, "close")
            if self._readings and self._subscribed and not self._failed:
                self._call(self._on_lost if self._lost else self._on_revoke, list(self._readings))
            self._readings.clear()
            self._closed = True
            if self._member and not self._instance:
                leave = partial(self._cluster.group.leave, self._member)
                with contextlib.suppress(TimedOut):
                    self._coordinator.request("leave", lambda reply: reply(leave()), CLOSE_SECONDS)

    def _metadata(self) -> GroupMetadata:
        return GroupMetadata(self._member, self._generation, self._instance)

    # The queue

    def _put(self, item: _Item) -> None:
        self._queue.append(item)
        self._news.give()

    def _next_message(self) -> ReadMessage | None:
        while self._queue:
            item = self._queue.popleft()
            if isinstance(item, _Read):
                partition = item.reading.partition
                if self._readings.get(partition) is item.reading:
                    item.reading.position = item.offset + 1
                    return ReadMessage(self._topic, partition, item.offset, item.record, None)
            elif isinstance(item, _End):
                partition = item.reading.partition
                if self._readings.get(partition) is item.reading:
                    error = KafkaError(KafkaError._PARTITION_EOF)
                    nothing = Record(None, None)
                    return ReadMessage(self._topic, partition, item.offset, nothing, error)
            elif isinstance(item, _NoOffset):
                error = KafkaError(KafkaError._AUTO_OFFSET_RESET, "no previously committed offset")
                partition = item.reading.partition
                if self._readings.get(partition) is item.reading:
                    return ReadMessage(self._topic, partition, -1, Record(None, None), error)
            elif isinstance(item, _Committed):
                refusal = KafkaError(item.error) if item.error else None
                if self._on_commit is not None:
                    self._on_commit(refusal, item.places)
            elif isinstance(item, _Revoke):
                self._serve_revoke(item)
            elif isinstance(item, _Assign):
                self._serve_assign(item)
            else:
                return ReadMessage(self._topic, -1, -1, Record(None, None), item)
        return None

    def _call(self, callback: OnPartitions, partitions: Sequence[int]) -> None:
        name = getattr(callback, "__name__", "callback").strip("_")
        self._world.say(self._process.name, f"{name} {sorted(partitions)}")
        callback(self, [TopicPartition(self._topic, partition) for partition in partitions])

    def _serve_revoke(self, item: _Revoke) -> None:
        partitions = list(self._readings) if item.all else item.partitions
        partitions = [p for p in partitions if p in self._readings]
        if partitions:
            self._call(self._on_lost if self._lost else self._on_revoke, partitions)
        for partition in partitions:
            self._readings.pop(partition, None)
        if item.all:
            self._lost = self._lose_later = False
            self._state = STEADY
            self._join()
        elif self._lose_later:
            self._lose_rest()
        elif item.then_assign:
            self._put(_Assign(item.then_assign))
            self._rejoin_after_assign = True
        else:
            self._state = STEADY
            self._join()

    _rejoin_after_assign = False

    def _serve_assign(self, item: _Assign) -> None:
        self._assigned_by_callback = False
        self._call(self._on_assign, item.partitions)
        if not self._assigned_by_callback:
            assign = self.incremental_assign if self._incremental else self.assign
            assign([TopicPartition(self._topic, p) for p in item.partitions])
        self._state = STEADY
        rejoin, self._rejoin_after_assign = self._rejoin_after_assign, False
        if self._lose_later:
            self._lose_rest()
        elif rejoin:
            self._join()

    def _rebalance(self) -> None:
        """A round has begun, or has to: take part."""
        if self._readings and not self._incremental:
            self._state = CALLING
            self._put(_Revoke((), (), all=True))
        else:
            self._join()

    def _lose_rest(self) -> None:
        self._lose_later = False
        self._state = CALLING
        self._put(_Revoke((), (), all=True))

    # The group, in the background

    def _join(self) -> None:
        if self._closed:
            return
        self._attempt += 1
        self._state = JOINING
        attempt = self._attempt
        group = self._cluster.group
        member, owned = self._member, sorted(self._readings)
        self._coordinator.send(
            "join",
            lambda reply: group.join(member, self._instance, owned, self._session_seconds, reply),
            lambda answer: self._joined(attempt, answer),
        )

    def _later(self, action: Callable[[], None]) -> None:
        attempt = self._attempt

        def if_still_wanted() -> None:
            if attempt == self._attempt:
                action()

        self._coordinator.reset()
        self._world.after(RETRY_SECONDS, if_still_wanted, self._process)

    def _joined(self, attempt: int, answer: Joined | Any) -> None:
        if attempt != self._attempt or self._closed:
            return
        if answer is BROKEN:
            self._later(self._join)
        elif answer.error == FENCED_INSTANCE_ID:
            self._fail()
        elif answer.error:
            self._lose(answer.error)
        else:
            self._member, self._generation = answer.member, answer.generation
            self._state = SYNCING
            self._heard = self._world.now
            assignment = None
            if answer.members is not None:  # the leader asks for the metadata, and remembers them
                self._partition_count = self._cluster.topics.get(self._topic, 0)
                assignment = self._assignor(answer.members, self._partition_count)
            self._sync(attempt, assignment)

    def _sync(self, attempt: int, assignment: Any) -> None:
        group = self._cluster.group
        by = self._metadata()
        self._coordinator.send(
            "sync",
            lambda reply: group.sync(by.member, by.instance, by.generation, assignment, reply),
            lambda answer: self._synced(attempt, assignment, answer),
        )

    def _synced(self, attempt: int, assignment: Any, answer: Synced | Any) -> None:
        if attempt != self._attempt or self._closed:
            return
        if answer is BROKEN:
            self._later(lambda: self._sync(attempt, assignment))
        elif answer.error == FENCED_INSTANCE_ID:
            self._fail()
        elif answer.error == REBALANCE_IN_PROGRESS:
            self._join()
        elif answer.error:
            self._lose(answer.error)
        else:
            self._heard = self._world.now
            new, owned = set(answer.partitions), set(self._readings)
            self._state = CALLING
            if gone := sorted(owned - new):
                self._put(_Revoke(gone, sorted(new - owned), all=False))
            else:
                self._put(_Assign(sorted(new - owned)))

    def _lose(self, error: int = UNKNOWN_MEMBER_ID) -> None:
        """Be no member any more."""
        self._attempt += 1
        if error == ILLEGAL_GENERATION:
            self._generation = -1
        else:
            self._member = ""
        if self._state == CALLING:  # a callback is due, or under way
            self._lost = self._lose_later = True
        elif self._readings:
            self._lost = True
            self._state = CALLING
            self._world.say(self._process.name, "has lost its partitions")
            self._put(_Revoke((), (), all=True))
        else:
            self._join()

    def _fail(self) -> None:
        self._closed = self._failed = self._lost = True
        self._member, self._generation = "", -1
        self._put(
            KafkaError(
                KafkaError._FATAL,
                "Fatal error: Broker: Static consumer fenced by other consumer with same "
                "group.instance.id",
            )
        )

    def _tick(self) -> None:
        """With each heartbeat."""
        if self._closed:
            return
        now = self._world.now
        self._world.after(self._heartbeat_seconds, self._tick, self._process)
        if self._state not in (STEADY, CALLING) or not self._member:
            return
        if now >= self._refresh_at and not self._cluster.server.down:
            self._refresh_at = now + self._refresh_seconds
            count = self._cluster.topics.get(self._topic, 0)
            if count != self._partition_count and self._state == STEADY:
                self._partition_count = count
                self._rebalance()
                return
        if now - self._polled > self._max_poll_seconds:
            leave = partial(self._cluster.group.leave, self._member)
            self._coordinator.send("leave", lambda reply: reply(leave()), lambda answer: None)
            self._lose()
        elif now - self._heard > self._session_seconds:
            self._coordinator.reset()
            self._heartbeat_under_way = False
            self._lose()
        elif not self._heartbeat_under_way:
            self._heartbeat_under_way = True
            by = self._metadata()
            beat = partial(self._cluster.group.heartbeat, by.member, by.instance, by.generation)
            self._coordinator.send(
                "heartbeat", lambda reply: reply(beat()), partial(self._beaten, by)
            )

    def _beaten(self, by: GroupMetadata, answer: Any) -> None:
        self._heartbeat_under_way = False
        if answer is BROKEN:
            self._coordinator.reset()
            return
        if self._closed or by != self._metadata():
            return
        if answer in (0, REBALANCE_IN_PROGRESS):
            self._heard = self._world.now
        if answer == REBALANCE_IN_PROGRESS and self._state == STEADY:
            self._rebalance()
        elif answer == FENCED_INSTANCE_ID:
            self._fail()
        elif answer in (UNKNOWN_MEMBER_ID, ILLEGAL_GENERATION):
            self._lose(answer)

    def _commit_later(self, commit: Callable[[], int], places: list[TopicPartition]) -> None:
        def answered(answer: Any) -> None:
            if answer is BROKEN:
                self._coordinator.reset()
                self._world.after(
                    RETRY_SECONDS, partial(self._commit_later, commit, places), self._process
                )
            else:
                self._put(_Committed(answer, places))

        self._coordinator.send("commit", lambda reply: reply(commit()), answered)

    # Reading, in the background

    def _begin_at_committed(self, reading: _Reading) -> None:
        group, partition = self._cluster.group, reading.partition

        def ask() -> None:
            if self._readings.get(partition) is reading:
                self._coordinator.send(
                    "fetch offset", lambda reply: reply(group.fetch_offset(partition)), answered
                )

        def answered(answer: Any) -> None:
            if self._readings.get(partition) is not reading:
                return
            if answer is BROKEN or answer is None:
                self._world.after(RETRY_SECONDS, ask, self._process)
            elif answer < 0:
                self._reset(reading)
            else:
                reading.next = answer
                self._fetch(reading)

        ask()

    def _reset(self, reading: _Reading) -> None:
        """There is no such offset, or it has gone."""
        log = self._cluster.partitions.get((self._topic, reading.partition))
        if self._without_offset == "error" or log is None:
            reading.next = None
            self._put(_NoOffset(reading))
        else:
            earliest = self._without_offset in ("earliest", "beginning", "smallest")
            reading.next = log.start if earliest else len(log.records)
            self._fetch(reading)

    def _fetch(self, reading: _Reading) -> None:
        if self._readings.get(reading.partition) is not reading:
            return
        again = partial(self._fetch, reading)
        log = self._cluster.partitions.get((self._topic, reading.partition))
        if log is None:
            self._world.after(RETRY_SECONDS, again, self._process)
            return
        if log.led_from > self._world.now:
            self._world.at(log.led_from + RETRY_SECONDS, again, self._process)
            return
        assert reading.next is not None
        if reading.next == self._end_of(log):
            if self._tells_end and reading.told_end_at != reading.next:
                reading.told_end_at = reading.next
                self._put(_End(reading, reading.next))
            log.when_longer.append(lambda: self._world.at(self._world.now, again, self._process))
        else:
            self._world.after(
                2 * self._faults.latency(), partial(self._fetched, reading), self._process
            )

    def _end_of(self, log: Partition) -> int:
        if log.transactional and self._committed_only:
            return log.stable_end()
        return len(log.records)

    def _fetched(self, reading: _Reading) -> None:
        if self._readings.get(reading.partition) is not reading:
            return
        log = self._cluster.partitions.get((self._topic, reading.partition))
        first = reading.next
        assert first is not None
        if self._cluster.server.down or log is None or log.led_from > self._world.now:
            self._world.after(RETRY_SECONDS, partial(self._fetch, reading), self._process)
            return
        count = self._end_of(log) - first
        if count < 0 or first < log.start:
            self._reset(reading)
            return
        if count > 1 and self._faults.choose(4) == 0:
            count = 1 + self._faults.choose(count)
        records = log.records
        for offset in range(first, first + count):
            record = records[offset]
            if record.marker is None and not (
                log.transactional and self._committed_only and log.is_aborted(offset)
            ):
                self._queue.append(_Read(reading, offset, record))
        reading.next = first + count
        self._news.give()
        self._fetch(reading)
