from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.kafka import ensure_topics
from shared.settings import KafkaSettings
from tests.integration.traffic import Answers


@pytest.fixture
def answers(kafka: KafkaSettings) -> Iterator[Answers]:
    """Reads what is answered, on topics that are there already."""
    ensure_topics(kafka, [kafka.clicks_topic, kafka.recommendations_topic, kafka.dlq_topic])
    reader = Answers(kafka)
    yield reader
    reader.close()
