"""Clicks for the tests, the answers to them, and what the answers should have been."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    NewPartitions,
    NewTopic,
)

from nextclick.bench.agreement import lists_agree
from nextclick.shared.errors import Unavailable
from nextclick.shared.items import ItemTable
from nextclick.shared.kafka import Publisher, TopicReader
from nextclick.shared.messages import AS_REPLAYED, Message, OutMessage, of_user
from nextclick.shared.model import BST, BSTConfig, Checkpoint, Ranking, Scorer, Vocabulary
from nextclick.shared.model.related import RelatedLists
from nextclick.shared.redis import MemorySessions
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import KafkaSettings
from nextclick.shared.schemas import Click, Recommendation
from tests.waiting import until

ITEMS = 50


def publish_model(
    registry: Path,
    seed: int,
    weight: float | None = None,
    related: RelatedLists | None = None,
    promote: bool = True,
) -> str:
    """Publish a model with random weights: what it recommends is arbitrary but fixed.

    One of its weights is `weight`, if that is given.
    """
    torch.manual_seed(seed)
    model = BST(BSTConfig(items=ITEMS, embed_dim=16, heads=2, layers=1, feedforward=32))
    if weight is not None:
        with torch.no_grad():
            next(model.parameters()).view(-1)[-1] = weight
    vocabulary = Vocabulary([str(i) for i in range(1, ITEMS + 1)])
    popularity = np.arange(ITEMS, 0, -1)
    return Registry(str(registry)).publish(
        Checkpoint(model.eval(), vocabulary, popularity, "test", None, {}, {}, related=related),
        promote=promote,
    )


def make_clicks(count: int, users: int = 40, seed: int = 0) -> list[Click]:
    """Clicks a second apart, now and then half an hour apart, some on an item nobody knows."""
    rng = np.random.default_rng(seed)
    at = 1_700_000_000_000
    clicks = []
    for i in range(count):
        at += 2_000_000 if rng.random() < 0.002 else 1000
        item = "unheard-of" if rng.random() < 0.02 else str(rng.integers(1, ITEMS + 1))
        clicks.append(
            Click(
                event_id=f"event-{seed}-{i}",
                user_id=f"user-{rng.integers(users)}",
                item_id=item,
                timestamp=at,
            )
        )
    return clicks


class Shop:
    """Produces clicks."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._topic = kafka.clicks_topic
        self._publisher = Publisher(kafka)

    def send(self, clicks: Sequence[Click]) -> None:
        """Produce clicks, whose times are long ago, and wait until Kafka has them."""
        self._publisher.send(of_user(self._topic, click, AS_REPLAYED) for click in clicks)
        self._publisher.wait_acknowledged()

    def send_patiently(self, clicks: Sequence[Click]) -> None:
        """The same, however long Kafka is away."""
        self._publisher.send(of_user(self._topic, click, AS_REPLAYED) for click in clicks)
        while True:
            with contextlib.suppress(Unavailable):
                self._publisher.wait_acknowledged()
                return

    def send_raw(self, messages: Sequence[tuple[bytes | None, bytes | None]]) -> None:
        """Produce keys and values, whatever they are."""
        self._publisher.send(OutMessage(self._topic, key, value) for key, value in messages)
        self._publisher.wait_acknowledged()


def make_topic_anew(kafka: KafkaSettings, topic: str) -> None:
    """Delete a topic and create it again under its name: Kafka counts from 0 again."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.delete_topics([topic])[topic].result()

    def created() -> bool:
        try:  # Kafka deletes in the background
            admin.create_topics([NewTopic(topic, kafka.partitions, 1)])[topic].result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            raise
        return True

    until(created, f"{topic} is there again")


def add_partitions(kafka: KafkaSettings, partitions: int) -> None:
    """Give the clicks topic more partitions: so many in all."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    for future in admin.create_partitions([NewPartitions(kafka.clicks_topic, partitions)]).values():
        future.result()


def delete_records(kafka: KafkaSettings, before: dict[int, int]) -> None:
    """Remove what lies before these offsets of the clicks topic, as its retention would."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    places = [TopicPartition(kafka.clicks_topic, p, offset) for p, offset in before.items()]
    for future in admin.delete_records(places).values():
        future.result()


@dataclass
class Answers:
    """Reads the recommendations topic from its beginning."""

    kafka: KafkaSettings
    seen: list[Recommendation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = TopicReader(self.kafka, [self.kafka.recommendations_topic])

    def peek(self, seconds: float = 0.05) -> list[Recommendation]:
        """What has been answered, as far as it is here already or comes within `seconds`."""
        messages = self._reader.poll(timeout=seconds)
        self.seen += [Recommendation.model_validate_json(m.value or b"") for m in messages]
        return self.seen

    def read(self) -> list[Recommendation]:
        """Everything answered so far."""
        before = -1
        while len(self.seen) > before:
            before = len(self.seen)
            self.peek(0.5)
        return self.seen

    def wait_for(self, event_ids: set[str], seconds: float = 60.0) -> list[Recommendation]:
        """Wait until each of these clicks is answered."""
        until(
            lambda: event_ids <= {answer.event_id for answer in self.read()},
            f"{len(event_ids)} clicks answered",
            seconds,
        )
        return self.seen

    def close(self) -> None:
        self._reader.close()


def expected_histories(clicks: Sequence[Click]) -> dict[str, list[str]]:
    """The history of every click in a run that nothing ever interrupts."""
    store = MemorySessions(gap_ms=1_800_000, ttl_seconds=86_400)
    histories = store.append(clicks)
    return {c.event_id: history for c, history in zip(clicks, histories, strict=True)}


def recommended(
    registry: Path,
    version: str,
    histories: list[list[str]],
    withheld: frozenset[str] = frozenset(),
) -> list[Ranking]:
    """What a model version recommends, computed anew: all at once, so in other batches than a
    worker's, which must not matter."""
    scorer = Scorer(Registry(str(registry)).load(version), torch.device("cpu"), top_k=10)
    return scorer.recommend(histories, withheld=withheld)


def check(clicks: Sequence[Click], answers: Sequence[Recommendation], registry: Path) -> None:
    """Check every answer: to a click that was sent, from the right history, recomputable."""
    by_id = {c.event_id: c for c in clicks}
    histories = expected_histories(clicks)
    for answer in answers:
        asked = by_id[answer.event_id]
        assert answer.user_id == asked.user_id
        assert answer.click_timestamp == asked.timestamp
        assert answer.history == histories[answer.event_id]
    check_lists(answers, registry, ())


def check_lists(
    answers: Sequence[Recommendation], registry: Path, items: Sequence[Message]
) -> None:
    """Compute every list again from its message. items: all messages of the items topic."""
    alike: dict[tuple[str, int], list[Recommendation]] = defaultdict(list)
    for answer in answers:
        alike[answer.model_version, answer.items_offset].append(answer)
    for (version, offset), theirs in alike.items():
        then = ItemTable()
        then.apply(message for message in items if message.offset < offset)
        assert then.states.offset == offset
        histories = [answer.history for answer in theirs]
        rankings = recommended(registry, version, histories, then.states.withheld)
        for answer, again in zip(theirs, rankings, strict=True):
            assert lists_agree(answer.items, again.items)
            assert answer.fallback == again.fallback
