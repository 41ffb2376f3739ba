"""The clients in examples/: each prints the recommendations for clicks that it has sent."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nextclick.shared.kafka import ensure_topics
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from tests.conftest import Launch
from tests.integration.traffic import ITEMS, publish_model
from tests.waiting import until

EXAMPLES = Path(__file__).parents[2] / "examples"
BUILD_SECONDS = 400
"""The first build downloads its modules."""

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("go") is None, reason="go is not installed"),
]


def test_the_go_client(
    kafka: KafkaSettings, tmp_path: Path, launch: Launch, logs: Callable[[str], str]
) -> None:
    shop = tmp_path / "shop"
    build = ["go", "build", "-o", str(shop), "."]
    subprocess.run(build, cwd=EXAMPLES / "go", check=True, timeout=BUILD_SECONDS)
    publish_model(tmp_path / "registry", seed=1)
    ensure_topics(kafka, [kafka.clicks_topic, kafka.recommendations_topic, kafka.dlq_topic])
    launch("worker")
    launch("api", **{f"{PREFIX}API__PORT": "0"})
    until(lambda: "answering clicks" in logs("worker"), "the worker")
    until(lambda: "listening on http" in logs("api"), "the HTTP service")
    until(lambda: "serving model" in logs("api"), "its model")
    address = re.search(r"listening on (http://\S+)", logs("api"))
    assert address is not None
    topics = ["-clicks", kafka.clicks_topic, "-recommendations", kafka.recommendations_topic]
    done = subprocess.run(
        [shop, "-brokers", kafka.bootstrap_servers, *topics, "-api", address[1], "1", "2", "2"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    said = [line.partition(":")[0] for line in lines]
    assert said == ["after 1", "after 2", "after 2", "over HTTP"]
    known = {str(item) for item in range(1, ITEMS + 1)}
    lists = [re.findall(r"[^\s\[\]]+", line.partition(":")[2]) for line in lines]
    assert [len(items) for items in lists] == [10, 10, 10, 3]
    assert all(set(items) <= known for items in lists)
