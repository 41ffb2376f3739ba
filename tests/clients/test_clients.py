"""The clients in examples/: each prints the recommendations for clicks that it has sent."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nextclick.shared.kafka import ensure_topics
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
CLICKED = ("1", "2", "2")


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
    for program in client.programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    for build in client.builds:
        subprocess.run(build.split(), cwd=folder, check=True, timeout=BUILD_SECONDS)
    publish_model(tmp_path / "registry", seed=1)
    ensure_topics(kafka, kafka.topics)
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
    assert said == [*(f"after {item}" for item in CLICKED), "over HTTP"]
    known = {str(item) for item in range(1, ITEMS + 1)}
    lists = [re.findall(r"[^\s\[\],']+", line.partition(":")[2]) for line in lines]
    assert [len(items) for items in lists] == [10, 10, 10, 3]
    assert all(set(items) <= known for items in lists)
