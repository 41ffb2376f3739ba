"""From the schema of a writer to a function that reads its values.

A value becomes a dictionary of those fields that our messages have, by their names. A field that is
null, or that a Protobuf value does not carry, is left out. Times become epoch milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from pydantic_core import from_json

from nextclick.shared.errors import BadClick
from nextclick.shared.kafka.schema_registry.client import FetchedSchema
from nextclick.shared.schemas import Click, ExtendedRecommendation

FIELDS = frozenset(Click.model_fields) | frozenset(ExtendedRecommendation.model_fields)
"""Names that are looked for, whatever the message."""


class SchemaUnusable(Exception):
    """A schema that cannot be understood, now or ever."""


class Compiled(NamedTuple):
    """A schema that was made ready."""

    read: Callable[[bytes], Mapping[str, object]]
    """The fields of a value; raises any Exception for one that does not match the schema."""
    declares: Callable[[bytes], frozenset[str]]
    """Names, of FIELDS, that the schema of a value has."""


def compile_schema(schema: FetchedSchema) -> Compiled:
    """Make a schema ready. Raises SchemaUnusable."""
    if schema.kind == "AVRO":
        from nextclick.shared.kafka.schema_registry import avro

        return avro.compile_schema(schema)
    if schema.kind == "PROTOBUF":
        from nextclick.shared.kafka.schema_registry import protobuf

        return protobuf.compile_schema(schema)
    if schema.kind == "JSON":
        return Compiled(_read_json, lambda payload: FIELDS)  # may have fields that it does not name
    raise SchemaUnusable(f"its type is {schema.kind}; AVRO, PROTOBUF and JSON are read")


def _read_json(payload: bytes) -> Mapping[str, object]:
    try:
        fields = from_json(payload)
    except ValueError as error:
        raise BadClick("not_json", str(error)) from None
    if not isinstance(fields, dict):
        raise BadClick("invalid", "message: Input should be an object")
    return fields
