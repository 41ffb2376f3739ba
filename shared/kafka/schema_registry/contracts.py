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

from nextclick.shared.schemas import AnswerSchema, ExtendedRecommendation, Recommendation

_FIELDS: dict[AnswerSchema, tuple[str, ...]] = {
    "profiled-recommendation": ("profile", "shortened_by"),
    "experiment-recommendation": ("experiment",),
    "extended-recommendation": ("exploration", "kept_out"),
}
"""By schema, the fields that those before it have not."""
_REQUIRED: dict[AnswerSchema, tuple[str, ...]] = {
    "profiled-recommendation": ("profile", "shortened_by"),
    "experiment-recommendation": ("experiment",),
}
"""What a schema's answers always have, beside what plain ones have."""
_DESCRIPTIONS: dict[AnswerSchema, str] = {
    "profiled-recommendation": "An answer on a topic of NEXTCLICK_KAFKA__PROFILE_TOPICS.",
    "experiment-recommendation": "An answer in a live experiment, under a profile or not.",
    "extended-recommendation": "An answer on a topic whose profile explores, or keeps out what the "
    "user clicked.",
}

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
_AVRO_ADDED: dict[str, Any] = {
    "profile": "string",
    "shortened_by": {"type": "map", "values": "long"},
    "experiment": {
        "type": "record",
        "name": "ExperimentArm",
        "fields": [{"name": "name", "type": "string"}, {"name": "arm", "type": "string"}],
    },
    "exploration": {
        "type": "record",
        "name": "DrawnItems",
        "fields": [
            {"name": "seed", "type": "string"},
            {"name": "propensities", "type": {"type": "array", "items": "double"}},
        ],
    },
    "kept_out": {
        "type": "record",
        "name": "KeptOutItems",
        "fields": [
            {"name": name, "type": {"type": "array", "items": "string"}}
            for name in ("seen", "bought")
        ],
    },
}
"""The types of what profiles, experiments and exploration add, by field."""

_STRING = FieldDescriptorProto.TYPE_STRING
_INT64 = FieldDescriptorProto.TYPE_INT64
_INT32 = FieldDescriptorProto.TYPE_INT32
_DOUBLE = FieldDescriptorProto.TYPE_DOUBLE
_MESSAGE = FieldDescriptorProto.TYPE_MESSAGE


def protobuf_click() -> FileDescriptorProto:
    """A file with the message Click."""
    file = FileDescriptorProto(name="click.proto", package="nextclick", syntax="proto3")
    click = file.message_type.add(name="Click")
    for name, kind in {"event_id": _STRING, "user_id": _STRING, "item_id": _STRING}.items():
        _add(click, name, kind)
    _add(click, "timestamp", _INT64)
    _add(click, "event_type", _STRING)
    return file


def added_fields(schema: AnswerSchema) -> list[str]:
    """The fields that answers of a schema may have beside those of a plain one, in their order."""
    fields: list[str] = []
    for name, added in _FIELDS.items():
        if schema == "recommendation":
            break
        fields += added
        if name == schema:
            break
    return fields


def avro_recommendation(schema: AnswerSchema = "recommendation") -> dict[str, Any]:
    """The Avro schema of answers."""
    added = [
        {"name": name, "type": ["null", _AVRO_ADDED[name]], "default": None}
        for name in added_fields(schema)
    ]
    return AVRO_RECOMMENDATION | {"fields": [*AVRO_RECOMMENDATION["fields"], *added]}


def protobuf_recommendation(schema: AnswerSchema = "recommendation") -> FileDescriptorProto:
    """A file with the message Recommendation, first, and those that it uses."""
    file = FileDescriptorProto(name="recommendation.proto", package="nextclick", syntax="proto3")
    answer = file.message_type.add(name="Recommendation")
    _add(answer, "event_id", _STRING)
    _add(answer, "user_id", _STRING)
    items = _add(answer, "items", _MESSAGE, repeated=True)
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
    added = added_fields(schema)
    if "profile" in added:
        _add(answer, "profile", _STRING)
        entry = answer.nested_type.add(name="ShortenedByEntry")
        entry.options.map_entry = True
        _add(entry, "key", _STRING)
        _add(entry, "value", _INT64)
        counts = _add(answer, "shortened_by", _MESSAGE, repeated=True)
        counts.type_name = ".nextclick.Recommendation.ShortenedByEntry"
    if "experiment" in added:
        _add(answer, "experiment", _MESSAGE).type_name = ".nextclick.ExperimentArm"
        arm = file.message_type.add(name="ExperimentArm")
        _add(arm, "name", _STRING)
        _add(arm, "arm", _STRING)
    if "exploration" in added:
        _add(answer, "exploration", _MESSAGE).type_name = ".nextclick.DrawnItems"
        drawn = file.message_type.add(name="DrawnItems")
        _add(drawn, "seed", _STRING)
        _add(drawn, "propensities", _DOUBLE, repeated=True)
    if "kept_out" in added:
        _add(answer, "kept_out", _MESSAGE).type_name = ".nextclick.KeptOutItems"
        kept_out = file.message_type.add(name="KeptOutItems")
        _add(kept_out, "seen", _STRING, repeated=True)
        _add(kept_out, "bought", _STRING, repeated=True)
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


def recommendation_json_schema(schema: AnswerSchema = "recommendation") -> dict[str, Any]:
    """The JSON Schema of answers."""
    if schema == "recommendation":
        return json_schema(Recommendation, "serialization")
    made = json_schema(ExtendedRecommendation, "serialization")
    added, required = added_fields(schema), _REQUIRED.get(schema, ())
    plain = Recommendation.model_fields.keys()
    made["title"] = schema.title().replace("-", "")
    made["description"] = _DESCRIPTIONS[schema]
    made["properties"] = {
        name: of if name in plain or name == "shortened_by" else _if_there(of)
        for name, of in made["properties"].items()
        if name in plain or name in added
    }
    made["required"] = [n for n in made["required"] if n in plain or n in required]
    text = json.dumps(made["properties"])
    made["$defs"] = {name: of for name, of in made["$defs"].items() if f"$defs/{name}" in text}
    return made


def _if_there(field: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field that is never null: it is there, or it is not."""
    (of, _) = field["anyOf"]
    return {**of, "description": field["description"]}


def recommendation_schema(kind: str, schema: AnswerSchema = "recommendation") -> str:
    """The schema of answers as text for a registry. kind: avro, protobuf, json_schema."""
    if kind == "protobuf":
        return proto_text(protobuf_recommendation(schema))
    if kind == "avro":
        return json.dumps(avro_recommendation(schema))
    return json.dumps(recommendation_json_schema(schema))
