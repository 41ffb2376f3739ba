"""The Kafka and Redis that the tests run against: real ones, always.

In this order: `external` (TEST_KAFKA_BOOTSTRAP_SERVERS and TEST_REDIS_URL are set), `docker`
(an engine answers; testcontainers starts Apache Kafka and Valkey), `embedded` (the wheels).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import DockerException

from shared import embedded

KAFKA_VARIABLE = "TEST_KAFKA_BOOTSTRAP_SERVERS"
REDIS_VARIABLE = "TEST_REDIS_URL"
KAFKA_IMAGE = "confluentinc/cp-kafka:7.9.1"
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
        from testcontainers.kafka import KafkaContainer
        from testcontainers.redis import RedisContainer

        with (
            KafkaContainer(KAFKA_IMAGE).with_kraft() as kafka,
            RedisContainer(REDIS_IMAGE) as redis,
        ):
            url = f"redis://{redis.get_container_host_ip()}:{redis.get_exposed_port(6379)}/0"
            yield Backend(kind, kafka.get_bootstrap_server(), url)
    else:
        with ExitStack() as stack:
            kafka_server = embedded.start_kafka(folder)
            stack.callback(kafka_server.kill)
            redis_server = embedded.start_redis(folder)
            stack.callback(redis_server.kill)
            yield Backend(kind, kafka_server.address, f"redis://{redis_server.address}/0")
