"""Values in Avro."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_reader

from nextclick.shared.kafka.schema_registry.client import FetchedSchema
from nextclick.shared.kafka.schema_registry.formats import FIELDS, Compiled, SchemaUnusable

_UNITS_PER_MS = {
    "timestamp-micros": 1_000,
    "local-timestamp-micros": 1_000,
    "timestamp-nanos": 1_000_000,
    "local-timestamp-nanos": 1_000_000,
}


def compile_schema(schema: FetchedSchema) -> Compiled:
    """See `formats.compile_schema`. Fields count by their name, or else by one of their aliases."""
    try:
        named: dict[str, Any] = {}
        for text in schema.references.values():
            parse_schema(without_logical_types(json.loads(text)), named)
        original = json.loads(schema.text)
        parsed = parse_schema(without_logical_types(original), named)
    except Exception as error:  # whatever the parser raises for what somebody has registered
        raise SchemaUnusable(f"not a usable Avro schema ({type(error).__name__})") from None
    sources = dict(_sources(original))

    def read(payload: bytes) -> Mapping[str, object]:
        stream = BytesIO(payload)
        record: Any = schemaless_reader(stream, parsed, None)
        if stream.tell() != len(payload):
            raise ValueError("more behind it")
        fields = {}
        for source, (name, units_per_ms) in sources.items():
            value = record.get(source)
            if value is not None:
                fields[name] = value if units_per_ms == 1 else value // units_per_ms
        return fields

    declared = frozenset(name for name, _ in sources.values())
    return Compiled(read, lambda payload: declared)


def _sources(schema: Any) -> Iterator[tuple[str, tuple[str, int]]]:
    """Name of a field → our name, and its units per millisecond; of all records of a union."""
    for option in schema if isinstance(schema, list) else [schema]:
        if not isinstance(option, dict) or option.get("type") != "record":
            continue
        names = {field["name"] for field in option["fields"]}
        for field in option["fields"]:
            aliases = (a for a in field.get("aliases", ()) if a in FIELDS and a not in names)
            name = field["name"] if field["name"] in FIELDS else next(aliases, None)
            if name is not None:
                yield field["name"], (name, _units_per_ms(field["type"]))


def _units_per_ms(kind: Any) -> int:
    if isinstance(kind, list):
        return max(map(_units_per_ms, kind), default=1)
    return _UNITS_PER_MS.get(str(kind.get("logicalType")), 1) if isinstance(kind, dict) else 1


def without_logical_types(schema: Any) -> Any:
    """The same bytes, read as plain numbers: fast, and without dates that Python does not have."""
    if isinstance(schema, list):
        return [without_logical_types(part) for part in schema]
    if isinstance(schema, dict):
        return {k: without_logical_types(v) for k, v in schema.items() if k != "logicalType"}
    return schema
