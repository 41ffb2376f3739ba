"""Reads framed values; each schema is looked up once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from nextclick.shared.errors import BadClick
from nextclick.shared.kafka.schema_registry.client import SchemaNotFound, SchemaRegistry
from nextclick.shared.kafka.schema_registry.formats import (
    Compiled,
    SchemaUnusable,
    compile_schema,
)
from nextclick.shared.schemas import SchemaId

MAX_SCHEMAS = 1000
"""Schemas that are remembered."""
NOT_FOUND_SECONDS = 10.0
"""A schema that the registry does not have is not asked for again for this time."""


class _Known(NamedTuple):
    name: str
    """The schema and its subjects, for people."""
    compiled: Compiled | None
    problem: str = ""
    """Why it cannot be used; empty if it can."""


class FramedReader:
    """A `schemas.ReadFramed`. For one thread.

    What a value means depends on its schema alone, and an id stands for the same schema forever. So
    a value reads the same at any time, unless its schema is registered late, or deleted.
    """

    def __init__(
        self,
        registry: SchemaRegistry,
        message: type[BaseModel],
        until_available: Callable[..., Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """message: what the values are.

        until_available(action, *arguments): waits while the registry does not answer.
        """
        self._registry = registry
        self._required = frozenset(
            name for name, field in message.model_fields.items() if field.is_required()
        )
        self._until_available = until_available
        self._clock = clock
        self._known: dict[SchemaId, _Known] = {}
        self._not_found: dict[SchemaId, tuple[float, str]] = {}
        """When it was asked for, and the answer."""

    def __call__(self, schema_id: SchemaId, payload: bytes) -> Mapping[str, object]:
        """See `schemas.ReadFramed`."""
        name, compiled, problem = self._known.get(schema_id) or self._look_up(schema_id)
        if compiled is None:
            raise BadClick("framed", f"{name}: {problem}")
        try:
            fields = compiled.read(payload)
            absent = self._required - fields.keys()
            undeclared = absent and absent - compiled.declares(payload)
        except BadClick:
            raise
        except Exception as error:  # whatever the libraries raise for hostile bytes
            what = f"the value does not match it ({type(error).__name__})"
            raise BadClick("framed", f"{name}: {what}") from None
        if undeclared:
            raise BadClick("framed", f"{name}: it has no field {', '.join(sorted(undeclared))}")
        return fields

    def _look_up(self, schema_id: SchemaId) -> _Known:
        asked_at, answer = self._not_found.get(schema_id, (float("-inf"), ""))
        if self._clock() - asked_at < NOT_FOUND_SECONDS:
            raise BadClick("framed", answer)
        try:
            schema = self._until_available(self._registry.fetch, schema_id)
        except SchemaNotFound as error:
            answer = f"schema {schema_id}: {error}"
            _remember(self._not_found, schema_id, (self._clock(), answer))
            raise BadClick("framed", answer) from None
        name = f"schema {schema_id}"
        if schema.subjects:
            name += f" (subject {', '.join(schema.subjects)})"
        try:
            known = _Known(name, compile_schema(schema))
        except SchemaUnusable as error:
            known = _Known(name, None, str(error))
        _remember(self._known, schema_id, known)
        return known


def _remember(memory: dict[SchemaId, Any], schema_id: SchemaId, what: object) -> None:
    if len(memory) >= MAX_SCHEMAS:  # hostile ids must not fill the memory
        memory.clear()
    memory[schema_id] = what
