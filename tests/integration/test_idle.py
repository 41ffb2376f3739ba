"""A worker with nothing to do does nothing. Only a broker that holds empty fetches back shows it:
the embedded one answers them at once, so here librdkafka's mock cluster stands in for Kafka."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Producer

from shared.settings import PREFIX, KafkaSettings
from tests.conftest import Launch
from tests.integration.traffic import publish_model
from tests.waiting import until

WATCHED_SECONDS = 5.0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_worker_takes_no_processor_time(
    kafka: KafkaSettings, launch: Launch, tmp_path: Path
) -> None:
    mock = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "the mock's own"})
    (broker,) = mock.list_topics(timeout=10).brokers.values()
    for topic in (kafka.clicks_topic, kafka.recommendations_topic, kafka.dlq_topic):
        mock.list_topics(topic, timeout=10)  # the mock creates what is asked for
    publish_model(tmp_path / "registry", seed=1)
    worker = launch(
        "worker", **{f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS": f"{broker.host}:{broker.port}"}
    )
    log = tmp_path / "worker-0.log"
    until(lambda: "assigned partitions [0" in log.read_text(), "partitions")

    began = _cpu_seconds(worker.pid)
    with pytest.raises(subprocess.TimeoutExpired):  # it goes on
        worker.wait(WATCHED_SECONDS)
    assert _cpu_seconds(worker.pid) - began < 0.02 * WATCHED_SECONDS


def _cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
