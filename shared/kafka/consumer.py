"""A member of a consumer group.

One thread owns a ClickConsumer and makes every call: since confluent-kafka 2.16 a call waits until
the call of another thread has returned, so a second thread that commits while the first is inside
`poll` would stop both for ever in a rebalance. Commits are therefore asynchronous: the outcome
arrives within a later `poll`. Only `commit_now`, for partitions that are given up and for the
end, waits.

Its parts, each in a file of its own: the client, which the group may shut out (membership.py); what
it commits (commits.py); where it reads on (positions.py); whether the topic is still the same
(topic_id.py); whether the group leaves partitions to nobody (unassigned.py). Here they meet: a
poll, a rebalance within it, and where reading begins after that.
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

from nextclick.shared.errors import CommitRefused, Fenced, NextclickError, Unavailable
from nextclick.shared.kafka.background import BackgroundCall
from nextclick.shared.kafka.client import (
    BULK,
    LOW_LATENCY,
    MISCONFIGURED,
    REQUEST_SECONDS,
    MakeClient,
    Permission,
    failed,
    make_client,
    poll_raw,
    read_message,
    unavailable,
)
from nextclick.shared.kafka.commits import Commits
from nextclick.shared.kafka.group_description import DescribeGroup, describe_group_in_child
from nextclick.shared.kafka.membership import CLOSE_SECONDS, Membership
from nextclick.shared.kafka.positions import Positions
from nextclick.shared.kafka.topic_id import TopicId, describing_client
from nextclick.shared.kafka.unassigned import UnassignedPartitions
from nextclick.shared.messages import Message
from nextclick.shared.runtime.settings import KafkaSettings

log = logging.getLogger(__name__)

READS_NEW_TOPICS = 0x02100000
"""librdkafka 2.16. One of 2.6 takes the leaders of a topic that was made anew for old news, for
their epochs begin at 0 again, and never fetches from them."""

METADATA_REFRESH_MS = 5_000
"""New partitions of the topic are found within so long."""


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
        describe_group: DescribeGroup = describe_group_in_child,
    ) -> None:
        """Prepare the client; the group is joined with the first poll.

        `seek`, given the partitions just assigned, may name offsets to start from instead of
        the committed ones. It is called within `poll`, which raises what it raises; after
        Unavailable it is asked again.
        With an `instance_id` the membership is static (KIP-345): whoever joins under it next,
        say after a crash, takes the partitions over at once; without one the group waits
        SESSION_TIMEOUT_MS for the dead.
        `bulk`: read in few large pieces.
        `make_client` and `background` make the client and its calls, `describe_group` asks for the
        members of the group; a simulation has its own.
        """
        self._settings = settings
        self.topic = topic
        self._group_id = group_id
        self._bulk = bulk
        self._seek = seek
        options = {
            # Where reading goes on when offsets are gone is for us to say: what they held is lost.
            "auto.offset.reset": "error",
            "enable.partition.eof": bulk,
            "on_commit": self._on_commit,
            "topic.metadata.refresh.interval.ms": METADATA_REFRESH_MS,
            **(BULK if bulk else LOW_LATENCY),
        }
        self._background = background
        admin = describing_client(settings, make_client)
        self._membership = Membership(
            settings,
            topic,
            group_id,
            instance_id,
            options,
            clock,
            make_client,
            background,
            describe_group,
        )
        self._commits = Commits(settings, topic, self._membership, background)
        self._unassigned: UnassignedPartitions | None = None
        if self._membership.may_leave_partitions_unassigned:
            self._unassigned = UnassignedPartitions(
                settings,
                topic,
                self._membership.config,
                admin,
                clock,
                make_client,
                background,
                describe_group,
            )
        self._positions = Positions()
        self._topic_id = TopicId(settings, topic, admin, clock)
        self._made_anew = False
        """The topic was, and reading has not begun again yet."""
        self._subscribed = False
        self._was_assigned = False
        """The client was told of its partitions since it has joined, or lost them all."""
        self._revoked: set[int] = set()
        """Partitions that were revoked within the poll under way."""
        self._within_callback = False
        self._failure: NextclickError | None = None
        """What a callback wants `poll` to raise: librdkafka's own work must be done first."""
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

    @property
    def _client(self) -> Consumer:
        return self._membership.client

    # Reading

    def poll(self, max_messages: int, timeout: float) -> list[Message]:
        """Wait up to `timeout` seconds for a message; return it and what else is at hand.

        One click is never held back to fill a batch, while under load batches fill by
        themselves. Messages of partitions that were revoked meanwhile are left out: their new
        owner reads them. Raises Fenced if somebody else has joined under our `instance_id`,
        ConfigurationError for what time does not heal, Unavailable while a commit before it has not
        returned, and while it is not known whose `instance_id` it is.
        """
        if not self._commits.waiting:
            self._membership.login.renew()
        if self._membership.is_shut_out:
            self._join_anew()
        if not self._subscribed:
            self._subscribe()
        self._commits.wait_for_older()
        if not self._bulk and self._topic_id.has_changed_lately():
            self.read_anew()
        if self._unassigned is not None:
            self._unassigned.look()
        self._place()
        self._commits.repeat_overtaken()
        self._revoked.clear()
        raws = poll_raw(self._client, max_messages, timeout)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        messages = self._kept(raws)
        self._membership.check_login()
        if not messages:  # else it can wait: it may raise
            self._place()
        return messages

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

    def _raise_or_warn(self, error: KafkaError) -> None:
        if self._membership.note_shut_out(error):
            return
        if error.code() in MISCONFIGURED:
            raise failed(
                self._settings,
                error,
                Permission("Read", "topic", self.topic),
                Permission("Read", "group", self._group_id),
            )
        log.warning("Kafka, topic %s: %s", self.topic, error.str())

    # The group: joining, and rebalances, which call back within a poll

    def _subscribe(self) -> None:
        self._client.subscribe(
            [self.topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )
        self._subscribed, self._was_assigned = True, False

    def _on_assign(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        ours = {p.partition for p in partitions}
        self.assignment |= ours
        self.joined = True
        if self._unassigned is not None and not self._was_assigned:
            self._unassigned.joined()
        self._was_assigned = True
        self._commits.own(ours)
        self._revoked -= ours  # revoked and assigned again within one poll: what follows is ours
        log.info("assigned partitions %s", sorted(ours), extra={"partitions": sorted(ours)})
        if self._seek is not None:
            self._positions.unplaced |= ours

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        with self._raised_by_poll():
            self.on_revoke()
        self._remove({p.partition for p in partitions})

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._was_assigned = False
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
        self._commits.disown(gone)
        self.on_removed(gone)
        log.info("revoked partitions %s", sorted(gone), extra={"partitions": sorted(gone)})

    def _join_anew(self) -> None:
        """Go on with a new client, if nobody else has our `instance_id`: see check_name."""
        self._membership.check_name()
        self.on_lost()
        self._remove(set(self.assignment))
        self._membership.renew()
        self._commits.restart()
        self._subscribed = False

    def close(self) -> None:
        """Leave the group at once, so that others take over without waiting for a timeout.

        Returns after CLOSE_SECONDS at the latest, for the process is about to end: librdkafka may
        never return from closing a client that the group has shut out. The callbacks of a rebalance
        are called in another thread, while this one waits.
        """
        try:
            self._background("close", self._leave).outcome(CLOSE_SECONDS)
        except Unavailable as error:
            log.warning("not leaving the group, it has to notice by itself: %s", error)

    def _leave(self) -> None:
        if self._unassigned is not None:
            self._unassigned.close()
        self._commits.wait_for_older()
        if self._membership.is_abandoned:
            raise Unavailable("a call of the client has not returned")
        self._client.close()

    # Where reading begins

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
                held = range(*self._client.get_watermark_offsets(place, timeout=REQUEST_SECONDS))
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
        unknown = [partition for partition, offset in wanted.items() if offset is None]
        return wanted | self._commits.fetch(unknown)

    def _read_from(self, starts: Mapping[int, int]) -> None:
        # seek() would not do: it is for partitions that are being read already.
        places = [TopicPartition(self.topic, p, offset) for p, offset in starts.items()]
        if self._membership.is_cooperative:
            self._client.incremental_unassign(places)
            self._client.incremental_assign(places)
        else:
            # By client_config the group rebalances eagerly: this is for all of them. The client's
            # position() would not do: it has none until it has given out a message.
            for partition in self.assignment - starts.keys():
                known = self._positions.next_of(partition)
                offset = OFFSET_STORED if known is None else known
                places.append(TopicPartition(self.topic, partition, offset))
            self._client.assign(places)

    def seek_to_committed(self) -> None:
        """Read on from what is committed of our partitions: asked from Kafka, not remembered.

        Raises Unavailable if Kafka does not answer; calling again is right.
        """
        if self._membership.is_shut_out:
            return  # a new client begins there
        try:
            committed = self._commits.fetch(self.assignment)
        except KafkaException as error:
            raise unavailable(self._settings, error) from None
        for partition, offset in committed.items():
            start = OFFSET_BEGINNING if offset is None else offset
            # Not being read: then reading begins at the committed offset, or is begun by `_place`.
            with contextlib.suppress(KafkaException):
                self._client.seek(TopicPartition(self.topic, partition, start))
            self._positions.go_back(partition)

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
        self._commits.forget()
        self.read_to_end.clear()
        self._positions.restart(self.assignment)
        self._made_anew = True

    # Committing

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Begin to commit the offset that comes next in each partition; see Commits.begin."""
        self._commits.begin(offsets)

    def commit_now(self, offsets: Mapping[int, int]) -> None:
        """Commit the offset that comes next in each partition; see Commits.commit_now."""
        if not self._subscribed or self._membership.is_abandoned:
            raise CommitRefused("offsets not committed: this client has not joined the group yet")
        self._commits.commit_now(offsets, in_callback=self._within_callback)

    def _on_commit(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        self._commits.heard(error, places)

    @property
    def committing(self) -> bool:
        """Whether a commit is under way."""
        return self._commits.committing

    @property
    def committed(self) -> dict[int, int]:
        """By partition of ours, the newest offset that Kafka has confirmed to us."""
        return self._commits.committed

    def group_metadata(self) -> Any:
        """What a transaction shows the group: it takes no offsets from former members (KIP-447)."""
        return self._client.consumer_group_metadata()


def _do_nothing() -> None:
    """Do nothing."""
