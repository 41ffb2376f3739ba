"""A Kafka: topics, one consumer group, transactions.

Rules of the model, and where they come from:

- A topic that is deleted and created again has another id (KIP-516), its offsets begin at 0 again,
  and what the group had committed on it has gone with it (seen on Kafka 4.1). A commit that comes
  late is taken for one of the new topic.
- Partitions can be added to a topic; clients hear of that when they next ask for metadata.
- Who produces to a partition without a leader is told NOT_LEADER_OR_FOLLOWER and asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import KafkaError

from tests.simulation.faults import Faults
from tests.simulation.group import Group
from tests.simulation.log import Partition, Record
from tests.simulation.network import Server
from tests.simulation.scheduler import World
from tests.simulation.transactions import Place, Transactions

NOT_LEADER = int(KafkaError.NOT_LEADER_FOR_PARTITION)


class Cluster:
    """What all clients talk to."""

    def __init__(
        self,
        world: World,
        faults: Faults,
        topics: Mapping[str, int],
        rebalance_delay: float,
        *,
        on_appended: Callable[[str, int, Sequence[Record]], None],
        on_decided: Callable[[int, bool], None],
        on_committed: Callable[[Mapping[int, int]], None],
    ) -> None:
        """Topics are names and numbers of partitions; the rest are told what happens."""
        self._world = world
        self.server = Server(world, "kafka", faults)
        self.topics: dict[str, int] = {}
        """How many partitions each has; those that are deleted are not there."""
        self.ids: dict[str, int] = {}
        self.partitions: dict[Place, Partition] = {}
        for topic, count in topics.items():
            self.create(topic, count)
        self.group = Group(world, self.server, rebalance_delay, on_committed)
        self.transactions = Transactions(
            world, self.partitions, self.group, faults.latency, on_decided
        )
        self.on_appended = on_appended
        self._producers = 0

    def create(self, topic: str, count: int) -> None:
        """Create a topic, under an id that none has had."""
        self.ids[topic] = self.ids.get(topic, 0) + 1
        self.topics[topic] = 0
        self.add_partitions(topic, count)

    def add_partitions(self, topic: str, count: int) -> None:
        """So many more."""
        first = self.topics[topic]
        self.topics[topic] = first + count
        for number in range(first, first + count):
            self.partitions[topic, number] = Partition()

    def delete(self, topic: str) -> None:
        """Delete a topic, and what the group has committed on it."""
        for number in range(self.topics.pop(topic)):
            self.partitions.pop((topic, number)).tell()
        self.group.forget_offsets()

    def lose_leader(self, place: Place, seconds: float) -> None:
        """Let a partition have no leader for so long."""
        log = self.partitions[place]
        log.led_from = self._world.now + seconds

    def remove_records(self, place: Place, before: int) -> None:
        """Retention, or DeleteRecords."""
        log = self.partitions[place]
        log.start = max(log.start, min(before, len(log.records)))

    @property
    def all_led(self) -> bool:
        """Whether each partition has a leader."""
        return all(log.led_from <= self._world.now for log in self.partitions.values())

    def new_producer(self) -> int:
        """The id of a producer without transactions."""
        self._producers += 1
        return -1 - self._producers

    def append(
        self,
        producer: int,
        epoch: int,
        sequence: int,
        place: Place,
        records: Sequence[Record],
        transactional: bool,
    ) -> int:
        """Produce: 0 or an error."""
        if self.partitions[place].led_from > self._world.now:
            return NOT_LEADER
        length = len(self.partitions[place].records)
        if transactional:
            error = self.transactions.append(producer, epoch, sequence, place, records)
        else:
            error = self.partitions[place].append(producer, epoch, sequence, records)
        if len(self.partitions[place].records) > length:
            self.on_appended(place[0], producer, records)
        return error
