"""Confluent's serializers, a real worker, and Confluent's deserializer for what it answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient, header_schema_id_serializer
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool

from nextclick.shared.kafka import TopicReader, ensure_topics
from nextclick.shared.kafka.schema_registry import contracts, framed_reader
from nextclick.shared.messages import Message
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings, SchemaRegistrySettings
from nextclick.shared.schemas import Click, Recommendation, decode_recommendation
from tests.conftest import Launch
from tests.integration.traffic import make_clicks, publish_model
from tests.schema_registry import Registry, serving
from tests.waiting import until

Serialize = Callable[[Click, SerializationContext], bytes | None]


@pytest.fixture
def schemas() -> Iterator[Registry]:
    found = Registry()
    with serving(found):
        yield found


def serializers(client: SchemaRegistryClient) -> list[Serialize]:
    avro_schema = json.dumps(contracts.AVRO_CLICK)
    avro = AvroSerializer(client, avro_schema)
    in_header: Any = {"schema.id.serializer": header_schema_id_serializer}
    guid = AvroSerializer(client, avro_schema, conf=in_header)
    of_json = JSONSerializer(json.dumps(Click.model_json_schema()), client)
    pool = DescriptorPool()
    pool.AddSerializedFile(contracts.protobuf_click().SerializeToString())
    find: Any = pool.FindMessageTypeByName
    message: Any = message_factory.GetMessageClass(find("nextclick.Click"))
    protobuf = ProtobufSerializer(message, client, {"use.deprecated.format": False})

    def fields(click: Click) -> dict[str, Any]:
        return click.model_dump(exclude={"schema_version"})

    return [
        lambda click, context: avro(fields(click), context),
        lambda click, context: guid(fields(click), context),
        lambda click, context: of_json(fields(click), context),
        lambda click, context: protobuf(message(**fields(click)), context),
    ]


def test_clicks_by_serializers_are_answered_by_a_schema(
    kafka: KafkaSettings,
    schemas: Registry,
    tmp_path: Path,
    launch: Launch,
    logs: Callable[[str], str],
) -> None:
    publish_model(tmp_path / "registry", seed=1)
    topics = [kafka.clicks_topic, kafka.recommendations_topic, kafka.dlq_topic]
    ensure_topics(kafka, topics)
    url = f"{PREFIX}SCHEMA_REGISTRY__URL"
    more = {
        url: schemas.url,
        f"{PREFIX}SCHEMA_REGISTRY__RECOMMENDATIONS_FORMAT": "avro",
        f"{PREFIX}SCHEMA_REGISTRY__AUTO_REGISTER": "true",
    }
    launch("worker", **more)
    until(lambda: "answering clicks" in logs("worker"), "the worker")
    clicks = make_clicks(40)
    with SchemaRegistryClient({"url": schemas.url}) as client:
        producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
        by = serializers(client)
        headers: list[tuple[str, bytes]]
        prepared = []
        for number, click in enumerate(clicks):
            headers = [("replayed", b"1")]
            context = SerializationContext(kafka.clicks_topic, MessageField.VALUE, headers)
            prepared.append((click, by[number % len(by)](click, context), headers))
        schemas.status = 503  # no click may be lost for it
        for click, value, headers in prepared:
            producer.produce(kafka.clicks_topic, value, click.user_id, headers=headers)
        nobody_s = b"\x00\x00\x00\x03\xe7\x02e"
        producer.produce(kafka.clicks_topic, nobody_s, b"nobody")
        assert producer.flush(30) == 0
        until(lambda: "waiting: the schema registry" in logs("worker"), "the worker waits")
        schemas.status = 0

        reader = TopicReader(kafka, topics[1:])
        found: list[Message] = []
        try:
            until(lambda: found.extend(reader.poll()) or len(found) > len(clicks), "the answers")
        finally:
            reader.close()
        answers = [m for m in found if m.topic == kafka.recommendations_topic]
        deserialize = AvroDeserializer(client)
        context = SerializationContext(kafka.recommendations_topic, MessageField.VALUE)
        read: list[Any] = [deserialize(m.value, context) for m in answers]
    assert {a["event_id"] for a in read} == {c.event_id for c in clicks}
    assert all(len(a["items"]) == 10 for a in read)
    launch("trainer", "--once", **{url: schemas.url})
    until(lambda: f"{len(clicks)} clicks logged, too few" in logs("trainer"), "the trainer")
    (dead,) = (m for m in found if m.topic == kafka.dlq_topic)
    assert dict(dead.headers)["error_class"] == b"framed"
    assert b"schema 999" in (dict(dead.headers)["error"] or b"")

    registry = SchemaRegistrySettings.model_validate({"url": schemas.url})
    read_framed = framed_reader(registry, Recommendation)
    assert read_framed is not None
    ours = [decode_recommendation(m.value, m.headers, read_framed) for m in answers]
    assert [a.event_id for a in ours] == [a["event_id"] for a in read]
