"""The Python of README.md and docs/messages.md, run as it stands, on topics of this test's own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nextclick.services.topics.partitioner import java_partition
from nextclick.shared.kafka import Publisher, TopicReader, ensure_topics
from nextclick.shared.messages import Message, OutMessage
from nextclick.shared.runtime.settings import KafkaSettings
from nextclick.shared.schemas import Recommendation, decode_click
from tests.waiting import until

ROOT = Path(__file__).parents[2]
README, MESSAGES = ROOT / "README.md", ROOT / "docs" / "messages.md"


def blocks(page: Path, language: str, having: str) -> list[str]:
    """The blocks of code of a page that hold some text."""
    found = re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
    return [block for block in found if having in block]


def on_own_topics(code: str, kafka: KafkaSettings) -> str:
    """The code for the test's Kafka, and its topics in the place of the usual ones."""
    return (
        code.replace("localhost:9092", kafka.bootstrap_servers)
        .replace('"clicks"', json.dumps(kafka.clicks_topic))
        .replace('"recommendations"', json.dumps(kafka.recommendations_topic))
    )


@pytest.fixture(autouse=True)
def topics(kafka: KafkaSettings) -> None:
    ensure_topics(kafka, [kafka.clicks_topic, kafka.recommendations_topic])


def test_the_click_that_is_shown_is_sent(kafka: KafkaSettings) -> None:
    (code,) = blocks(MESSAGES, "python", "Producer(")
    subprocess.run([sys.executable, "-c", on_own_topics(code, kafka)], check=True, timeout=60)
    found: list[Message] = []
    reader = TopicReader(kafka, [kafka.clicks_topic])
    until(lambda: found.extend(reader.poll()) or found, "the click")
    reader.close()
    (message,) = found
    click = decode_click(message.value)
    (shown,) = blocks(MESSAGES, "json", '"timestamp"')
    expected = decode_click(shown.encode())
    assert (click.user_id, click.item_id) == (expected.user_id, expected.item_id)
    assert message.key == b"alice"
    assert message.partition == java_partition(b"alice", kafka.partitions)


@pytest.fixture(params=[README, MESSAGES], ids=lambda page: page.name)
def reading(request: pytest.FixtureRequest, kafka: KafkaSettings, name: str) -> Iterator[list[str]]:
    """The lines that the page's reader prints, as they come."""
    (code,) = blocks(request.param, "python", "Consumer(")
    code = on_own_topics(code, kafka).replace('"shop"', json.dumps(f"shop-{name}"))
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines: list[str] = []
    follower = threading.Thread(target=lines.extend, args=[process.stdout])
    follower.start()
    yield lines
    process.kill()
    process.wait()
    follower.join()
    process.stdout.close()


def test_the_reader_that_is_shown_prints_the_answer(
    kafka: KafkaSettings, reading: list[str]
) -> None:
    (shown,) = blocks(MESSAGES, "json", '"model_version"')
    answer = Recommendation.model_validate_json(shown)
    publisher = Publisher(kafka)

    def printed() -> bool:  # a new group reads what is sent after it has joined
        publisher.send([OutMessage(kafka.recommendations_topic, b"alice", shown.encode())])
        return bool(reading)

    until(printed, "a line")
    publisher.wait_acknowledged()
    assert reading[0] == f"alice {[item.item_id for item in answer.items]}\n"
