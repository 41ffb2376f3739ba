"""The Kafka and Redis that the tests run against: real ones, always.

In this order: `external` (TEST_KAFKA_BOOTSTRAP_SERVERS and TEST_REDIS_URL are set), `docker`
(an engine answers; testcontainers starts the official images), `embedded`
(nextclick.shared.embedded). Docker and embedded run the same version of Apache Kafka.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
import redis
from docker.errors import DockerException

from nextclick.shared import embedded
from nextclick.shared.embedded.jars import read_lock
from nextclick.shared.kafka.brokers import live_brokers
from tests.waiting import until

KAFKA_VARIABLE = "TEST_KAFKA_BOOTSTRAP_SERVERS"
REDIS_VARIABLE = "TEST_REDIS_URL"
KAFKA_IMAGE = f"apache/kafka:{read_lock().kafka_version}"
REDIS_IMAGE = "valkey/valkey:8-alpine"


@dataclass(frozen=True)
class Backend:
    """Where the servers are, and how they came about."""

    kind: str
    bootstrap_servers: str
    redis_url: str


def choose() -> str:
    """Name the kind of backend that this machine gets."""
    given = [name for name in (KAFKA_VARIABLE, REDIS_VARIABLE) if os.environ.get(name)]
    if len(given) == 2:
        return "external"
    if given:
        raise RuntimeError(f"set both {KAFKA_VARIABLE} and {REDIS_VARIABLE}, or neither")
    if any(os.environ.get(name) for name in ("KAFKA_HOME", "REDIS_SERVER_BINARY")):
        return "embedded"  # who names the programs wants those
    if not os.environ.get("DOCKER_HOST") and not Path("/var/run/docker.sock").exists():
        return "embedded"
    try:
        client = docker.from_env(timeout=5)
    except DockerException:
        return "embedded"
    client.close()
    return "docker"


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Backend]:
    """Start the backend of that kind, and stop it again."""
    if kind == "external":
        yield Backend(kind, os.environ[KAFKA_VARIABLE], os.environ[REDIS_VARIABLE])
    elif kind == "docker":
        from testcontainers.core.container import DockerContainer

        kafka, valkey = DockerContainer(KAFKA_IMAGE), DockerContainer(REDIS_IMAGE)
        host = kafka.get_docker_client().host()
        # Ports are chosen before the start, as the broker tells its clients where it is.
        kafka_port, redis_port = embedded.free_port(), embedded.free_port()
        address, url = f"{host}:{kafka_port}", f"redis://{host}:{redis_port}/0"
        for name, value in container_environment(address).items():
            kafka.with_env(name, value)
        with kafka.with_bind_ports(9092, kafka_port), valkey.with_bind_ports(6379, redis_port):
            until(lambda: live_brokers(address), "Kafka in Docker", 120)
            until(lambda: answers_ping(url), "Valkey in Docker")
            yield Backend(kind, address, url)
    else:
        with ExitStack() as stack:
            kafka_server = embedded.start_kafka(folder)
            stack.callback(kafka_server.kill)
            redis_server = embedded.start_redis(folder)
            stack.callback(redis_server.kill)
            yield Backend(kind, kafka_server.address, f"redis://{redis_server.address}/0")


def answers_ping(url: str) -> bool:
    with redis.Redis.from_url(url) as client, contextlib.suppress(redis.RedisError):
        return bool(client.ping())
    return False


def container_environment(address: str) -> dict[str, str]:
    """The configuration of a broker in a container that clients reach at `address`."""
    properties = {
        "NODE_ID": "1",
        "PROCESS_ROLES": "broker,controller",
        "CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "ADVERTISED_LISTENERS": f"PLAINTEXT://{address}",
        "LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "AUTO_CREATE_TOPICS_ENABLE": "false",
        "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
        "SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
        "LOG_DIRS": "/var/lib/kafka/data",
    }
    return {f"KAFKA_{name}": value for name, value in properties.items()}
