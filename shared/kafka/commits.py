"""The offsets that a member of a group commits."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from nextclick.shared.errors import CommitRefused, Unavailable
from nextclick.shared.kafka.background import BackgroundCall
from nextclick.shared.kafka.client import REQUEST_SECONDS, unavailable
from nextclick.shared.kafka.membership import Membership
from nextclick.shared.runtime.rate_limit import RateLimit
from nextclick.shared.runtime.settings import KafkaSettings

log = logging.getLogger(__name__)

_GROUP_HAS_MOVED_ON = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.STALE_MEMBER_EPOCH,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._ASSIGNMENT_LOST,
    KafkaError._STATE,
}


class Commits:
    """Commits offsets, the next one to read of each partition, and knows what Kafka has confirmed.

    Only for partitions that `own` has named and `disown` has not.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        membership: Membership,
        background: Callable[[str, Callable[[], object]], BackgroundCall],
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._membership = membership
        self._background = background
        self._owned: set[int] = set()
        self.committed: dict[int, int] = {}
        """By partition of ours, the newest offset that Kafka has confirmed to us."""
        self.committing = False
        """A commit is under way."""
        self._unheard = 0
        """Those that `begin` began and whose outcome `heard` has not been told."""
        self._void = 0
        """So many of them, the oldest, are of a topic that is no more."""
        self._overtaken: dict[int, int] = {}
        """Offsets to commit again: the client has repeated an older commit after them."""
        self._call: BackgroundCall | None = None
        """A call that has not returned yet."""
        self._warnings = RateLimit()

    def own(self, partitions: Iterable[int]) -> None:
        """These are ours from now on."""
        self._owned.update(partitions)

    def disown(self, partitions: Iterable[int]) -> None:
        """These are not ours any more: what becomes of their offsets is of no interest."""
        for partition in partitions:
            self._owned.discard(partition)
            self.committed.pop(partition, None)
            self._overtaken.pop(partition, None)

    def forget(self) -> None:
        """What was committed until now were offsets of another topic."""
        self.committed.clear()
        self._overtaken.clear()
        self._void = self._unheard

    def restart(self) -> None:
        """The client is another one: it knows of no commits."""
        self.committing = False
        self._unheard = self._void = 0

    def begin(self, offsets: Mapping[int, int]) -> None:
        """Begin to commit offsets; a later `poll` of the client ends it.

        Then `committing` is False again, and `committed` holds the offsets if Kafka took them.
        """
        places = self._places(offsets)
        try:
            self._membership.client.commit(offsets=places, asynchronous=True)
        except KafkaException as error:  # not even begun
            self._ended(error.args[0], places)
        else:
            self.committing = True
            self._unheard += 1

    def heard(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        """A poll tells how a commit ended. Outcomes come in the order of the commits."""
        self._unheard -= 1
        if self._void:
            self._void -= 1
            self.committing = False
        else:
            self._ended(error, places)

    def _ended(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        """A commit has ended, all of it with an error or each place with its own or none."""
        self.committing = False
        for place in places:
            reason = error or place.error
            if reason is None and place.partition in self._owned:
                newest = self.committed.get(place.partition, 0)
                self.committed[place.partition] = max(newest, place.offset)
                if place.offset < newest:
                    self._overtaken[place.partition] = newest
                else:
                    self._overtaken.pop(place.partition, None)
            elif (
                reason is not None
                and not self._membership.note_shut_out(reason)
                and reason.code() not in _GROUP_HAS_MOVED_ON
                and self._warnings.allow()
            ):
                log.warning("offsets not committed, trying again: %s", reason.str())

    def repeat_overtaken(self) -> None:
        """Begin to commit again what an older commit has overwritten, unless one is under way."""
        if self._overtaken and not self.committing:
            self.begin(self._overtaken)

    def commit_now(self, offsets: Mapping[int, int], in_callback: bool) -> None:
        """Commit offsets and wait for it; `in_callback`: within a `poll` of the client.

        Raises CommitRefused if the group has moved on: whoever the partitions belong to now, which
        may be us again, starts from the last committed offset. Raises Unavailable if Kafka does not
        answer.
        """
        self.wait_for_older()
        try:
            if in_callback:  # another thread would wait for the poll that we are in
                self._commit_and_wait(offsets)
            else:
                self._membership.login.renew()
                self._call = self._background("commit", lambda: self._commit_and_wait(offsets))
                self._wait_for_call()
        except KafkaException as error:
            reason = error.args[0]
            if self._membership.note_shut_out(reason) or reason.code() in _GROUP_HAS_MOVED_ON:
                raise CommitRefused(f"offsets not committed: {reason.str()}") from None
            raise unavailable(self._settings, error) from None
        self.committed |= {p: o for p, o in offsets.items() if p in self._owned}

    def _commit_and_wait(self, offsets: Mapping[int, int]) -> None:
        places = self._membership.client.commit(offsets=self._places(offsets), asynchronous=False)
        for place in places or ():
            if place.error is not None:
                raise KafkaException(place.error)

    def wait_for_older(self) -> None:
        """Return when no `commit_now` is under way: until then no other call can be made.

        How it ended does not matter: a newer commit replaces it. Raises Unavailable if it goes on.
        """
        with contextlib.suppress(KafkaException):
            self._wait_for_call()

    @property
    def waiting(self) -> bool:
        """Whether a `commit_now` is under way."""
        return self._call is not None

    def _wait_for_call(self) -> None:
        """Without a coordinator a commit waits for ever; no new password reaches the client then.

        So if there is a new one, this client is abandoned.
        """
        call = self._call
        if call is None:
            return
        try:
            call.outcome(REQUEST_SECONDS)
        except Unavailable:
            if self._membership.login.is_outdated():
                self._membership.abandon()
                self._call = None
            raise
        finally:
            if call.ended:
                self._call = None

    def fetch(self, partitions: Iterable[int]) -> dict[int, int | None]:
        """By partition, what is committed, asked from Kafka; None: nothing.

        Waits until transactions that are being ended have ended (KIP-447). Raises KafkaException.
        """
        places = [TopicPartition(self._topic, partition) for partition in partitions]
        if not places:
            return {}
        found: dict[int, int | None] = {}
        for place in self._membership.client.committed(places, timeout=REQUEST_SECONDS):
            if place.error is not None:
                raise KafkaException(place.error)
            found[place.partition] = place.offset if place.offset >= 0 else None
        return found

    def _places(self, offsets: Mapping[int, int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, p, offset) for p, offset in offsets.items()]
