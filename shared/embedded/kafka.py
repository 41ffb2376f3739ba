"""Apache Kafka: one broker, or a cluster of three. Each is a JVM, and a KRaft controller too."""

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

_ALONE = ["-Xms256m", "-Xmx512m"]
_ONE_OF_THREE = ["-Xmx288m"]
_SHORT_LIVED = ["-XX:TieredStopAtLevel=1"]
"""One compiler, the fast one: a broker of a test never lives long enough to repay the other."""


def start_kafka(
    folder: Path,
    port: int | None = None,
    *,
    long_lived: bool = False,
    listeners: Mapping[str, int] | None = None,
    properties: Mapping[str, str] | None = None,
) -> Server:
    """Start a broker whose data live in `folder`, and wait until it serves.

    A `long_lived` one compiles its code as well as the JVM can: the start takes half a second more,
    and under load its clients wait half as long (docs/experiments.md).
    `listeners` are further ports by security protocol, say {"SASL_PLAINTEXT": 9094}; `properties`
    go into server.properties. What it holds survives kill() and restart(). Raises
    ConfigurationError if Java or Kafka cannot be had or the broker does not come up.
    """
    node = Node(1, port or free_port())
    server = _launch(
        installation(),
        folder,
        node,
        [node],
        _random_id(),
        _ALONE if long_lived else [*_ALONE, *_SHORT_LIVED],
        listeners=listeners,
        properties=properties,
    )
    server.wait_until_ready()
    return server


@dataclass(frozen=True)
class KafkaCluster:
    """Three brokers; topics have three replicas and need two to acknowledge (min.insync)."""

    cluster_id: str
    brokers: Sequence[Server]

    @property
    def bootstrap_servers(self) -> str:
        """All three addresses."""
        return ",".join(broker.address for broker in self.brokers)

    def wait_until_complete(self) -> None:
        """Return as soon as each broker serves and knows the other two."""
        everyone = Brokers(self.cluster_id, frozenset(broker.address for broker in self.brokers))
        for broker in self.brokers:
            broker.wait_until_ready(lambda address: live_brokers(address) == everyone)

    def repair(self) -> None:
        """Start whichever does not run, and return as soon as all three serve."""
        for broker in self.brokers:
            if broker.process.poll() is not None:
                broker.launch()
        self.wait_until_complete()

    def kill(self) -> None:
        """SIGKILL all."""
        for broker in self.brokers:
            broker.kill()


def start_kafka_cluster(folder: Path) -> KafkaCluster:
    """Start three brokers, each with a folder of its own in `folder`, and wait for all of them.

    They want about 1.2 GB of memory together. Raises ConfigurationError as start_kafka does.
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
                    [*_ONE_OF_THREE, *_SHORT_LIVED],
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
    """Make a node's folder, and start it without waiting for it."""
    data, temporary = folder / "kafka", folder / "tmp"
    data.mkdir(parents=True, exist_ok=True)
    temporary.mkdir(exist_ok=True)
    write_properties(
        folder / "server.properties", data, node, cluster, listeners=listeners, more=properties
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
    """Say whether it is our broker that answers, and counts itself among the live ones."""
    brokers = live_brokers(address)
    return brokers is not None and (
        brokers.cluster_id == cluster_id and address in brokers.addresses
    )


def _format(data: Path, node: Node, cluster_id: str, checkpoint: bytes) -> None:
    """Do to a data folder what `StorageTool format` does, without a JVM for it (0.5 to 2 s).

    The folder of a broker that ran before stays as it is.
    """
    if (data / "meta.properties").exists():
        return
    (data / CHECKPOINT).write_bytes(checkpoint)
    (data / "meta.properties").write_text(
        f"version=1\ncluster.id={cluster_id}\nnode.id={node.id}\ndirectory.id={_random_id()}\n"
    )


def _random_id() -> str:
    """A UUID as Kafka writes it: base64, and never with a dash in front."""
    return base64.urlsafe_b64encode(b"\x01" + secrets.token_bytes(15)).rstrip(b"=").decode()
