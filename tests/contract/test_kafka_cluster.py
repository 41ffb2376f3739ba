"""Three brokers, three replicas, two must acknowledge: what is acknowledged outlives a broker."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource

from nextclick.shared import embedded
from nextclick.shared.errors import Unavailable
from nextclick.shared.kafka import (
    LagMonitor,
    Publisher,
    ensure_topics,
    read_offsets,
    retained_offsets,
)
from nextclick.shared.messages import OutMessage
from nextclick.shared.runtime.settings import KafkaSettings
from tests.waiting import until

ALL_MUST_ANSWER_SECONDS = 60.0


@pytest.fixture
def settings(kafka_cluster: embedded.KafkaCluster, name: str) -> KafkaSettings:
    settings = KafkaSettings(
        bootstrap_servers=kafka_cluster.bootstrap_servers,
        clicks_topic=f"clicks-{name}",
        partitions=3,
        replication_factor=3,
    )
    ensure_topics(settings, [settings.clicks_topic])
    return settings


def messages(settings: KafkaSettings, first: int, count: int) -> list[OutMessage]:
    numbers = range(first, first + count)
    return [OutMessage(settings.clicks_topic, b"key", b"%d" % n, partition=n % 3) for n in numbers]


def numbers_held(settings: KafkaSettings) -> list[int]:
    """Every number on the topic, as often as it is there."""
    held = retained_offsets(settings, settings.clicks_topic)
    return sorted(int(m.value or b"") for m in read_offsets(settings, settings.clicks_topic, held))


def leader_of(cluster: embedded.KafkaCluster, topic: str) -> embedded.Server:
    """The broker that leads partition 0."""
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers})
    metadata = admin.list_topics(topic, timeout=10)
    port = metadata.brokers[metadata.topics[topic].partitions[0].leader].port
    return next(broker for broker in cluster.brokers if broker.port == port)


def test_with_one_broker_dead_messages_are_acknowledged_and_none_is_lost_or_doubled(
    kafka_cluster: embedded.KafkaCluster, settings: KafkaSettings
) -> None:
    publisher = Publisher(settings)
    publisher.send(messages(settings, 0, 300))
    publisher.wait_acknowledged()
    publisher.send(messages(settings, 300, 300))  # on their way while the leader dies
    leader_of(kafka_cluster, settings.clicks_topic).kill()
    publisher.send(messages(settings, 600, 300))
    publisher.wait_acknowledged(ALL_MUST_ANSWER_SECONDS)
    assert numbers_held(settings) == list(range(900))


def test_with_two_brokers_dead_nothing_is_acknowledged_until_one_is_back(
    kafka_cluster: embedded.KafkaCluster, settings: KafkaSettings
) -> None:
    publisher = Publisher(settings)
    publisher.send(messages(settings, 0, 30))
    publisher.wait_acknowledged()
    monitor = LagMonitor(settings, settings.clicks_topic, "nobody")
    monitor.ping(10.0)
    for broker in kafka_cluster.brokers[:2]:
        broker.kill()
    publisher.send(messages(settings, 30, 30))
    with pytest.raises(Unavailable, match="not acknowledged"):
        publisher.wait_acknowledged(3.0)
    for _ in range(5):  # the broker that is left still names all three in its metadata
        with pytest.raises(Unavailable):
            monitor.ping(0.5)
    kafka_cluster.brokers[0].restart()
    publisher.wait_acknowledged(ALL_MUST_ANSWER_SECONDS)
    assert numbers_held(settings) == list(range(60))
    until(lambda: answers(monitor), "the group's watcher sees all leaders again")
    monitor.close()


def answers(monitor: LagMonitor) -> bool:
    try:
        monitor.ping(0.5)
    except Unavailable:
        return False
    return True


def described(admin: AdminClient, topic: str) -> tuple[set[int], str] | None:
    """Replicas and min.insync.replicas; None: of three brokers one that does not know the topic yet
    was asked."""
    asked = ConfigResource(ConfigResource.Type.TOPIC, topic)
    try:
        config = admin.describe_configs([asked])[asked].result()
    except KafkaException:
        return None
    partitions = admin.list_topics(topic, timeout=10).topics[topic].partitions
    replicas = {len(partition.replicas) for partition in partitions.values()}
    return (replicas, config["min.insync.replicas"].value) if replicas else None


def test_topics_are_made_as_the_brokers_and_the_settings_say(
    kafka_cluster: embedded.KafkaCluster, name: str
) -> None:
    by_default = KafkaSettings(
        bootstrap_servers=kafka_cluster.bootstrap_servers, clicks_topic=f"default-{name}"
    )
    as_said = by_default.model_copy(
        update={
            "clicks_topic": f"said-{name}",
            "replication_factor": 2,
            "min_insync_replicas": 1,
        }
    )
    admin = AdminClient({"bootstrap.servers": kafka_cluster.bootstrap_servers})
    found = {}
    for settings in (by_default, as_said):
        topic = settings.clicks_topic
        ensure_topics(settings, [topic])

        def known(topic: str = topic) -> bool:
            if answer := described(admin, topic):
                found[topic] = answer
            return topic in found

        until(known, "a broker knows the topic")
    assert found == {f"default-{name}": ({3}, "2"), f"said-{name}": ({2}, "1")}
