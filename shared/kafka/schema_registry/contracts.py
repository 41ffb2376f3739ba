"""Our messages as Avro and Protobuf schemas; docs/schemas/ has them as files.

Same names and meaning as the models of `shared.schemas`, which are the JSON Schemas.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from pydantic import BaseModel

from nextclick.shared.schemas import (
    ProfiledExperimentRecommendation,
    ProfiledRecommendation,
    Recommendation,
)

DRAFT = "https://json-schema.org/draft/2020-12/schema"

_MILLIS = {"type": "long", "logicalType": "timestamp-millis"}

AVRO_CLICK: dict[str, Any] = {
    "type": "record",
    "name": "Click",
    "namespace": "nextclick",
    "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "user_id", "type": "string"},
        {"name": "item_id", "type": "string"},
        {"name": "timestamp", "type": _MILLIS},
        {"name": "event_type", "type": "string", "default": "click"},
    ],
}
AVRO_RECOMMENDATION: dict[str, Any] = {
    "type": "record",
    "name": "Recommendation",
    "namespace": "nextclick",
    "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "user_id", "type": "string"},
        {
            "name": "items",
            "type": {
                "type": "array",
                "items": {
                    "type": "record",
                    "name": "ScoredItem",
                    "fields": [
                        {"name": "item_id", "type": "string"},
                        {"name": "score", "type": "double"},
                    ],
                },
            },
        },
        {"name": "model_version", "type": "string"},
        {"name": "history", "type": {"type": "array", "items": "string"}},
        {"name": "click_timestamp", "type": _MILLIS},
        {"name": "scored_at", "type": _MILLIS},
        {"name": "fallback", "type": ["null", "string"], "default": None},
        {"name": "schema_version", "type": "int", "default": 1},
        {"name": "items_offset", "type": "long", "default": 0},
    ],
}
AVRO_PROFILED_RECOMMENDATION: dict[str, Any] = AVRO_RECOMMENDATION | {
    "fields": [
        *AVRO_RECOMMENDATION["fields"],
        {"name": "profile", "type": ["null", "string"], "default": None},
        {
            "name": "shortened_by",
            "type": ["null", {"type": "map", "values": "long"}],
            "default": None,
        },
    ]
}
"""Readers of one take the other, too."""
AVRO_EXPERIMENT_RECOMMENDATION: dict[str, Any] = AVRO_RECOMMENDATION | {
    "fields": [
        *AVRO_PROFILED_RECOMMENDATION["fields"],
        {
            "name": "experiment",
            "type": [
                "null",
                {
                    "type": "record",
                    "name": "ExperimentArm",
                    "fields": [
                        {"name": "name", "type": "string"},
                        {"name": "arm", "type": "string"},
                    ],
                },
            ],
            "default": None,
        },
    ]
}
"""Under a profile or not; readers of those take it, too."""

_STRING = FieldDescriptorProto.TYPE_STRING
_INT64 = FieldDescriptorProto.TYPE_INT64
_INT32 = FieldDescriptorProto.TYPE_INT32
_DOUBLE = FieldDescriptorProto.TYPE_DOUBLE


def protobuf_click() -> FileDescriptorProto:
    """A file with the message Click."""
    file = FileDescriptorProto(name="click.proto", package="nextclick", syntax="proto3")
    click = file.message_type.add(name="Click")
    for name, kind in {"event_id": _STRING, "user_id": _STRING, "item_id": _STRING}.items():
        _add(click, name, kind)
    _add(click, "timestamp", _INT64)
    _add(click, "event_type", _STRING)
    return file


def protobuf_recommendation(
    profiled: bool = False, experiment: bool = False
) -> FileDescriptorProto:
    """A file with the message Recommendation, first, and those that it uses.

    profiled: as it is under a profile, with two more fields. experiment: as it is in an experiment,
    under a profile or not, with three.
    """
    file = FileDescriptorProto(name="recommendation.proto", package="nextclick", syntax="proto3")
    answer = file.message_type.add(name="Recommendation")
    _add(answer, "event_id", _STRING)
    _add(answer, "user_id", _STRING)
    items = _add(answer, "items", FieldDescriptorProto.TYPE_MESSAGE, repeated=True)
    items.type_name = ".nextclick.ScoredItem"
    _add(answer, "model_version", _STRING)
    _add(answer, "history", _STRING, repeated=True)
    _add(answer, "click_timestamp", _INT64)
    _add(answer, "scored_at", _INT64)
    fallback = _add(answer, "fallback", _STRING)
    fallback.proto3_optional, fallback.oneof_index = True, 0
    answer.oneof_decl.add(name="_fallback")
    _add(answer, "schema_version", _INT32)
    _add(answer, "items_offset", _INT64)
    if profiled or experiment:
        _add(answer, "profile", _STRING)
        entry = answer.nested_type.add(name="ShortenedByEntry")
        entry.options.map_entry = True
        _add(entry, "key", _STRING)
        _add(entry, "value", _INT64)
        kind = FieldDescriptorProto.TYPE_MESSAGE
        counts = _add(answer, "shortened_by", kind, repeated=True)
        counts.type_name = ".nextclick.Recommendation.ShortenedByEntry"
    if experiment:
        _add(
            answer, "experiment", FieldDescriptorProto.TYPE_MESSAGE
        ).type_name = ".nextclick.ExperimentArm"
        arm = file.message_type.add(name="ExperimentArm")
        _add(arm, "name", _STRING)
        _add(arm, "arm", _STRING)
    item = file.message_type.add(name="ScoredItem")
    _add(item, "item_id", _STRING)
    _add(item, "score", _DOUBLE)
    return file


def _add(
    message: DescriptorProto, name: str, kind: FieldDescriptorProto.Type, repeated: bool = False
) -> FieldDescriptorProto:
    return message.field.add(
        name=name,
        number=len(message.field) + 1,
        type=kind,
        label=FieldDescriptorProto.LABEL_REPEATED
        if repeated
        else FieldDescriptorProto.LABEL_OPTIONAL,
    )


def proto_text(file: FileDescriptorProto) -> str:
    """A file in Protobuf's language; its messages have no options, and nest only maps."""
    lines = [f'syntax = "{file.syntax}";', f"package {file.package};"]
    for message in file.message_type:
        lines += ["", f"message {message.name} {{"]
        maps = {entry.name: entry for entry in message.nested_type}
        for field in message.field:
            if entry := maps.get(field.type_name.rpartition(".")[2]):
                key, value = (_kind(part) for part in entry.field)
                lines.append(f"  map<{key}, {value}> {field.name} = {field.number};")
                continue
            kind = _kind(field)
            label = "repeated " if field.label == field.LABEL_REPEATED else ""
            label = "optional " if field.proto3_optional else label
            name = field.type_name.rpartition(".")[2] or kind
            lines.append(f"  {label}{name} {field.name} = {field.number};")
        lines.append("}")
    return "\n".join(lines) + "\n"


