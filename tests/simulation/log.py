"""Kafka's topics: what was appended, and what of it a reader of committed messages sees.

Rules of the model, and where they come from:

- A producer's records carry its id, epoch and a sequence; a batch that was appended before is not
  appended again, and one out of order is refused (KIP-98, idempotent producer).
- A partition takes nothing from an epoch older than the newest it has seen (KIP-98).
- A partition takes records of a transaction only while its coordinator says that the transaction
  is open and knows the partition (KIP-890, part 1, brokers since 3.6 for all clients).
- A marker ends a producer's transaction on one partition; each comes at a time of its own (KIP-98).
- While a partition has no leader nothing is appended, no marker written and nothing read. What is
  acknowledged stays (acks=all, min.insync.replicas=2); what was not is sent again.
- Retention and DeleteRecords move a partition's beginning; offsets stay what they were.
- A reader of committed messages gets nothing from behind the first message of a transaction that is
  open (the last stable offset), and no aborted ones. Markers have offsets, too (KIP-98).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from confluent_kafka import KafkaError

OK = 0


class Record(NamedTuple):
    """A message, or the marker of a transaction's end."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    producer: int = -1
    """-1: of no transaction."""
    marker: bool | None = None
    """True: committed; False: aborted; None: a message."""


@dataclass
class _Producer:
    epoch: int
    next_sequence: int = 0


@dataclass
class Partition:
    """One partition of a topic."""

    records: list[Record] = field(default_factory=list)
    start: int = 0
    """What lies before it has been removed."""
    led_from: float = 0.0
    """Before that it has no leader."""
    when_longer: list[Callable[[], None]] = field(default_factory=list)
    """Called once, when something is appended."""
    transactional: bool = False
    """Whether any record is of a transaction."""
    _producers: dict[int, _Producer] = field(default_factory=dict)

    def append(
        self,
        producer: int,
        epoch: int,
        sequence: int,
        records: Sequence[Record],
    ) -> int:
        """Append a producer's batch; the error code, or OK."""
        state = self._producers.get(producer)
        if state is None or epoch > state.epoch:
            state = self._producers[producer] = _Producer(epoch)
        if epoch < state.epoch:
            return int(KafkaError.INVALID_PRODUCER_EPOCH)
        if sequence < state.next_sequence:
            return OK  # it is here already
        if sequence > state.next_sequence:
            return int(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)
        state.next_sequence += len(records)
        self.transactional = self.transactional or records[0].producer >= 0
        self.records += records
        self.tell()
        return OK

    def put(self, record: Record) -> None:
        """Append what comes from outside the simulation."""
        self.records.append(record)
        self.tell()

    def end_transaction(self, producer: int, epoch: int, committed: bool) -> None:
        """Write the marker."""
        state = self._producers.get(producer)
        if state is None or epoch > state.epoch:
            self._producers[producer] = _Producer(epoch)
        self.records.append(Record(None, None, (), producer, committed))
        self.tell()

    def stable_end(self) -> int:
        """The last stable offset."""
        open_: dict[int, int] = {}
        for offset, record in enumerate(self.records if self.transactional else ()):
            if record.producer >= 0 and record.marker is None:
                open_.setdefault(record.producer, offset)
            else:
                open_.pop(record.producer, None)
        return min(open_.values(), default=len(self.records))

    def is_aborted(self, offset: int) -> bool:
        """Whether a record below the last stable offset is of a transaction that was aborted."""
        record = self.records[offset]
        return record.producer >= 0 and not next(
            other.marker
            for other in self.records[offset:]
            if other.producer == record.producer and other.marker is not None
        )

    def tell(self) -> None:
        """Let readers look again."""
        told, self.when_longer = self.when_longer, []
        for action in told:
            action()

    def committed(self) -> Iterator[Record]:
        """What a reader of committed messages sees by now, not in order."""
        open_: dict[int, list[Record]] = {}
        for record in self.records:
            if record.producer < 0:
                yield record
            elif record.marker is None:
                open_.setdefault(record.producer, []).append(record)
            else:
                ended = open_.pop(record.producer, [])
                if record.marker:
                    yield from ended
