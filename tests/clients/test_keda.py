"""How many workers KEDA's own scaler asks for, by the trigger in deploy/k8s, of a real Kafka."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from confluent_kafka import Consumer, Producer, TopicPartition

from nextclick.shared.kafka import ensure_topics
from nextclick.shared.runtime.settings import KafkaSettings
from tests.clients.test_clients import BUILD_SECONDS, need

FOLDER = Path(__file__).parent / "keda"
MODULE = "github.com/kedacore/keda/v2"
FILES = ("kafka_scaler.go", "scaler.go")
MANIFEST = Path(__file__).parents[2] / "deploy" / "k8s" / "base" / "worker-scaling.yaml"
SCALED = yaml.safe_load(MANIFEST.read_text())["spec"]
PARTITIONS = KafkaSettings().partitions
CLICKS = 1500
"""On each partition."""

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def scaler() -> None:
    need("go")

    def go(*arguments: str) -> str:
        command = ["go", *arguments]
        return subprocess.run(
            command,
            cwd=FOLDER,
            check=True,
            timeout=BUILD_SECONDS,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    go("mod", "download", MODULE)
    source = Path(go("list", "-m", "-f", "{{.Dir}}", MODULE).strip()) / "pkg" / "scalers"
    copies = FOLDER / "build" / "scalers"
    copies.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(source / name, copies / name)
    go("build", "-o", "build/", ".")


@pytest.fixture
def workers(kafka: KafkaSettings, name: str) -> Callable[[int | None], tuple[int, int]]:
    """Metric and replicas when every partition lags by so many clicks; None: no offset is there."""
    group, topic = f"worker-{name}", kafka.clicks_topic
    ensure_topics(kafka.model_copy(update={"partitions": PARTITIONS}), [topic])
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "linger.ms": 50})
    for partition in range(PARTITIONS):
        for _ in range(CLICKS):
            producer.produce(topic, b"{}", partition=partition)
    assert producer.flush(30) == 0
    (trigger,) = SCALED["triggers"]
    metadata = {
        **trigger["metadata"],
        "bootstrapServers": kafka.bootstrap_servers,
        "consumerGroup": group,
        "topic": topic,
    }

    def ask(lag: int | None) -> tuple[int, int]:
        if lag is not None:
            offsets = [TopicPartition(topic, p, CLICKS - lag) for p in range(PARTITIONS)]
            consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": group})
            try:
                consumer.commit(offsets=offsets, asynchronous=False)
            finally:
                consumer.close()
        asked = subprocess.run(
            ["build/keda", json.dumps(metadata)],
            cwd=FOLDER,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert asked.returncode == 0, asked.stderr
        answer = json.loads(asked.stdout)
        wanted = math.ceil(answer["metric"] / answer["target"])
        return answer["metric"], min(
            max(wanted, SCALED["minReplicaCount"]), SCALED["maxReplicaCount"]
        )

    return ask


def test_workers_by_lag(workers: Callable[[int | None], tuple[int, int]]) -> None:
    """The table in docs/operations.md."""
    assert workers(None) == (8, 2), "a new group: 1 a partition"
    assert workers(0) == (0, 2)
    assert workers(250) == (2000, 2)
    assert workers(251) == (2008, 3)
    assert workers(500) == (4000, 4)
    assert workers(1500) == (8000, 8), "of 12,000: no more than the partitions"