def _kind(field: FieldDescriptorProto) -> str:
    name: str = FieldDescriptorProto.Type.Name(field.type)
    return name.removeprefix("TYPE_").lower()


def json_schema(
    message: type[BaseModel], mode: Literal["validation", "serialization"]
) -> dict[str, Any]:
    """The JSON Schema of a message, without the titles that only repeat the names of fields."""
    schema = message.model_json_schema(mode=mode)

    def without_titles(part: Any) -> Any:
        if isinstance(part, dict):
            named = {k: v for k, v in part.items() if not (k == "title" and isinstance(v, str))}
            return {k: without_titles(v) for k, v in named.items()}
        return part

    return {"$schema": DRAFT, "title": schema["title"], **without_titles(schema)}


def experiment_json_schema() -> dict[str, Any]:
    """The JSON Schema of a recommendation in an experiment, under a profile or not."""
    schema = json_schema(ProfiledExperimentRecommendation, "serialization")
    optional = ProfiledRecommendation.model_fields.keys() - Recommendation.model_fields.keys()
    schema["required"] = [name for name in schema["required"] if name not in optional]
    return schema


def recommendation_schema(kind: str, profiled: bool = False, experiment: bool = False) -> str:
    """The schema of recommendations as text for a registry. kind: avro, protobuf, json_schema.

    profiled: of those under a profile. experiment: of those in an experiment, under a profile or
    not.
    """
    if kind == "protobuf":
        return proto_text(protobuf_recommendation(profiled, experiment))
    if kind == "avro":
        return json.dumps(avro_recommendation(profiled, experiment))
    if experiment:
        return json.dumps(experiment_json_schema())
    model = ProfiledRecommendation if profiled else Recommendation
    return json.dumps(json_schema(model, "serialization"))


def avro_recommendation(profiled: bool, experiment: bool) -> dict[str, Any]:
    """The Avro schema of recommendations; see `recommendation_schema`."""
    if experiment:
        return AVRO_EXPERIMENT_RECOMMENDATION
    return AVRO_PROFILED_RECOMMENDATION if profiled else AVRO_RECOMMENDATION
