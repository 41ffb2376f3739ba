"""A Kafka of one broker: topics, one consumer group, transactions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tests.simulation.faults import Faults
from tests.simulation.group import Group
from tests.simulation.log import Partition, Record
from tests.simulation.network import Server
from tests.simulation.scheduler import World
from tests.simulation.transactions import Place, Transactions


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
        self.server = Server(world, "kafka", faults)
        self.topics = topics
        self.partitions: dict[Place, Partition] = {
            (topic, number): Partition()
            for topic, count in topics.items()
            for number in range(count)
        }
        self.group = Group(world, self.server, rebalance_delay, on_committed)
        self.transactions = Transactions(
            world, self.partitions, self.group, faults.latency, on_decided
        )
        self.on_appended = on_appended
        self._producers = 0

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
        length = len(self.partitions[place].records)
        if transactional:
            error = self.transactions.append(producer, epoch, sequence, place, records)
        else:
            error = self.partitions[place].append(producer, epoch, sequence, records)
        if len(self.partitions[place].records) > length:
            self.on_appended(place[0], producer, records)
        return error
