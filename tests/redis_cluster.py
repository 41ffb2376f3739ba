"""A Redis Cluster of real servers: started, resharded, broken."""

from __future__ import annotations

from pathlib import Path

import redis
from redis.crc import key_slot

from nextclick.shared import embedded
from nextclick.shared.embedded import Server
from tests.waiting import until

SLOTS = 16_384
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
"""Options for nodes that remember, after a restart, all that they have answered for."""


class Cluster:
    """Nodes that share the slots evenly; all are primaries."""

    def __init__(
        self, folder: Path, nodes: int = 3, *options: str, password: str | None = None
    ) -> None:
        self._folder = folder
        self._options = options
        self._password = password
        self.nodes: list[Server] = []
        try:
            for _ in range(nodes):
                self.add_node()
            self._share_slots()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"redis://{self.nodes[0].address}"

    def add_node(self) -> Server:
        """Start a node that is in no cluster yet."""
        port = embedded.free_port()
        while port > 55_000:  # among themselves nodes use the port that is higher by 10,000
            port = embedded.free_port()
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
        options += ["--cluster-allow-replica-migration", "no"]  # without slots, not a replica
        folder = self._folder / f"node{len(self.nodes)}"
        self.nodes.append(embedded.start_redis(folder, port, *options, *self._options))
        return self.nodes[-1]

    def client(self, node: Server) -> redis.Redis:
        return redis.Redis(port=node.port, password=self._password, protocol=2)

    def ask(self, node: Server, *command: object) -> bytes:
        with self.client(node) as client:
            answer = client.execute_command(*command)
        return answer if isinstance(answer, bytes) else str(answer).encode()

    def meet(self, node: Server, replica_of: Server | None = None) -> None:
        """Let a node into the cluster, and wait until all know of it."""
        self.ask(node, "CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)
        own = self.ask(node, "CLUSTER", "MYID")
        self.wait(lambda other: own in self.ask(other, "CLUSTER", "NODES"))
        self.wait(self.complete)
        if replica_of is not None:
            theirs = self.ask(replica_of, "CLUSTER", "MYID")
            until(lambda: theirs in self.ask(node, "CLUSTER", "NODES"), "it knows its primary")
            self.ask(node, "CLUSTER", "REPLICATE", theirs)
            self.wait(lambda other: b"slave " + theirs in self.ask(other, "CLUSTER", "NODES"))
            until(lambda: self.in_step(node), "the replica is in step")

    def in_step(self, replica: Server) -> bool:
        with self.client(replica) as client:
            return client.info("replication").get("master_link_status") == "up"

    def wait(self, condition: object) -> None:
        assert callable(condition)
        until(lambda: all(condition(node) for node in self.nodes), "all nodes agree", 20)

    def owner(self, slot: int) -> Server:
        """The node that serves a slot."""
        for first, last, (_, port, *_), *_ in self._slots(self.nodes[0]):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"nobody serves slot {slot}")

    def open_slot(self, slot: int, to: Server) -> None:
        """Begin to move a slot: new keys go there already."""
        source = self.owner(slot)
        self.ask(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.ask(source, "CLUSTER", "MYID"))
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.ask(to, "CLUSTER", "MYID"))

    def move_keys(self, slot: int, to: Server) -> None:
        """Move the keys of an open slot."""
        with self.client(self.owner(slot)) as source:
            for key in source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000):
                login = ("AUTH", self._password) if self._password else ()
                source.execute_command("MIGRATE", "127.0.0.1", to.port, key, 0, 5000, *login)

    def close_slot(self, slot: int, to: Server) -> None:
        """End a move: the slot is served there; the others learn of it."""
        source = self.owner(slot)
        name = self.ask(to, "CLUSTER", "MYID")
        for node in (to, source):
            self.ask(node, "CLUSTER", "SETSLOT", slot, "NODE", name)

    def move_slot(self, slot: int, to: Server) -> None:
        self.open_slot(slot, to)
        self.move_keys(slot, to)
        self.close_slot(slot, to)

    def close(self) -> None:
        for node in self.nodes:
            node.process.send_signal(18)  # SIGCONT
            node.kill()

    def _share_slots(self) -> None:
        for number, node in enumerate(self.nodes):
            first, last = (SLOTS * n // len(self.nodes) for n in (number, number + 1))
            self.ask(node, "CLUSTER", "ADDSLOTSRANGE", first, last - 1)
            self.ask(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            self.ask(self.nodes[0], "CLUSTER", "MEET", "127.0.0.1", node.port)
        self.wait(self.complete)

    def complete(self, node: Server) -> bool:
        """Whether this node knows an owner of every slot, and they are all there."""
        stands = b"cluster_state:ok" in self.ask(node, "CLUSTER", "INFO")
        return stands and len({owner[1] for _, _, owner, *_ in self._slots(node)}) >= 3

    def _slots(self, node: Server) -> list[list[list[int]]]:
        with self.client(node) as client:
            return client.execute_command("CLUSTER", "SLOTS")


def slot_of(key: str) -> int:
    return int(key_slot(key.encode()))
