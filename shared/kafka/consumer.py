"""A member of a consumer group.

One thread owns a ClickConsumer and makes every call: since confluent-kafka 2.16 a call waits until
the call of another thread has returned, so a second thread that commits while the first is inside
`poll` would stop both for ever in a rebalance. Commits are therefore asynchronous: the outcome
arrives within a later `poll`. Only `commit_now`, for partitions that are given up and for the
end, waits.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_STORED,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
    libversion,
)
from confluent_kafka import Message as RawMessage

from nextclick.shared.errors import (
    CommitRefused,
    Fenced,
    NextclickError,
    Unavailable,
)
from nextclick.shared.kafka.background import BackgroundCall
from nextclick.shared.kafka.client import (
    BULK,
    LOW_LATENCY,
    MISCONFIGURED,
    REQUEST_SECONDS,
    MakeClient,
    Permission,
    client_config,
    failed,
    make_client,
    poll_raw,
    read_message,
    unavailable,
)
from nextclick.shared.kafka.members import instance_ids
from nextclick.shared.kafka.positions import Positions
from nextclick.shared.kafka.topic_id import TopicId
from nextclick.shared.messages import Message
from nextclick.shared.runtime.rate_limit import RateLimit
from nextclick.shared.runtime.settings import KafkaSettings

log = logging.getLogger(__name__)

SESSION_TIMEOUT_MS = 10_000
"""Without a heartbeat for so long a member counts as dead and others take its partitions."""

HEARTBEAT_INTERVAL_MS = 500
"""Members hear of a rebalance by their heartbeats: with the default of 3 s partitions are without
an owner for up to 3 s each time that a member joins or leaves."""

NAME_TAKEN_SESSIONS = 1.5
"""A member of our `instance_id` that is still there after so many session time-outs is another
process: one that we left behind ourselves sends no heartbeats, and the group has dropped it by
then."""

BROKERS_SESSION_TIMEOUT_MS = 45_000
"""The default of Kafka, which goes for KIP-848 (group.consumer.session.timeout.ms)."""

LOGIN_SECONDS = 3.0
"""A broker that lets us in answers within so long."""

READS_NEW_TOPICS = 0x02100000
"""librdkafka 2.16. One of 2.6 takes the leaders of a topic that was made anew for old news, for
their epochs begin at 0 again, and never fetches from them."""

METADATA_REFRESH_MS = 5_000
"""New partitions of the topic are found within so long."""

_GROUP_HAS_MOVED_ON = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.STALE_MEMBER_EPOCH,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._ASSIGNMENT_LOST,
    KafkaError._STATE,
}

_FENCED = {KafkaError.FENCED_INSTANCE_ID, KafkaError.FENCED_MEMBER_EPOCH, KafkaError._FENCED}


class ClickConsumer:
    """A member of a consumer group that reads one topic in micro-batches.

    Rebalances happen inside `poll` and `close` only.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        group_id: str,
        *,
        seek: Callable[[Sequence[int]], dict[int, int]] | None = None,
        instance_id: str = "",
        bulk: bool = False,
        clock: Callable[[], float] = time.monotonic,
        make_client: MakeClient = make_client,
        background: Callable[[str, Callable[[], object]], BackgroundCall] = BackgroundCall,
    ) -> None:
        """Prepare the client; the group is joined with the first poll.

        `seek`, given the partitions just assigned, may name offsets to start from instead of
        the committed ones. It is called within `poll`, which raises what it raises; after
        Unavailable it is asked again.
        With an `instance_id` the membership is static (KIP-345): whoever joins under it next,
        say after a crash, takes the partitions over at once; without one the group waits
        SESSION_TIMEOUT_MS for the dead.
        `bulk`: read in few large pieces, and allow for hours between two polls.
        `make_client` and `background` make the client and its calls; a simulation has its own.
        """
        self._settings = settings
        self._make_client = make_client
        self._background = background
        self.topic = topic
        self._group_id = group_id
        self._instance_id = instance_id
        self._bulk = bulk
        self._clock = clock
        self._seek = seek
        self._subscribed = False
        self._shut_out: KafkaError | None = None
        """Why the client is no member of the group any more, and cannot become one again."""
        self._shut_out_at = 0.0
        self._revoked: set[int] = set()
        """Partitions that were revoked within the poll under way."""
        self._failure: NextclickError | None = None
        """What a callback wants `poll` to raise: librdkafka's own work must be done first."""
        self._positions = Positions()
        self._topic_id = TopicId(settings, topic, clock, make_client)
        self._made_anew = False
        self._commit_warnings = RateLimit()
        self._login_error: KafkaError | None = None
        self._login_checks = RateLimit(clock)
        self._call: BackgroundCall | None = None
        """A call that has not returned yet."""
        self._within_callback = False
        self.on_revoke: Callable[[], None] = _do_nothing
        """Called while partitions that are about to go are still ours."""
        self.on_lost: Callable[[], None] = _do_nothing
        """Called when the group has already given partitions to others."""
        self.on_removed: Callable[[set[int]], None] = lambda partitions: None
        """Called after either with the partitions: nothing of theirs is ours any more."""
        self.assignment: set[int] = set()
        """Partitions that are ours now."""
        self.joined = False
        """The group has told us which they are; none, if there are more members than partitions."""
        self.read_to_end: set[int] = set()
        """Those of them whose end was reached since; kept up to date with `bulk` only."""
        self.committed: dict[int, int] = {}
        """By partition of ours, the newest offset that Kafka has confirmed to us."""
        self.committing = False
        """A commit is under way."""
        self._commits_unheard = 0
        """Asynchronous ones whose outcome a poll has not served yet."""
        self._commits_void = 0
        """So many of them, the oldest, are of a topic that is no more."""
        self._overtaken: dict[int, int] = {}
        """Offsets to commit again: the client has repeated an older commit after them."""
        config = {
            "group.id": group_id,
            "enable.auto.commit": False,
            # Where reading goes on when offsets are gone is for us to say: what they held is lost.
            "auto.offset.reset": "error",
            "enable.partition.eof": bulk,
            "on_commit": self._on_commit_ended,
            "error_cb": self._on_error,
            "topic.metadata.refresh.interval.ms": METADATA_REFRESH_MS,
            **({"group.instance.id": instance_id} if instance_id else {}),
            **(BULK if bulk else LOW_LATENCY),
            **client_config(settings),
        }
        if config.get("group.protocol") != "consumer":  # KIP-848 has these on the broker
            config = {
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": SESSION_TIMEOUT_MS,
                "heartbeat.interval.ms": HEARTBEAT_INTERVAL_MS,
                **config,
            }
        strategy = str(config.get("partition.assignment.strategy", "cooperative"))
        self._incremental = "cooperative" in strategy
        self._config = config
        self._consumer = make_client(Consumer, config)

    def poll(self, max_messages: int, timeout: float) -> list[Message]:
        """Wait up to `timeout` seconds for a message; return it and what else is at hand.

        One click is never held back to fill a batch, while under load batches fill by
        themselves. Messages of partitions that were revoked meanwhile are left out: their new
        owner reads them. Raises Fenced if somebody else has joined under our `instance_id`,
        ConfigurationError for what time does not heal, Unavailable while a commit before it has not
        returned, and while it is not known whose `instance_id` it is.
        """
        if self._shut_out is not None:
            self._join_anew(self._shut_out)
        if not self._subscribed:
            self._consumer.subscribe(
                [self.topic],
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
            self._subscribed = True
        if self._call is not None:
            with contextlib.suppress(KafkaException):
                self._wait_for_call()
        if not self._bulk and self._topic_id.has_changed_lately():
            self.read_anew()
        self._place()
        if self._overtaken and not self.committing:
            self.commit(self._overtaken)
        self._revoked.clear()
        raws = poll_raw(self._consumer, max_messages, timeout)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        messages = self._kept(raws)
        if self._login_error is not None and self._login_checks.allow():
            self._check_login(self._login_error)
        if not messages:  # else it can wait: it may raise
            self._place()
        return messages

    def topic_id(self) -> str:
        """What tells the topic from others that had or will have its name; may be empty.

        Raises Unavailable if Kafka does not answer. With `bulk` the caller has to look at it before
        it makes durable what it has read; else `poll` does, about once a second.
        """
        return self._topic_id.read()

    def read_anew(self) -> None:
        """Forget everything: the topic is another one of the same name.

        Offsets of the former topic mean nothing in this one, committed ones neither. Raises Fenced
        if the client cannot read it (before librdkafka 2.16).
        """
        if libversion()[1] < READS_NEW_TOPICS:
            raise Fenced(
                f"the topic {self.topic} was made anew, and this librdkafka ({libversion()[0]}) "
                "does not find its leaders again; a restart does"
            )
        log.warning("the topic %s was made anew: reading it from its beginning", self.topic)
        self.on_lost()
        self.on_removed(set(self.assignment))
        self.committed.clear()
        self._overtaken.clear()
        self._commits_void = self._commits_unheard
        self.read_to_end.clear()
        self._positions.restart(self.assignment)
        self._made_anew = True

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Begin to commit the offset that comes next in each partition; a later poll ends it.

        Then `committing` is False again, and `committed` holds the offsets if Kafka took them.
        """
        try:
            self._consumer.commit(offsets=self._places(offsets), asynchronous=True)
        except KafkaException as error:  # not even begun
            self._on_commit(error.args[0], self._places(offsets))
        else:
            self.committing = True
            self._commits_unheard += 1

    def commit_now(self, offsets: Mapping[int, int]) -> None:
        """Commit the offset that comes next in each partition and wait for it.

        Raises CommitRefused if the group has moved on: whoever the partitions belong to now, which
        may be us again, starts from the last committed offset. Raises Unavailable if Kafka does not
        answer.
        """
        with contextlib.suppress(KafkaException):  # of an older commit, which this one replaces
            self._wait_for_call()
        try:
            if self._within_callback:  # another thread would wait for the poll that we are in
                self._commit_and_wait(offsets)
            else:
                self._call = self._background("commit", lambda: self._commit_and_wait(offsets))
                self._wait_for_call()
        except KafkaException as error:
            if self._note_shut_out(error.args[0]) or error.args[0].code() in _GROUP_HAS_MOVED_ON:
                raise CommitRefused(f"offsets not committed: {error.args[0].str()}") from None
            raise unavailable(self._settings, error) from None
        self.committed |= {p: o for p, o in offsets.items() if p in self.assignment}

    def _commit_and_wait(self, offsets: Mapping[int, int]) -> None:
        places = self._consumer.commit(offsets=self._places(offsets), asynchronous=False)
        for place in places or ():
            if place.error is not None:
                raise KafkaException(place.error)

    def _wait_for_call(self) -> None:
        """Without a coordinator a commit waits for ever. No other call may be made meanwhile."""
        if self._call is not None:
            try:
                self._call.outcome(REQUEST_SECONDS)
            finally:
                if self._call.ended:
                    self._call = None

    def seek_to_committed(self) -> None:
        """Read on from what is committed of our partitions: asked from Kafka, not remembered.

        Waits until transactions that are being ended have ended (KIP-447). Raises Unavailable if
        Kafka does not answer; calling again is right.
        """
        if self._shut_out is not None:
            return  # a new client begins there
        ours = [TopicPartition(self.topic, partition) for partition in self.assignment]
        try:
            places = self._consumer.committed(ours, timeout=REQUEST_SECONDS) if ours else []
            for place in places:
                if place.error is not None:
                    raise KafkaException(place.error)
        except KafkaException as error:
            raise unavailable(self._settings, error) from None
        for place in places:
            offset = place.offset if place.offset >= 0 else OFFSET_BEGINNING
            # Not being read: then reading begins at the committed offset, or is begun by `_place`.
            with contextlib.suppress(KafkaException):
                self._consumer.seek(TopicPartition(self.topic, place.partition, offset))
            self._positions.go_back(place.partition)

    def _place(self) -> None:
        """Begin where reading should go on, in partitions where it does not by itself.

        Raises Unavailable if Kafka does not answer; a later poll goes on.
        """
        partitions = sorted(self._positions.unplaced)
        if not partitions:
            return
        try:
            starts = {}
            for partition, wanted in self._wanted(partitions).items():
                place = TopicPartition(self.topic, partition)
                held = range(*self._consumer.get_watermark_offsets(place, timeout=REQUEST_SECONDS))
                if wanted is not None and wanted > held.stop and self._topic_id.has_changed():
                    self.read_anew()  # with the next poll
                    return
                starts[partition] = self._positions.start(partition, wanted, held)
            self._read_from(starts)
        except KafkaException as error:
            raise unavailable(self._settings, error) from None
        self._positions.begin(starts)
        if self._made_anew:  # what was committed on the way here belongs to the former topic
            self._made_anew = False
            with contextlib.suppress(CommitRefused):
                self.commit_now(starts)

    def _wanted(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        """By partition, the offset to go on with; None: at the beginning."""
        if self._seek is not None:
            return self._seek(partitions)
        if self._made_anew:
            return dict.fromkeys(partitions)
        wanted = {partition: self._positions.next_of(partition) for partition in partitions}
        unknown = [TopicPartition(self.topic, p) for p, offset in wanted.items() if offset is None]
        for place in self._consumer.committed(unknown, timeout=REQUEST_SECONDS) if unknown else ():
            if place.error is not None:
                raise KafkaException(place.error)
            wanted[place.partition] = place.offset if place.offset >= 0 else None
        return wanted

    def _read_from(self, starts: Mapping[int, int]) -> None:
        # seek() would not do: it is for partitions that are being read already.
        if self._incremental:
            self._consumer.incremental_unassign(self._places(starts))
            self._consumer.incremental_assign(self._places(starts))
        else:
            # By client_config the group rebalances eagerly: this is for all of them. The client's
            # position() would not do: it has none until it has given out a message.
            others = self.assignment - starts.keys()
            known = {p: self._positions.next_of(p) for p in others}
            places = {p: OFFSET_STORED if o is None else o for p, o in known.items()}
            self._consumer.assign(self._places({**places, **starts}))

    def group_metadata(self) -> Any:
        """What a transaction shows the group: it takes no offsets from former members (KIP-447)."""
        return self._consumer.consumer_group_metadata()

    def close(self) -> None:
        """Leave the group at once, so that others take over without waiting for a timeout."""
        try:
            with contextlib.suppress(KafkaException):
                self._wait_for_call()
        except Unavailable as error:
            log.warning("not leaving the group, it has to notice by itself: %s", error)
        else:
            self._consumer.close()

    def _places(self, offsets: Mapping[int, int]) -> list[TopicPartition]:
        return [TopicPartition(self.topic, p, offset) for p, offset in offsets.items()]

    def _kept(self, raws: Sequence[RawMessage]) -> list[Message]:
        messages = []
        for raw in raws:
            error, partition = raw.error(), raw.partition()
            if error is None:
                if partition not in self._revoked and partition not in self._positions.unplaced:
                    messages.append(read_message(raw))
                    self._positions.advance(messages[-1])
            elif error.code() == KafkaError._PARTITION_EOF and partition is not None:
                if partition not in self._positions.unplaced:
                    self.read_to_end.add(partition)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET and partition is not None:
                # It may be late, and speak of a place where we have gone on from since, or of a
                # partition that was revoked within this poll.
                if partition in self.assignment:
                    self._positions.unplaced.add(partition)
            else:
                self._raise_or_warn(error)
        return messages

    def _note_shut_out(self, error: KafkaError) -> bool:
        """Whether the error says that this client's membership has ended for good."""
        # librdkafka delivers what ended a client as _FATAL, with the cause in the text.
        if error.code() not in _FENCED | {KafkaError._FATAL} and not error.fatal():
            return False
        if self._shut_out is None:
            self._shut_out, self._shut_out_at = error, self._clock()
            log.warning("shut out of the group %s: %s", self._group_id, error.str())
        return True

    def _join_anew(self, why: KafkaError) -> None:
        """Go on with a new client, unless another process is a member under our `instance_id`.

        After an outage Kafka may take two requests of one client for two clients, and shut out the
        one that waits for an answer. Its twin is in the group then, until its session is over. A
        process that has our name stays. Raises Fenced if it does, Unavailable while that is open.
        """
        if self._instance_id and self._instance_id in instance_ids(
            self._settings, self._group_id, self._make_client
        ):
            session_ms = int(self._config.get("session.timeout.ms", BROKERS_SESSION_TIMEOUT_MS))
            if self._clock() - self._shut_out_at > NAME_TAKEN_SESSIONS * session_ms / 1000:
                raise Fenced(
                    f"somebody else is in the group {self._group_id} in our name "
                    f"({self._instance_id}; {why.str()}): two processes with one INSTANCE_ID, or "
                    "one that was thought dead; a restart joins anew"
                )
            raise Unavailable(
                f"there is a member {self._instance_id} in the group {self._group_id} besides us: "
                "another process of this name, or what an outage left of us"
            )
        log.warning("joining the group %s anew", self._group_id)
        self.on_lost()
        self._remove(set(self.assignment))
        self._consumer.close()
        self._shut_out, self.committing, self._subscribed = None, False, False
        self._commits_unheard = self._commits_void = 0
        self._consumer = self._make_client(Consumer, self._config)

    def _on_commit_ended(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        """Outcomes come in the order of the commits."""
        self._commits_unheard -= 1
        if self._commits_void:
            self._commits_void -= 1
            self.committing = False
        else:
            self._on_commit(error, places)

    def _on_commit(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        self.committing = False
        for place in places:
            reason = error or place.error
            if reason is None and place.partition in self.assignment:
                newest = self.committed.get(place.partition, 0)
                self.committed[place.partition] = max(newest, place.offset)
                if place.offset < newest:
                    self._overtaken[place.partition] = newest
                else:
                    self._overtaken.pop(place.partition, None)
            elif (
                reason is not None
                and not self._note_shut_out(reason)
                and reason.code() not in _GROUP_HAS_MOVED_ON
                and self._commit_warnings.allow()
            ):
                log.warning("offsets not committed, trying again: %s", reason.str())

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._AUTHENTICATION:
            self._login_error = error

    def _check_login(self, refused: KafkaError) -> None:
        """Raise ConfigurationError if no broker lets us in: librdkafka would try for ever.

        A restart may bring the new password.
        """
        self._login_error = None
        try:
            self._consumer.list_topics(self.topic, timeout=LOGIN_SECONDS)
        except KafkaException:
            raise failed(self._settings, refused) from None

    def _on_assign(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        ours = {p.partition for p in partitions}
        self.assignment |= ours
        self.joined = True
        self._revoked -= ours  # revoked and assigned again within one poll: what follows is ours
        log.info("assigned partitions %s", sorted(ours), extra={"partitions": sorted(ours)})
        if self._seek is not None:
            self._positions.unplaced |= ours

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        with self._raised_by_poll():
            self.on_revoke()
        self._remove({p.partition for p in partitions})

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        with self._raised_by_poll():
            self.on_lost()
        self._remove({p.partition for p in partitions})

    @contextlib.contextmanager
    def _raised_by_poll(self) -> Iterator[None]:
        self._within_callback = True
        try:
            yield
        except NextclickError as error:
            self._failure = error
        finally:
            self._within_callback = False

    def _remove(self, gone: set[int]) -> None:
        self.joined = False
        self.assignment -= gone
        self.read_to_end -= gone
        self._revoked |= gone
        self._positions.forget(gone)
        for partition in gone:
            self.committed.pop(partition, None)
            self._overtaken.pop(partition, None)
        self.on_removed(gone)
        log.info("revoked partitions %s", sorted(gone), extra={"partitions": sorted(gone)})

    def _raise_or_warn(self, error: KafkaError) -> None:
        if self._note_shut_out(error):
            return
        if error.code() in MISCONFIGURED:
            raise failed(
                self._settings,
                error,
                Permission("Read", "topic", self.topic),
                Permission("Read", "group", self._group_id),
            )
        log.warning("Kafka, topic %s: %s", self.topic, error.str())


def _do_nothing() -> None:
    """Do nothing."""
