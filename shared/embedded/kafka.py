"""Apache Kafka: one broker, or a cluster of three. Each is one JVM, broker and KRaft controller."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nextclick.shared.embedded.prepare import CHECKPOINT, Installation, installation
from nextclick.shared.embedded.properties import Node, write_properties
from nextclick.shared.embedded.server import Server, free_port
from nextclick.shared.kafka.brokers import Brokers, live_brokers

_SINGLE_BROKER_HEAP = ["-Xms256m", "-Xmx512m"]
_CLUSTER_BROKER_HEAP = ["-Xmx288m"]
_SHORT_LIVED = ["-XX:TieredStopAtLevel=1"]
"""Only the fast compiler (C1): a broker in a test ends before the slower, optimising one pays."""


def start_kafka(
    folder: Path,
    port: int | None = None,
    *,
    long_lived: bool = False,
    listeners: Mapping[str, int] | None = None,
    properties: Mapping[str, str] | None = None,
) -> Server:
    """Start a broker whose data live in `folder`, and wait until it serves.

    A `long_lived` broker uses the JVM's optimising compiler: it takes half a second more to start,
    and halves the latency under load (docs/experiments.md). `listeners` are additional ports by
    security protocol, for example {"SASL_PLAINTEXT": 9094}; `properties` are added to
    server.properties. The data survives kill() and restart(). Raises ConfigurationError if Java or
    Kafka is missing and cannot be downloaded, or if the broker does not start.
    """
    node = Node(1, port or free_port())
    server = _launch(
        installation(),
        folder,
        node,
        [node],
        _random_id(),
        _SINGLE_BROKER_HEAP if long_lived else [*_SINGLE_BROKER_HEAP, *_SHORT_LIVED],
        listeners=listeners,
        properties=properties,
    )
    server.wait_until_ready()
    return server


@dataclass(frozen=True)
class KafkaCluster:
    """Three brokers; topics have three replicas and min.insync.replicas = 2."""

    cluster_id: str
    brokers: Sequence[Server]

    @property
    def bootstrap_servers(self) -> str:
        """The three addresses, comma-separated."""
        return ",".join(broker.address for broker in self.brokers)

    def wait_until_complete(self) -> None:
        """Wait until each broker serves and knows the other two."""
        complete = Brokers(self.cluster_id, frozenset(broker.address for broker in self.brokers))
        for broker in self.brokers:
            broker.wait_until_ready(lambda address: live_brokers(address) == complete)

    def repair(self) -> None:
        """Start the brokers that do not run, and wait until all three serve."""
        for broker in self.brokers:
            if broker.process.poll() is not None:
                broker.launch()
        self.wait_until_complete()

    def kill(self) -> None:
        """Send SIGKILL to all brokers."""
        for broker in self.brokers:
            broker.kill()


def start_kafka_cluster(folder: Path) -> KafkaCluster:
    """Start three brokers, each with its own folder in `folder`, and wait until all serve.

    Together they need about 1.2 GB of memory. Raises ConfigurationError as start_kafka does.
    """
    kafka, cluster_id = installation(), _random_id()
    nodes = [Node(number, free_port()) for number in (1, 2, 3)]
    brokers: list[Server] = []
    try:
        for node in nodes:
            brokers.append(
                _launch(
                    kafka,
                    folder / f"broker-{node.id}",
                    node,
                    nodes,
                    cluster_id,
                    [*_CLUSTER_BROKER_HEAP, *_SHORT_LIVED],
                )
            )
        cluster = KafkaCluster(cluster_id, tuple(brokers))
        cluster.wait_until_complete()
    except BaseException:
        for broker in brokers:
            broker.kill()
        raise
    return cluster


def _launch(
    kafka: Installation,
    folder: Path,
    node: Node,
    cluster: Sequence[Node],
    cluster_id: str,
    jvm_options: Sequence[str],
    *,
    listeners: Mapping[str, int] | None = None,
    properties: Mapping[str, str] | None = None,
) -> Server:
    """Create a node's folder and start the node, without waiting until it serves."""
    data, temporary = folder / "kafka", folder / "tmp"
    data.mkdir(parents=True, exist_ok=True)
    temporary.mkdir(exist_ok=True)
    write_properties(
        folder / "server.properties", data, node, cluster, listeners=listeners, overrides=properties
    )
    _format(data, node, cluster_id, kafka.checkpoint())
    return Server(
        "kafka",
        kafka.command(
            "kafka.Kafka",
            [str(folder / "server.properties")],
            [*jvm_options, f"-Djava.io.tmpdir={temporary}"],
        ),
        node.port,
        folder / "kafka.log",
        is_ready=lambda address: _serves(address, cluster_id),
    )


def _serves(address: str, cluster_id: str) -> bool:
    """Whether the broker at `address` belongs to our cluster and counts itself as live."""
    brokers = live_brokers(address)
    return brokers is not None and (
        brokers.cluster_id == cluster_id and address in brokers.addresses
    )


def _format(data: Path, node: Node, cluster_id: str, checkpoint: bytes) -> None:
    """Format a data folder like `StorageTool format`, without starting a JVM (0.5 to 2 s).

    A folder that is formatted already is left unchanged.
    """
    if (data / "meta.properties").exists():
        return
    (data / CHECKPOINT).write_bytes(checkpoint)
    (data / "meta.properties").write_text(
        f"version=1\ncluster.id={cluster_id}\nnode.id={node.id}\ndirectory.id={_random_id()}\n"
    )


def _random_id() -> str:
    """A random UUID as Kafka writes it: URL-safe base64 that does not begin with a dash."""
    return base64.urlsafe_b64encode(b"\x01" + secrets.token_bytes(15)).rstrip(b"=").decode()
