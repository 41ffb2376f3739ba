"""Clicks and recommendations by a schema registry, which answers over HTTP on this machine."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema as RegistrySchema
from confluent_kafka.schema_registry import (
    SchemaReference,
    SchemaRegistryClient,
    header_schema_id_serializer,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.timestamp_pb2 import DESCRIPTOR as TIMESTAMP_FILE
from google.protobuf.wrappers_pb2 import DESCRIPTOR as WRAPPERS_FILE
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from nextclick.services.worker.main import ExperimentEncoder
from nextclick.shared.errors import BadClick, BadRecommendation, ConfigurationError, Unavailable
from nextclick.shared.kafka.schema_registry import answer_encoder, contracts, framed_reader
from nextclick.shared.kafka.schema_registry.client import SchemaRegistry
from nextclick.shared.kafka.schema_registry.reader import FramedReader
from nextclick.shared.runtime.retry import RetryUntilAvailable
from nextclick.shared.runtime.settings import SchemaRegistrySettings, Settings
from nextclick.shared.schemas import (
    SCHEMA_ID_HEADER,
    Click,
    DrawnItems,
    ExperimentArm,
    ExtendedRecommendation,
    KeptOutItems,
    ReadFramed,
    Recommendation,
    ScoredItem,
    decode_click,
    decode_extended,
    decode_recommendation,
)
from tests.schema_registry import Registry, as_posted, formats_asked_for, serving
from tests.waiting import until

FIELDS: dict[str, Any] = {
    "event_id": "e-1",
    "user_id": "ann",
    "item_id": "17",
    "timestamp": 1_795_515_998_017,
}
CLICK = Click(**FIELDS)
ANSWER = Recommendation(
    event_id="e-1",
    user_id="ann",
    items=[ScoredItem("45", 0.0274885), ScoredItem("ü", 1e-9)],
    model_version="20261124T102620-1fd4",
    history=["3", "17"],
    click_timestamp=1_795_515_998_017,
    scored_at=1_795_516_001_073,
)
CONTEXT = SerializationContext("clicks", MessageField.VALUE)


@pytest.fixture
def registry() -> Iterator[Registry]:
    found = Registry()
    with serving(found):
        yield found


@pytest.fixture
def client(registry: Registry) -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient({"url": registry.url}) as found:
        yield found


def settings(registry: Registry, **more: Any) -> SchemaRegistrySettings:
    return SchemaRegistrySettings(url=SecretStr(registry.url), **more)


def reader(registry: Registry, **more: Any) -> ReadFramed:
    found = framed_reader(settings(registry, **more), Click)
    assert found is not None
    return found


def framed(schema_id: int, payload: bytes) -> bytes:
    return b"\x00" + schema_id.to_bytes(4) + payload


def message_class(file: FileDescriptorProto, name: str) -> Any:
    pool = DescriptorPool()
    for known in (TIMESTAMP_FILE, WRAPPERS_FILE):
        pool.AddSerializedFile(known.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    find: Callable[[str], Any] = pool.FindMessageTypeByName
    return message_factory.GetMessageClass(find(name))


def by_avro(client: SchemaRegistryClient, schema: Any, fields: dict[str, Any]) -> bytes:
    value = AvroSerializer(client, json.dumps(schema))(fields, CONTEXT)
    assert value is not None
    return value


def by_protobuf(client: SchemaRegistryClient, message: Any) -> bytes:
    serializer = ProtobufSerializer(type(message), client, {"use.deprecated.format": False})
    value = serializer(message, CONTEXT)
    assert value is not None
    return value


def record(*fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": "Seen", "namespace": "shop", "fields": list(fields)}


STRINGS = [{"name": name, "type": "string"} for name in ("event_id", "user_id", "item_id")]
LONG = {"name": "timestamp", "type": "long"}


# --- what is read


def test_avro_protobuf_and_json_schema_are_read(
    registry: Registry, client: SchemaRegistryClient
) -> None:
    protobuf = message_class(contracts.protobuf_click(), "nextclick.Click")
    json_schema = json.dumps(Click.model_json_schema())
    values = [
        by_avro(client, contracts.AVRO_CLICK, FIELDS | {"event_type": "click"}),
        by_protobuf(client, protobuf(**FIELDS)),
        JSONSerializer(json_schema, client)(FIELDS, CONTEXT),
    ]
    read_framed = reader(registry)
    for value in values:
        assert value is not None
        assert value[0] == 0
        assert decode_click(value, (), read_framed) == CLICK
    assert formats_asked_for(registry) == {"serialized"}


def test_avro_names_aliases_nulls_enums_numbers_and_units(
    registry: Registry, client: SchemaRegistryClient
) -> None:
    micros = {"type": "long", "logicalType": "timestamp-micros"}
    schema = record(
        {"name": "page", "type": {"type": "map", "values": "double"}},
        {"name": "id", "aliases": ["uuid", "event_id"], "type": "string"},
        {"name": "user_id", "type": ["null", "long"]},
        {"name": "item_id", "type": ["string", "int"]},
        {"name": "timestamp", "type": ["null", micros]},
        {
            "name": "event_type",
            "type": {"type": "enum", "name": "Kind", "symbols": ["VIEW", "PURCHASE"]},
        },
        {"name": "schema_version", "type": ["null", "int"], "default": None},
        {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9}},
    )
    value = by_avro(
        client,
        schema,
        {
            "page": {"x": 1.5},
            "id": "e-1",
            "user_id": 2**40,
            "item_id": 17,
            "timestamp": FIELDS["timestamp"] * 1000 + 999,
            "event_type": "PURCHASE",
            "schema_version": None,
            "amount": Decimal(5),
        },
    )
    expected = CLICK.model_copy(update={"user_id": str(2**40), "event_type": "PURCHASE"})
    assert decode_click(value, (), reader(registry)) == expected


def test_an_avro_time_that_python_has_no_date_for_is_a_number(
    registry: Registry, client: SchemaRegistryClient
) -> None:
    millis = {"name": "timestamp", "type": {"type": "long", "logicalType": "timestamp-millis"}}
    value = by_avro(client, record(*STRINGS, millis), FIELDS | {"timestamp": 10**17})
    assert decode_click(value, (), reader(registry)).timestamp == 10**17


def test_avro_that_looks_like_json_is_read(
    registry: Registry, client: SchemaRegistryClient
) -> None:
    schema = record({"name": "first", "type": "int"}, *STRINGS, LONG)
    value = by_avro(client, schema, {"first": -62, **FIELDS})
    assert value[5:6] == b"{"
    assert decode_click(value, (), reader(registry)) == CLICK


def test_avro_with_a_reference_is_read(registry: Registry, client: SchemaRegistryClient) -> None:
    user = {"type": "record", "name": "User", "namespace": "shop", "fields": [STRINGS[1]]}
    client.register_schema("user", RegistrySchema(json.dumps(user), "AVRO"))
    schema = record(*STRINGS, LONG, {"name": "who", "type": "shop.User"})
    referring = RegistrySchema(
        json.dumps(schema), "AVRO", [SchemaReference("shop.User", "user", 1)]
    )
    schema_id = client.register_schema("clicks-value", referring)
    plain = by_avro(client, record(*STRINGS, LONG), FIELDS)[5:]
    assert decode_click(framed(schema_id, plain + b"\x06ann"), (), reader(registry)) == CLICK


def shops_protobuf() -> FileDescriptorProto:
    """Two messages; the click is nested in the second."""
    kinds = FieldDescriptorProto
    file = FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3")
    file.dependency.extend([TIMESTAMP_FILE.name, WRAPPERS_FILE.name])
    file.message_type.add(name="Other")
    click = file.message_type.add(name="Events").nested_type.add(name="Click")
    for number, (name, kind, type_name) in enumerate(
        [
            ("key", kinds.TYPE_STRING, ""),
            ("user_id", kinds.TYPE_INT64, ""),
            ("item_id", kinds.TYPE_MESSAGE, ".google.protobuf.StringValue"),
            ("timestamp", kinds.TYPE_MESSAGE, ".google.protobuf.Timestamp"),
            ("event_type", kinds.TYPE_ENUM, ".shop.Kind"),
        ],
        start=1,
    ):
        click.field.add(
            name=name,
            number=number,
            type=kind,
            type_name=type_name or None,
            label=kinds.LABEL_OPTIONAL,
        )
    click.field[0].json_name = "event_id"
    kind = file.enum_type.add(name="Kind")
    kind.value.add(name="UNKNOWN", number=0)
    kind.value.add(name="purchase", number=1)
    return file


def test_protobuf_numbers_times_wrappers_enums_and_json_names(
    registry: Registry, client: SchemaRegistryClient
) -> None:
    message = message_class(shops_protobuf(), "shop.Events.Click")(
        key="e-1", user_id=2**40, item_id={"value": "17"}, event_type=1
    )
    message.timestamp.FromMilliseconds(FIELDS["timestamp"])
    value = by_protobuf(client, message)
    assert value[5:8] == b"\x04\x02\x00"  # two indexes: of the second message the first
    expected = CLICK.model_copy(update={"user_id": str(2**40), "event_type": "purchase"})
    assert decode_click(value, (), reader(registry)) == expected


def test_a_protobuf_field_that_was_not_set_is_missing(
    registry: Registry, client: SchemaRegistryClient
) -> None:
    message = message_class(contracts.protobuf_click(), "nextclick.Click")(event_id="e-1")
    with pytest.raises(BadClick, match=r"^user_id: Field required") as caught:
        decode_click(by_protobuf(client, message), (), reader(registry))
    assert caught.value.reason == "invalid"


@pytest.mark.parametrize("kind", ["avro", "protobuf"])
def test_a_schemas_guid_in_a_header_is_recognised(
    registry: Registry, client: SchemaRegistryClient, kind: str
) -> None:
    context = SerializationContext("clicks", MessageField.VALUE, [])
    in_header = {"schema.id.serializer": header_schema_id_serializer}
    if kind == "avro":
        schema = json.dumps(contracts.AVRO_CLICK)
        value = AvroSerializer(client, schema, conf=in_header)(
            FIELDS | {"event_type": "click"}, context
        )
    else:
        message = message_class(contracts.protobuf_click(), "nextclick.Click")(**FIELDS)
        conf = {"use.deprecated.format": False, **in_header}
        value = ProtobufSerializer(type(message), client, conf)(message, context)
    assert isinstance(context.headers, list)
    assert [name for name, _ in context.headers] == [SCHEMA_ID_HEADER]
    assert decode_click(value, context.headers, reader(registry)) == CLICK


def test_plain_json_asks_nobody(registry: Registry) -> None:
    plain = json.dumps(FIELDS).encode()
    for value in (plain, framed(9, plain)):
        assert decode_click(value, (), reader(registry)) == CLICK
    assert not registry.requests
    assert framed_reader(SchemaRegistrySettings(), Click) is None


# --- what is a dead letter


def refusal(value: bytes, read_framed: ReadFramed | None, reason: str = "framed") -> str:
    with pytest.raises(BadClick) as caught:
        decode_click(value, (), read_framed)
    assert caught.value.reason == reason
    return str(caught.value)


def test_a_schema_without_our_fields_is_named_with_its_subject(
    registry: Registry, client: SchemaRegistryClient
) -> None:
    value = by_avro(client, record(STRINGS[0], LONG), FIELDS)
    expected = "schema 1 (subject clicks-value): it has no field item_id, user_id"
    assert refusal(value, reader(registry)) == expected


def test_a_schema_that_the_registry_does_not_have_is_asked_for_once_in_a_while(
    registry: Registry, client: SchemaRegistryClient
) -> None:
    now = [0.0]
    read_framed = FramedReader(
        SchemaRegistry(settings(registry)), Click, lambda act, *rest: act(*rest), lambda: now[0]
    )
    avro = by_avro(client, record(*STRINGS, LONG), FIELDS)[5:]
    registry.requests.clear()
    for _ in range(3):
        assert "schema 2: " in refusal(framed(2, avro), read_framed)
    assert len(registry.requests) == 1
    registry.schemas.append(registry.schemas[0])
    now[0] = 10.0
    assert decode_click(framed(2, avro), (), read_framed) == CLICK


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("AVRO", '"string"'),
        ("AVRO", "{"),
        ("AVRO", '{"type": "record"}'),
        ("AVRO", json.dumps(record({"name": "x", "type": "shop.Nothing"}))),
        ("PROTOBUF", "syntax = 'proto3';"),
        ("PROTOBUF", b64encode(b"\xff\xff").decode()),
        ("THRIFT", "struct Click {}"),
    ],
)
def test_a_schema_that_cannot_be_used_is_a_reason(registry: Registry, kind: str, text: str) -> None:
    schema_id = registry.register("clicks-value", text, kind)
    for _ in range(2):
        said = refusal(framed(schema_id, b"\x00\x06ann"), reader(registry))
        assert said.startswith("schema 1 (subject clicks-value): ")


def test_what_does_not_match_its_schema_is_a_reason(
    registry: Registry, client: SchemaRegistryClient
) -> None:
    value = by_avro(client, record(*STRINGS, LONG), FIELDS)
    for wrong in (value[:-3], value + b"x", framed(1, b"\xff" * 20)):
        assert "does not match it" in refusal(wrong, reader(registry))
    registry.register("json-value", "{}", "JSON")
    assert refusal(framed(2, b"?"), reader(registry), "not_json")
    assert refusal(framed(2, b"[1]"), reader(registry), "invalid")


@given(payload=st.binary(max_size=40), of_protobuf=st.booleans())
def test_any_bytes_are_a_click_or_a_bad_click(payload: bytes, of_protobuf: bool) -> None:
    value = framed(2 if of_protobuf else 1, payload)
    with contextlib.suppress(BadClick):
        assert isinstance(decode_click(value, (), _offline()), Click)


_OFFLINE: list[ReadFramed] = []


def _offline() -> ReadFramed:
    """A reader that has learned both schemas; its registry is gone."""
    if not _OFFLINE:
        registry = Registry()
        registry.register("a", json.dumps(contracts.AVRO_CLICK))
        registry.register("p", as_posted(contracts.protobuf_click()), "PROTOBUF")
        with serving(registry):
            read_framed = reader(registry)
            for schema_id in (1, 2):
                with pytest.raises(BadClick):
                    decode_click(framed(schema_id, b"\x00\x01"), (), read_framed)
        _OFFLINE.append(read_framed)
    return _OFFLINE[0]


def test_without_a_registry_the_setting_and_the_extra_are_named() -> None:
    said = refusal(framed(259, b"\x02e"), None)
    assert "schema 259" in said
    assert "NEXTCLICK_SCHEMA_REGISTRY__URL" in said
    assert "nextclick[schema-registry]" in said


# --- when the registry fails, a click waits and is not lost


def test_while_the_registry_is_down_a_click_waits(
    client: SchemaRegistryClient, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    value = by_avro(client, record(*STRINGS, LONG), FIELDS)
    stop, read = threading.Event(), []
    waiting = RetryUntilAvailable(stop, logging.getLogger("test"))
    read_framed = framed_reader(settings(registry), Click, waiting)
    registry.status = 503
    thread = threading.Thread(target=lambda: read.append(decode_click(value, (), read_framed)))
    thread.start()
    try:
        until(lambda: "waiting: the schema registry" in caplog.text, "the line of the log")
        assert not read
    finally:
        registry.status = 0
        thread.join()
    assert read == [CLICK]


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 429},
        {"status": 404},
        {"not_json": True},
        {"delay": 0.5},
    ],
    ids=str,
)
def test_a_registry_that_answers_nonsense_is_unavailable(
    registry: Registry, fault: dict[str, Any]
) -> None:
    for name, value in fault.items():
        setattr(registry, name, value)
    with pytest.raises(Unavailable, match="NEXTCLICK_SCHEMA_REGISTRY__URL"):
        decode_click(framed(1, b"\x02e"), (), reader(registry, timeout_seconds=0.1))


def test_schemas_that_are_known_need_no_registry(
    client: SchemaRegistryClient, registry: Registry
) -> None:
    value = by_avro(client, record(*STRINGS, LONG), FIELDS)
    read_framed = reader(registry)
    assert decode_click(value, (), read_framed) == CLICK
    registry.status = 500
    assert decode_click(value, (), read_framed) == CLICK
    with pytest.raises(Unavailable):
        decode_click(framed(2, b"\x02e"), (), read_framed)


def test_nobody_at_the_address_is_unavailable() -> None:
    registry = Registry()
    with serving(registry):
        pass
    with pytest.raises(Unavailable, match="does not answer"):
        decode_click(framed(1, b"\x02e"), (), reader(registry))


# --- login


def with_login(registry: Registry, login: str) -> SecretStr:
    return SecretStr(registry.url.replace("//", f"//{login}@"))


def test_a_password_in_the_url(registry: Registry) -> None:
    registry.login = "shop:se:cr/et"
    good = SchemaRegistrySettings(url=with_login(registry, "shop:se%3Acr%2Fet"))
    assert SchemaRegistry(good).ping() == ["AVRO", "JSON", "PROTOBUF"]
    bad = SchemaRegistry(SchemaRegistrySettings(url=with_login(registry, "shop:hunter2")))
    with pytest.raises(ConfigurationError, match="refused the login") as caught:
        bad.ping()
    assert "hunter2" not in str(caught.value)


def test_a_password_in_a_file_may_change(registry: Registry, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    registry.login = "shop:second"
    found = SchemaRegistry(
        SchemaRegistrySettings(url=with_login(registry, "shop"), password_file=str(file))
    )
    with pytest.raises(Unavailable, match="trying again with the password"):
        found.ping()
    file.write_text("second\n")
    assert found.ping()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"url": "localhost:8081"}, "NEXTCLICK_SCHEMA_REGISTRY__URL is no URL"),
        ({"url": "http://u:p@h:1", "password_file": "/dev/null"}, "must have a user and no pass"),
        ({"url": "http://u@h:1", "password_file": "/nowhere"}, "cannot be read"),
        ({"url": "https://h:1", "ca_file": "/nowhere"}, "__CA_FILE = /nowhere cannot be read"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        framed_reader(SchemaRegistrySettings(**wrong), Click)


# --- what is written


def encoded(registry: Registry, kind: Any) -> bytes:
    chosen = settings(registry, recommendations_format=kind, auto_register=True)
    return answer_encoder(chosen, "answers")(ANSWER)


@pytest.mark.parametrize("kind", ["json", "avro", "protobuf", "json_schema"])
def test_recommendations_are_read_back(registry: Registry, kind: str) -> None:
    read_framed = framed_reader(settings(registry), Recommendation)
    assert decode_recommendation(encoded(registry, kind), (), read_framed) == ANSWER
    assert list(registry.subjects) == ([] if kind == "json" else ["answers-value"])


def test_confluents_deserializers_read_recommendations(
    registry: Registry, client: SchemaRegistryClient
) -> None:
    context = SerializationContext("answers", MessageField.VALUE)
    expected = ANSWER.model_dump(mode="json")

    avro = AvroDeserializer(client)(encoded(registry, "avro"), context)
    assert isinstance(avro, dict)
    times = {name: avro.pop(name).timestamp() for name in ("click_timestamp", "scored_at")}
    assert {name: round(1000 * at) for name, at in times.items()} | avro == expected

    of_json = JSONDeserializer(None, schema_registry_client=client)
    assert of_json(encoded(registry, "json_schema"), context) == expected

    message = message_class(contracts.protobuf_recommendation(), "nextclick.Recommendation")
    of_protobuf = ProtobufDeserializer(message, {"use.deprecated.format": False}, client)
    found: Any = of_protobuf(encoded(registry, "protobuf"), context)
    assert (found.event_id, found.scored_at) == (ANSWER.event_id, ANSWER.scored_at)
    assert [(item.item_id, item.score) for item in found.items] == [
        (item.item_id, item.score) for item in ANSWER.items
    ]
    assert not found.HasField("fallback")


@pytest.mark.parametrize("kind", ["avro", "protobuf", "json_schema"])
def test_a_recommendation_under_a_profile_says_more_and_is_read_as_one(
    registry: Registry, client: SchemaRegistryClient, kind: Any
) -> None:
    chosen = settings(registry, recommendations_format=kind, auto_register=True)
    context = SerializationContext("answers", MessageField.VALUE)
    encode = answer_encoder(chosen, "answers", "profiled-recommendation")
    for shortened_by in (None, {"price": 7, "max_per_category": 2}):
        answer = ExtendedRecommendation(
            **dict(ANSWER), profile="cart@69fea1de5ef8", shortened_by=shortened_by
        )
        value = encode(answer)
        read_framed = framed_reader(settings(registry), Recommendation)
        assert decode_recommendation(value, (), read_framed) == ANSWER
        found: Any
        if kind == "avro":
            found = AvroDeserializer(client)(value, context)
        elif kind == "json_schema":
            found = JSONDeserializer(None, schema_registry_client=client)(value, context)
        else:
            file = contracts.protobuf_recommendation("profiled-recommendation")
            message = message_class(file, "nextclick.Recommendation")
            options = {"use.deprecated.format": False}
            of_protobuf: Any = ProtobufDeserializer(message, options, client)(value, context)
            counts = dict(of_protobuf.shortened_by) or None
            found = {"profile": of_protobuf.profile, "shortened_by": counts}
        assert (found["profile"], found["shortened_by"]) == (answer.profile, shortened_by)


@pytest.mark.parametrize("kind", ["avro", "protobuf", "json_schema"])
def test_a_recommendation_says_what_was_drawn_and_what_was_kept_out(
    registry: Registry, kind: Any
) -> None:
    chosen = settings(registry, recommendations_format=kind, auto_register=True)
    encode = answer_encoder(chosen, "answers", "extended-recommendation")
    read_framed = framed_reader(settings(registry), ExtendedRecommendation)
    arm = ExperimentArm(name="e", arm="a")
    for added in (
        {"kept_out": KeptOutItems(seen=["17", "é"], bought=["4"])},
        {"exploration": DrawnItems(seed="00", propensities=[1, 0.5])},
        {
            "kept_out": KeptOutItems(seen=[], bought=["4"]),
            "experiment": arm,
        },
    ):
        answer = ExtendedRecommendation(
            **dict(ANSWER), profile="fresh@69fea1de5ef8", shortened_by=None, **added
        )
        read = decode_extended(encode(answer), (), read_framed)
        assert (read.kept_out, read.exploration) == (answer.kept_out, answer.exploration)
        assert read.items == answer.items


@pytest.mark.parametrize("kind", ["avro", "protobuf", "json_schema"])
@pytest.mark.parametrize("profiled", [False, True])
def test_a_recommendation_in_an_experiment_says_so_in_a_schema_of_its_own(
    registry: Registry, kind: Any, profiled: bool
) -> None:
    """Looked up only when an experiment begins: without one a topic has the schema it had."""
    arm = ExperimentArm(name="try", arm="b")
    answer: Recommendation = ExtendedRecommendation(**dict(ANSWER), experiment=arm)
    if profiled:
        answer = ExtendedRecommendation(
            **dict(ANSWER), experiment=arm, profile="cart@69fea1de5ef8", shortened_by={"price": 7}
        )
    chosen = settings(registry, recommendations_format=kind, auto_register=True)
    encoder = ExperimentEncoder(
        Settings().model_copy(update={"schema_registry": chosen}), "answers"
    )
    assert registry.subjects == {}
    encoder.connect()
    encoder.connect()
    assert [len(versions) for versions in registry.subjects.values()] == [1]
    value = encoder(answer)
    read_framed = framed_reader(settings(registry), Recommendation)
    assert decode_recommendation(value, (), read_framed) == ANSWER
    assert decode_extended(value, (), read_framed).experiment == arm
    if profiled and kind == "json_schema":
        assert b"cart@69fea1de5ef8" in value
    chosen = settings(registry, recommendations_format=kind)
    strict = ExperimentEncoder(Settings().model_copy(update={"schema_registry": chosen}), "others")
    with pytest.raises(ConfigurationError, match=r"docs/schemas/experiment-recommendation\."):
        strict.connect()


def test_a_topic_without_a_profile_has_the_schema_that_it_had(registry: Registry) -> None:
    for kind in ("avro", "protobuf", "json_schema"):
        assert "shortened_by" not in contracts.recommendation_schema(kind)
        assert "shortened_by" in contracts.recommendation_schema(kind, "profiled-recommendation")
    chosen = settings(registry, recommendations_format="avro")
    with pytest.raises(ConfigurationError, match=r"docs/schemas/profiled-recommendation\.avsc"):
        answer_encoder(chosen, "answers", "profiled-recommendation")


def test_without_auto_register_the_schema_must_be_there(registry: Registry) -> None:
    chosen = settings(registry, recommendations_format="avro")
    with pytest.raises(ConfigurationError, match=r"answers-value: register docs/schemas/recomm"):
        answer_encoder(chosen, "answers")
    file = Path(__file__).parents[4] / "docs" / "schemas" / "recommendation.avsc"
    registry.register("answers-value", json.dumps(json.loads(file.read_text())))
    assert answer_encoder(chosen, "answers")(ANSWER)[:5] == framed(1, b"")


def test_a_format_without_a_registry_is_refused() -> None:
    chosen = SchemaRegistrySettings(recommendations_format="avro")
    with pytest.raises(ConfigurationError, match="NEXTCLICK_SCHEMA_REGISTRY__URL"):
        answer_encoder(chosen, "answers")


def test_a_framed_recommendation_without_a_registry_says_so(registry: Registry) -> None:
    with pytest.raises(BadRecommendation, match="NEXTCLICK_SCHEMA_REGISTRY__URL"):
        decode_recommendation(encoded(registry, "avro"))


def test_the_contracts_have_the_fields_of_the_messages() -> None:
    fields = {field["name"] for field in contracts.AVRO_RECOMMENDATION["fields"]}
    (answer, _) = contracts.protobuf_recommendation().message_type
    assert fields == {field.name for field in answer.field} == set(Recommendation.model_fields)
    of_click = {field["name"] for field in contracts.AVRO_CLICK["fields"]}
    (click,) = contracts.protobuf_click().message_type
    assert of_click == {field.name for field in click.field}
    assert of_click == set(Click.model_fields) - {"schema_version"}
