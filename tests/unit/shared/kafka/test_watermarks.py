"""Offsets of a partition whose leader is changing; the answers are those of a real broker's."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from nextclick.shared.kafka.client import _watermarks


class Answers:
    """A consumer that gives these answers in turn."""

    def __init__(self, *answers: int | tuple[int, int]) -> None:
        self.left = list(answers)

    def get_watermark_offsets(self, place: TopicPartition, timeout: float) -> tuple[int, int]:
        answer = self.left.pop(0)
        if isinstance(answer, int):
            raise KafkaException(KafkaError(answer))
        return answer


def ask(consumer: Any, timeout: float) -> range:
    return _watermarks(consumer, TopicPartition("clicks", 0), timeout)


@pytest.mark.parametrize(
    "moving", [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.OFFSET_NOT_AVAILABLE]
)
def test_it_is_asked_again_until_the_new_leader_knows(moving: int) -> None:
    assert ask(Answers(moving, moving, (3, 8)), 10.0) == range(3, 8)
    with pytest.raises(KafkaException):
        ask(Answers(moving), 0.0)


def test_another_error_is_raised_at_once() -> None:
    with pytest.raises(KafkaException):
        ask(Answers(KafkaError.TOPIC_AUTHORIZATION_FAILED, (3, 8)), 10.0)
