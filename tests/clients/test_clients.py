"""The clients in examples/: each prints the recommendations for clicks that it has sent.

Types of the messages are generated from docs/schemas, in Java and TypeScript when they are built.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nextclick.services.topics.partitioner import java_partition, librdkafka_partition, murmur2
from nextclick.shared.kafka import TopicReader, ensure_topics
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from tests.conftest import Launch
from tests.integration.traffic import ITEMS, publish_model
from tests.waiting import until

EXAMPLES = Path(__file__).parents[2] / "examples"
BUILD_SECONDS = 500
"""The first build downloads its modules."""
START_SECONDS = 180
"""Compilers may still be at work beside it."""
API_KEY = "let-me-in"
NPM_INSTALL = "npm ci --ignore-scripts --no-fund --no-audit"
CLICKED = ("1", "2", "2")
USER = "bob"
"""His hash is negative, so that a partitioner that is not Kafka's own chooses another partition."""
PARTITIONS = 6
"""No power of two: with one, signed and unsigned hashes are the same partition."""


@dataclass(frozen=True)
class Client:
    """How a client is built and started, in its folder."""

    builds: tuple[str, ...]
    start: str
    option: str
    """How a setting is given: with the places of its name and its value."""
    rest: str = ""
    """What follows the options and precedes the items."""

    @property
    def programs(self) -> list[str]:
        """What has to be installed."""
        commands = [*self.builds, self.start]
        return [program for c in commands if "/" not in (program := c.partition(" ")[0])]

    def command(self, options: dict[str, str]) -> list[str]:
        given = [self.option.format(name, value) for name, value in options.items()]
        return [*self.start.split(), *given, *self.rest.split(), *CLICKED]


CLIENTS = {
    "go": Client(("go build -o build/ .",), "build/shop", "-{}={}"),
    "java": Client(("mvn -q -B package",), "java", "-D{}={}", "-jar target/shop.jar"),
    "typescript": Client(
        (NPM_INSTALL, "npm run build"),
        "node build/shop.js",
        "--{}={}",
    ),
}

pytestmark = pytest.mark.long


@pytest.mark.parametrize("language", sorted(CLIENTS))
def test_a_client_gets_lists_for_its_clicks(
    language: str,
    kafka: KafkaSettings,
    tmp_path: Path,
    launch: Launch,
    logs: Callable[[str], str],
) -> None:
    client, folder = CLIENTS[language], EXAMPLES / language
    need(*client.programs)
    for build in client.builds:
        subprocess.run(build.split(), cwd=folder, check=True, timeout=BUILD_SECONDS)
    publish_model(tmp_path / "registry", seed=1)
    ensure_topics(kafka.model_copy(update={"partitions": PARTITIONS}), kafka.topics)
    key = {f"{PREFIX}API__KEY": API_KEY}
    launch("worker")
    launch("api", **{f"{PREFIX}API__PORT": "0"}, **key)
    until(lambda: "answering clicks" in logs("worker"), "the worker", START_SECONDS)
    until(lambda: "listening on http" in logs("api"), "the HTTP service", START_SECONDS)
    until(lambda: "serving model" in logs("api"), "its model", START_SECONDS)
    address = re.search(r"listening on (http://\S+)", logs("api"))
    assert address is not None
    options = {
        "brokers": kafka.bootstrap_servers,
        "clicks": kafka.clicks_topic,
        "recommendations": kafka.recommendations_topic,
        "user": USER,
        "api": address[1],
    }
    done = subprocess.run(
        client.command(options),
        cwd=folder,
        env={**os.environ, **key},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    said = [line.partition(":")[0] for line in lines]
    after = [f"after {item}" for item in CLICKED]
    assert said == [*after, f"{after[-1]} over HTTP", "for the history"]
    known = {str(item) for item in range(1, ITEMS + 1)}
    lists = [re.findall(r"[^\s\[\],]+", line.partition(":")[2]) for line in lines]
    assert [len(items) for items in lists] == [10, 10, 10, 3, 3]
    assert all(set(items) <= known for items in lists)
    assert partitions_of_clicks(kafka) == [java_partition(USER.encode(), PARTITIONS)] * 4


def partitions_of_clicks(kafka: KafkaSettings) -> list[int]:
    """Of all clicks of the user, those over HTTP as well."""
    reader = TopicReader(kafka, [kafka.clicks_topic])
    found: list[int] = []
    try:
        while len(found) <= len(CLICKED):
            for message in reader.poll(10, 1):
                assert message.key == USER.encode()
                found.append(message.partition)
    finally:
        reader.close()
    return found


def test_the_user_tells_partitioners_apart() -> None:
    unsigned = (murmur2(USER.encode()) & 0xFFFFFFFF) % PARTITIONS
    others = {unsigned, librdkafka_partition(USER.encode(), PARTITIONS)}
    assert java_partition(USER.encode(), PARTITIONS) not in others


def test_types_of_the_client_in_go_are_as_the_schemas_are(tmp_path: Path) -> None:
    """These are kept in the repository, as Go is used to."""
    need("go")
    folder = EXAMPLES / "go"
    (generate,) = re.findall(r"//go:generate (.+)", (folder / "main.go").read_text())
    written = tmp_path / "types.go"
    command = generate.replace(" types.go ", f" {written} ").split()
    subprocess.run(command, cwd=folder, check=True, timeout=BUILD_SECONDS)
    assert (folder / "types.go").read_text() == written.read_text(), "run `go generate`"


def need(*programs: str) -> None:
    """In CI a skipped test is a failed one."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
