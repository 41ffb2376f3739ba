"""`nextclick topics check` on real topics."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from nextclick.services.topics.partitioner import java_partition
from nextclick.shared.kafka import Publisher, TopicReader, ensure_topics
from nextclick.shared.messages import OutMessage
from nextclick.shared.runtime.settings import KafkaSettings
from nextclick.shared.schemas import Click
from tests.integration.terminal import nextclick
from tests.waiting import until


@pytest.fixture(autouse=True)
def topic(kafka: KafkaSettings) -> None:
    ensure_topics(kafka, [kafka.clicks_topic])


def clicks(count: int, users: int = 100) -> list[Click]:
    now = int(time.time() * 1000)
    return [
        Click(event_id=f"e-{i}", user_id=f"user-{i % users}", item_id="i", timestamp=now)
        for i in range(count)
    ]


def test_our_producers_choose_the_partition_that_the_java_client_would(
    kafka: KafkaSettings,
) -> None:
    shop = clicks(200, users=200)
    put(kafka, shop)
    reader = TopicReader(kafka, [kafka.clicks_topic])
    found: dict[bytes, int] = {}
    until(
        lambda: (
            found.update((m.key or b"", m.partition) for m in reader.poll()) or len(found) == 200
        ),
        "200 clicks",
    )
    reader.close()
    assert found == {
        click.user_id.encode(): java_partition(click.user_id.encode(), kafka.partitions)
        for click in shop
    }


def put(kafka: KafkaSettings, shop: list[Click], partition: int | None = None) -> None:
    """Send clicks where our producers send them, or onto one partition."""
    publisher = Publisher(kafka)
    for click in shop:
        key = click.user_id.encode()
        value = click.model_dump_json().encode()
        publisher.send([OutMessage(kafka.clicks_topic, key, value, partition=partition)])
    publisher.wait_acknowledged()


def checked(
    environ: dict[str, str], file: Path, *options: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, object]]:
    result = nextclick(environ, "topics", "check", "--json", str(file), *options)
    assert result.stderr == ""
    return result, json.loads(file.read_text())


def test_a_good_topic_is_said_to_be_good(
    environ: dict[str, str], kafka: KafkaSettings, tmp_path: Path
) -> None:
    result, _ = checked(environ, tmp_path / "empty.json")
    assert (result.returncode, "nothing to check" in result.stdout) == (0, True)
    put(kafka, clicks(400))
    result, report = checked(environ, tmp_path / "report.json")
    assert (result.returncode, report["findings"]) == (0, [])
    assert "4 partitions; looked at 400 messages of 100 users" in result.stdout
    assert "nothing is wrong" in result.stdout


def test_each_trouble_is_a_line_and_the_exit_code_is_1(
    environ: dict[str, str], kafka: KafkaSettings, tmp_path: Path
) -> None:
    put(kafka, clicks(200), partition=0)
    late = [c.model_copy(update={"timestamp": c.timestamp // 1000}) for c in clicks(50)]
    put(kafka, late, partition=1)
    result, report = checked(environ, tmp_path / "report.json")
    names = ["user_on_several_partitions", "not_murmur2", "empty_partitions", "time_in_seconds"]
    findings = report["findings"]
    assert isinstance(findings, list)
    assert [finding["name"] for finding in findings] == names
    assert [line.partition(":")[0] for line in result.stdout.splitlines()[1:]] == names
    assert (result.returncode, findings[3]["count"]) == (1, 50)
    assert findings[3]["first"] == {"partition": 1, "offset": 0}


def test_it_reads_no_more_than_it_is_told(
    environ: dict[str, str], kafka: KafkaSettings, tmp_path: Path
) -> None:
    put(kafka, [c.model_copy(update={"timestamp": 0}) for c in clicks(100)])
    put(kafka, clicks(400))
    result, report = checked(environ, tmp_path / "report.json", "--messages", "80")
    assert (result.returncode, report["messages"]) == (0, 80)
