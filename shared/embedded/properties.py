"""The server.properties of a broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nextclick.shared.embedded.server import free_port


@dataclass(frozen=True)
class Node:
    """A node that is broker and controller."""

    id: int
    port: int
    """Port for clients and other brokers, without TLS."""
    controller_port: int = field(default_factory=free_port)


def write_properties(
    path: Path,
    data: Path,
    node: Node,
    cluster: Sequence[Node],
    *,
    listeners: Mapping[str, int] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> None:
    """Write the server.properties of one node of a cluster; `data` is its data folder.

    `listeners` are additional ports by security protocol, for example SASL_PLAINTEXT; `overrides`
    overrides properties.
    """
    replicas = min(3, len(cluster))
    min_insync = max(1, replicas - 1)
    clients = {"PLAINTEXT": node.port, **(listeners or {})}
    advertised = [f"{protocol}://127.0.0.1:{port}" for protocol, port in clients.items()]
    properties = {
        "process.roles": "broker,controller",
        "node.id": node.id,
        "controller.quorum.voters": ",".join(
            f"{n.id}@127.0.0.1:{n.controller_port}" for n in cluster
        ),
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": ",".join(
            [*(f"{protocol}:{protocol}" for protocol in clients), "CONTROLLER:PLAINTEXT"]
        ),
        "listeners": ",".join([*advertised, f"CONTROLLER://127.0.0.1:{node.controller_port}"]),
        "advertised.listeners": ",".join(advertised),
        "log.dirs": data,
        "default.replication.factor": replicas,
        "min.insync.replicas": min_insync,
        "auto.create.topics.enable": "false",  # as in docker-compose.yml
        "group.initial.rebalance.delay.ms": 0,
        # A broker that restarts after a kill waits until its old session expires: 9 s by default.
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        # Internal topics: the default of 50 partitions would open 200 more files at each start.
        "offsets.topic.num.partitions": 3,
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.num.partitions": 3,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": min_insync,
        "share.coordinator.state.topic.num.partitions": 3,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": min_insync,
        "log.cleaner.dedupe.buffer.size": 4 * 2**20,  # heap memory; 128 MiB by default
        **(overrides or {}),
    }
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
