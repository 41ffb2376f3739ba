"""Kafka's transaction coordinator.

Rules of the model, and where they come from:

- `init` gives the next epoch, so that whoever had the id before is fenced; if a transaction is open
  it is aborted first, under an epoch that fences at once, and the client asks again
  (CONCURRENT_TRANSACTIONS) (KIP-98).
- A transaction begins with the first partition, or the group, that is added to it. While markers
  are written nothing can be added (CONCURRENT_TRANSACTIONS) (KIP-98).
- EndTxn decides; then a marker goes to each partition and to the group, each at a time of its own.
  The same EndTxn again is answered as the first time; the other decision, or one without a
  transaction, is INVALID_TXN_STATE (KIP-98).
- All of a client's transactions have one epoch, so that an EndTxn that is late ends whatever
  transaction of that epoch is open when it arrives: clients without KIP-890's part 2, of which
  librdkafka is one (seen on Kafka 4.1 with librdkafka 2.16).
- A transaction that lasts longer than its time-out is aborted, and its client is fenced (KIP-98).
- TxnOffsetCommit is taken only while the transaction is open and has the group (KIP-890, part 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from confluent_kafka import KafkaError

from tests.simulation.group import Group, GroupMetadata
from tests.simulation.log import OK, Partition, Record
from tests.simulation.scheduler import World

FENCED = int(KafkaError.PRODUCER_FENCED)
CONCURRENT = int(KafkaError.CONCURRENT_TRANSACTIONS)
INVALID_STATE = int(KafkaError.INVALID_TXN_STATE)

Place = tuple[str, int]
"""Topic and partition."""


@dataclass
class _Transactional:
    """What is known of one transactional id."""

    producer: int
    timeout_seconds: float
    epoch: int = 0
    open: bool = False
    ending: bool = False
    """Markers are being written."""
    committed: bool | None = None
    """How the last transaction ended; None: there was none under this epoch."""
    partitions: set[Place] = field(default_factory=set)
    has_group: bool = False
    number: int = 0
    """Counts transactions."""


@dataclass
class Transactions:
    """All transactional ids."""

    world: World
    partitions: Mapping[Place, Partition]
    group: Group
    latency: Callable[[], float]
    on_decided: Callable[[int, bool], None]
    """Hears which producer's transaction will be committed or aborted, before anybody sees it."""
    _ids: dict[str, _Transactional] = field(default_factory=dict)
    _by_producer: dict[int, _Transactional] = field(default_factory=dict)

    def init(self, name: str, timeout_seconds: float) -> tuple[int, int, int]:
        """InitProducerId: error, producer id, epoch."""
        ours = self._ids.get(name)
        if ours is None:
            ours = self._ids[name] = _Transactional(1000 + len(self._ids), timeout_seconds)
            self._by_producer[ours.producer] = ours
        if ours.open:
            ours.epoch += 1
            self._end(ours, committed=False)
        if ours.ending:
            return CONCURRENT, -1, -1
        ours.epoch += 1
        ours.committed = None
        return OK, ours.producer, ours.epoch

    def add_partitions(self, name: str, epoch: int, places: Sequence[Place]) -> int:
        """AddPartitionsToTxn: 0 or an error."""
        ours = self._ids[name]
        if error := self._begin(ours, epoch):
            return error
        ours.partitions.update(places)
        return OK

    def add_group(self, name: str, epoch: int) -> int:
        """AddOffsetsToTxn: 0 or an error."""
        ours = self._ids[name]
        if error := self._begin(ours, epoch):
            return error
        ours.has_group = True
        return OK

    def commit_offsets(
        self, name: str, epoch: int, by: GroupMetadata, offsets: Mapping[int, int]
    ) -> int:
        """TxnOffsetCommit, to the group coordinator: 0 or an error."""
        ours = self._ids[name]
        if epoch != ours.epoch:
            return FENCED
        if not (ours.open and ours.has_group):
            return INVALID_STATE
        return self.group.commit_in_transaction(by, ours.producer, offsets)

    def end(self, name: str, epoch: int, committed: bool) -> int:
        """EndTxn: 0 or an error."""
        ours = self._ids[name]
        if epoch != ours.epoch:
            return FENCED
        if ours.open:
            self._end(ours, committed)
            return OK
        if ours.committed is not committed:
            return INVALID_STATE
        return CONCURRENT if ours.ending else OK

    def append(
        self, producer: int, epoch: int, sequence: int, place: Place, records: Sequence[Record]
    ) -> int:
        """Produce within a transaction: 0 or an error."""
        ours = self._by_producer[producer]
        if epoch != ours.epoch:
            return int(KafkaError.INVALID_PRODUCER_EPOCH)
        if not ours.open or place not in ours.partitions:
            return INVALID_STATE
        return self.partitions[place].append(producer, epoch, sequence, records)

    @property
    def busy(self) -> bool:
        """Whether a transaction is open or being ended."""
        return any(ours.open or ours.ending for ours in self._ids.values())

    def _begin(self, ours: _Transactional, epoch: int) -> int:
        if epoch != ours.epoch:
            return FENCED
        if ours.ending:
            return CONCURRENT
        if not ours.open:
            ours.open = True
            ours.number += 1
            number = ours.number
            self.world.after(ours.timeout_seconds, lambda: self._expire(ours, number))
        return OK

    def _expire(self, ours: _Transactional, number: int) -> None:
        if ours.open and ours.number == number:
            self.world.say("coordinator", f"transaction of producer {ours.producer} times out")
            ours.epoch += 1
            self._end(ours, committed=False)

    def _end(self, ours: _Transactional, committed: bool) -> None:
        self.world.say(
            "coordinator",
            f"transaction {ours.number} of producer {ours.producer} is "
            + ("committed" if committed else "aborted"),
        )
        self.on_decided(ours.producer, committed)
        ours.open, ours.ending, ours.committed = False, True, committed
        producer, epoch = ours.producer, ours.epoch
        places: list[Place | None] = [*sorted(ours.partitions)]
        if ours.has_group:
            places.append(None)
        ours.partitions, ours.has_group = set(), False
        left = len(places)

        def write(place: Place | None) -> None:
            nonlocal left
            if place is None:
                self.group.end_transaction(producer, committed)
            else:
                log = self.partitions[place]
                if log.led_from > self.world.now:
                    self.world.at(log.led_from, lambda: write(place))
                    return
                log.end_transaction(producer, epoch, committed)
            left -= 1
            if left == 0:
                ours.ending = False

        for place in places:
            self.world.after(self.latency(), partial(write, place))
