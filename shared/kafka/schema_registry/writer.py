"""Writes recommendations by a schema in a registry."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_writer
from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.kafka.schema_registry.avro import without_logical_types
from nextclick.shared.kafka.schema_registry.client import Kind, SchemaNotFound, SchemaRegistry
from nextclick.shared.kafka.schema_registry.contracts import (
    avro_recommendation,
    protobuf_recommendation,
    recommendation_schema,
)
from nextclick.shared.messages import EncodeRecommendation, as_json
from nextclick.shared.schemas import AnswerSchema, Recommendation

_KINDS: dict[str, Kind] = {"avro": "AVRO", "protobuf": "PROTOBUF", "json_schema": "JSON"}
_ENDINGS = {"avro": "avsc", "protobuf": "proto", "json_schema": "json"}
FIRST_MESSAGE = b"\x00"
"""A Protobuf value is of the first message of its file."""


def make_encoder(
    registry: SchemaRegistry,
    kind: str,
    topic: str,
    auto_register: bool,
    answers: AnswerSchema = "recommendation",
) -> EncodeRecommendation:
    """Encodes by the schema of the subject of the topic's values (TopicNameStrategy).

    kind: avro, protobuf, json_schema. answers: which of our schemas. Raises as `answer_encoder`
    does.
    """
    subject = f"{topic}-value"
    schema = recommendation_schema(kind, answers)
    try:
        schema_id = registry.schema_id(subject, _KINDS[kind], schema, register=auto_register)
    except SchemaNotFound:
        raise ConfigurationError(
            f"the schema registry {registry.name} does not have our schema of recommendations "
            f"under the subject {subject}: register "
            f"docs/schemas/{answers}.{_ENDINGS[kind]} there, or set "
            "NEXTCLICK_SCHEMA_REGISTRY__AUTO_REGISTER=true"
        ) from None
    frame = b"\x00" + schema_id.to_bytes(4)
    if kind == "avro":
        return _avro(frame, avro_recommendation(answers))
    if kind == "protobuf":
        return _protobuf(frame + FIRST_MESSAGE, protobuf_recommendation(answers))
    return _json(frame)


def _avro(frame: bytes, ours: dict[str, Any]) -> EncodeRecommendation:
    schema = parse_schema(without_logical_types(ours))

    def encode(answer: Recommendation) -> bytes:
        value = BytesIO()
        value.write(frame)
        schemaless_writer(value, schema, _fields(answer))
        return value.getvalue()

    return encode


def _protobuf(frame: bytes, file: FileDescriptorProto) -> EncodeRecommendation:
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    find: Callable[[str], Any] = pool.FindMessageTypeByName
    message: Any = message_factory.GetMessageClass(find("nextclick.Recommendation"))

    def encode(answer: Recommendation) -> bytes:
        return frame + bytes(message(**_fields(answer)).SerializeToString())

    return encode


def _json(frame: bytes) -> EncodeRecommendation:
    return lambda answer: frame + as_json(answer)


def _fields(answer: Recommendation) -> dict[str, Any]:
    fields = dict(answer)
    fields["items"] = [{"item_id": item.item_id, "score": item.score} for item in answer.items]
    for name in ("experiment", "exploration", "kept_out"):
        # One that is missing may be unknown to the schema as well.
        if (part := fields.pop(name, None)) is not None:
            fields[name] = dict(part)
    return fields
