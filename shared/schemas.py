"""The messages on the topics: pydantic models here; JSON on the wire, or by a schema registry.

Unknown extra fields are ignored, so producers may evolve first; a field that is missing or has the
wrong type raises BadClick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, TypeVar
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import from_json

from nextclick.shared.errors import BadClick, BadItem, BadRecommendation

MAX_CLICK_BYTES = 65_536
"""Longest click; usual ones have a few hundred bytes. A longer one is a mistake or an attack."""

LATEST_TIMESTAMP = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z in epoch milliseconds; also far below 2**53, exact as a double."""


def _integer_to_text(value: object) -> object:
    # Shops often have integer ids. In Python, a bool is an int; in JSON it is not.
    return str(value) if type(value) is int else value


def _no_bool(value: object) -> object:
    if isinstance(value, bool):  # in Python True == 1, so Literal[1] accepts it
        raise ValueError("Input should be 1")
    return value


def _whole(value: object) -> object:
    # In JSON Schema, 3.0 is an integer, too.
    return int(value) if type(value) is float and value.is_integer() else value


Whole = BeforeValidator(_whole)
MAX_ID_LENGTH = 128
Identifier = Annotated[
    str,
    BeforeValidator(_integer_to_text),
    Field(min_length=1, max_length=MAX_ID_LENGTH),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH},
                {"type": "integer", "description": "taken as text"},
            ]
        },
        mode="validation",
    ),
]
EpochMillis = Annotated[StrictInt, Field(ge=0, le=LATEST_TIMESTAMP)]
AnyTimestamp = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
"""As producers send it: milliseconds, if all is well (`click_rules` has what happens if not)."""


class _Message(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
    )


class Click(_Message):
    """One click of a user on an item: a message on the topic `clicks` (key = user_id)."""

    event_id: str = Field(min_length=1, max_length=64)
    """Unique for the user: a click sent twice with one event_id counts once."""
    user_id: Identifier
    item_id: Identifier
    timestamp: AnyTimestamp
    """Event time, epoch milliseconds. One that is implausible is replaced by Kafka's time."""
    event_type: str = Field("click", min_length=1, max_length=64)
    """Types have weights in training; one with weight 0, such as `impression`, is not a click."""
    schema_version: Annotated[Literal[1], BeforeValidator(_no_bool)] = 1


MAX_ITEM_BYTES = 16_384
"""Longest message about an item."""
MAX_NAMES = 100
Name = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
Names = Annotated[list[Name], Field(max_length=MAX_NAMES)]


class ItemAttributes(_Message):
    """What a shop says about an item. Other attributes are kept as they are."""

    model_config = ConfigDict(extra="allow")

    title: str | None = Field(None, max_length=500)
    """Its name for people."""
    categories: Names = []
    tags: Names = []
    price: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] | None = None
    available: StrictBool = True
    """false: it is in no list for now. Models still learn it."""


class Item(ItemAttributes):
    """One item: a message on the topic `items` (key = item_id).

    The newest message counts, as a whole. One without a value (a tombstone) retires the item.
    """

    item_id: Identifier


@dataclass(slots=True)  # no pydantic model, for speed: ten are made per click
class ScoredItem:
    """One item of a recommendation."""

    item_id: str
    score: float
    """The model's estimate of P(this is the next click | history), over the whole catalogue."""


class Recommendation(_Message):
    """The answer to one click: a message on the topic `recommendations` (key = user_id)."""

    event_id: str
    """Of the click that this answers; with user_id the consumer's key to drop duplicates."""
    user_id: str
    items: list[ScoredItem]
    """Best first."""
    model_version: str
    history: list[str]
    """The exact item ids that were scored, oldest first, the click itself last."""
    click_timestamp: int
    """The click's own, or Kafka's if that is implausible; epoch milliseconds."""
    scored_at: int
    """Wall time of the worker, epoch milliseconds."""
    fallback: Literal["cold_start", "unknown_items", "not_finite"] | None = None
    """None, or why popularity answered instead of the model."""
    items_offset: int = 0
    """Messages on the items topic before this offset say what the list does not hold."""
    schema_version: Literal[1] = 1


class ExperimentArm(_Message):
    """Which live experiment a list is part of, and on which side."""

    name: str
    arm: Literal["a", "b"]


class DrawnItems(_Message):
    """What of a list was drawn, and with which probabilities."""

    seed: str
    """Sixteen hexadecimal digits that the draws follow from."""
    propensities: list[float]
    """By item: the probability with which it is in the list, given the history; 1: always."""


class KeptOutItems(_Message):
    """What the user's own clicks of the last days keep out of a list; 500 items at most."""

    seen: list[str]
    """Clicked."""
    bought: list[str]
    """Bought, and not among those."""


class ExtendedRecommendation(Recommendation):
    """An answer with what profiles, experiments and exploration add to it.

    A message has only the fields that were set: `profile` and `shortened_by` on a topic of
    NEXTCLICK_KAFKA__PROFILE_TOPICS, `exploration` and `kept_out` if that profile asks for it, and
    `experiment` in a live experiment. A reader takes it as a Recommendation, too.
    """

    profile: str | None = None
    """name@digest: the name of the profile, and twelve digits that stand for its content."""
    shortened_by: dict[str, int] | None = None
    """None, or why the list is shorter than top_k: constraint → how many items it left out."""
    experiment: ExperimentArm | None = None
    """The live experiment; the model is the one of the user's arm."""
    exploration: DrawnItems | None = None
    """What of the list was drawn."""
    kept_out: KeptOutItems | None = None
    """The items that the model knows and that the list does not hold for the user's own clicks."""


AnswerSchema: TypeAlias = Literal[
    "recommendation",
    "profiled-recommendation",
    "experiment-recommendation",
    "extended-recommendation",
]
"""The schemas of answers, named as their files in docs/schemas. Each has the fields of those before
it, so readers of one take the others, too."""


@dataclass(slots=True)
class RelatedItem(ScoredItem):
    """One item that is related to another."""

    score: float
    """How closely, from 0 to 1. Comparable within a model version and a kind of list."""


RelatedBasis = Literal["purchases", "clicks"]
"""What says that items are bought together: purchases, or, for an item without any, all clicks."""


class RelatedItems(_Message):
    """What is related to one item: a message on the topic `items.related` (key = item_id).

    One without a value: the model that serves does not know the item.
    """

    item_id: str
    similar: list[RelatedItem]
    """What shoppers look at beside it, most similar first."""
    bought_together: list[RelatedItem]
    """What shoppers buy with it, the closest first."""
    bought_together_basis: RelatedBasis
    """What bought_together comes from: purchases, or, for an item without any, all clicks."""
    model_version: str
    items_offset: int = 0
    """Messages on the items topic before this offset say what the lists do not hold."""
    schema_version: Literal[1] = 1


REASONS = ("empty", "oversized", "not_json", "framed", "invalid")
"""Reasons of BadClick: why a message is not a click."""
FRAME_BYTES = 5
"""A schema registry's serializer writes a zero byte and the 4-byte id of the schema before the
value (Confluent's wire format) …"""
SCHEMA_ID_HEADER = "__value_schema_id"
"""… or a one and the 16-byte GUID of the schema into this header."""
_GUID_HEADER_BYTES = 17

SchemaId: TypeAlias = int | str
"""Id or GUID of a schema in a schema registry."""
ReadFramed: TypeAlias = Callable[[SchemaId, bytes], Mapping[str, object]]
"""Reads a value by its schema: name → value of the fields that our messages have.

Raises BadClick if the value can never be read, Unavailable if the registry does not answer."""
Headers: TypeAlias = Iterable[tuple[str, bytes | None]]
_M = TypeVar("_M", Click, Recommendation, ExtendedRecommendation)


def decode_click(
    value: bytes | None, headers: Headers = (), read_framed: ReadFramed | None = None
) -> Click:
    """Decode the value of a message on the clicks topic.

    It is JSON, also with a schema registry's frame; or what `read_framed` reads (None: there is no
    registry). Raises BadClick, whose reason is one of REASONS, and what `read_framed` raises.
    """
    if not value:
        raise BadClick("empty", "the message has no value")
    if len(value) > MAX_CLICK_BYTES:
        raise BadClick("oversized", f"{len(value)} bytes; a click has at most {MAX_CLICK_BYTES}")
    try:
        return _decoded(Click, value, headers, read_framed)
    except ValidationError as error:
        raise BadClick(*_reason_and_text(error)) from None


def decode_recommendation(
    value: bytes | None, headers: Headers = (), read_framed: ReadFramed | None = None
) -> Recommendation:
    """Decode the value of a message on the recommendations topic; see `decode_click`.

    Raises BadRecommendation, and Unavailable if `read_framed` does.
    """
    return _decoded_recommendation(Recommendation, value, headers, read_framed)


def decode_extended(
    value: bytes | None, headers: Headers = (), read_framed: ReadFramed | None = None
) -> ExtendedRecommendation:
    """The same with all that an answer may say."""
    return _decoded_recommendation(ExtendedRecommendation, value, headers, read_framed)


def _decoded_recommendation(
    model: type[_M], value: bytes | None, headers: Headers, read_framed: ReadFramed | None
) -> _M:
    try:
        return _decoded(model, value or b" ", headers, read_framed)
    except ValidationError as error:
        raise BadRecommendation(_reason_and_text(error)[1]) from None
    except BadClick as error:
        raise BadRecommendation(str(error)) from None


def decode_item(key: bytes | None, value: bytes | None) -> tuple[str, Item | None]:
    """Decode a message of the items topic: the item's id, and None if it is a tombstone.

    Raises BadItem.
    """
    try:
        item_id = (key or b"").decode()
    except UnicodeDecodeError:
        raise BadItem("the key is not UTF-8; it must be the item_id") from None
    if not 1 <= len(item_id) <= MAX_ID_LENGTH:
        raise BadItem(f"a key of {len(item_id)} characters; it must be the item_id, 1 to 128")
    if value is None:
        return item_id, None
    if len(value) > MAX_ITEM_BYTES:
        raise BadItem(f"{len(value)} bytes; an item has at most {MAX_ITEM_BYTES}")
    try:
        item = Item.model_validate_json(value)
    except ValidationError as error:
        raise BadItem(_reason_and_text(error)[1]) from None
    if item.item_id != item_id:
        raise BadItem("the key is not the item_id")
    return item_id, item


def _decoded(model: type[_M], value: bytes, headers: Headers, read_framed: ReadFramed | None) -> _M:
    """Raises ValidationError, and BadClick for a frame that cannot be read."""
    frame = _frame_of(value, headers)
    if frame is None:
        return model.model_validate_json(value)
    schema_id, payload = frame
    if payload.startswith(b"{"):  # of a JSON Schema serializer: there is nothing to look up
        try:
            return model.model_validate_json(payload)
        except ValidationError as error:
            # An Avro value may begin with any byte.
            if read_framed is None or _reason_and_text(error)[0] != "not_json":
                raise
    if read_framed is None:
        raise BadClick(
            "framed",
            f"framed by a schema registry (schema {schema_id}), and not JSON behind it: to read "
            "Avro and Protobuf, set NEXTCLICK_SCHEMA_REGISTRY__URL, and "
            "pip install 'nextclick[schema-registry]'",
        )
    return model.model_validate(read_framed(schema_id, payload))


def _reason_and_text(error: ValidationError) -> tuple[str, str]:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return "not_json", first["msg"]
    field = ".".join(str(part) for part in first["loc"]) or "message"
    return "invalid", f"{field}: {first['msg']}"


def schema_id_header(headers: Headers) -> bytes | None:
    """The value of SCHEMA_ID_HEADER, if a schema registry's serializer has written it."""
    for name, header in headers:
        if name == SCHEMA_ID_HEADER and header is not None:
            is_guid = header[:1] == b"\x01" and len(header) >= _GUID_HEADER_BYTES
            is_id = header[:1] == b"\x00" and len(header) >= FRAME_BYTES
            return header if (is_guid or is_id) and len(header) <= 100 else None
    return None


def _frame_of(value: bytes, headers: Headers) -> tuple[SchemaId, bytes] | None:
    """The schema of a value, and the value without its frame; None if it has no frame."""
    if headers and (header := schema_id_header(headers)):
        # What follows the id are Protobuf's message indexes, which else stand before the value.
        if header[0] == 0:
            return int.from_bytes(header[1:FRAME_BYTES]), header[FRAME_BYTES:] + value
        guid = UUID(bytes=header[1:_GUID_HEADER_BYTES])
        return str(guid), header[_GUID_HEADER_BYTES:] + value
    if value[0] == 0 and len(value) > FRAME_BYTES:
        return int.from_bytes(value[1:FRAME_BYTES]), value[FRAME_BYTES:]
    return None


def event_id_of(value: bytes | None) -> str | None:
    """The event_id of a message that is JSON but not a valid click; None if it has no valid one."""
    try:
        found = from_json(value or b"")
    except ValueError:
        return None
    event_id = found.get("event_id") if isinstance(found, dict) else None
    return event_id if isinstance(event_id, str) and 1 <= len(event_id) <= 64 else None


def uuid7(timestamp_ms: int, randomness: bytes) -> str:
    """Make a time-ordered UUID (RFC 9562, version 7) from a time and ten random bytes."""
    value = (timestamp_ms << 80) | int.from_bytes(randomness)
    value = value & ~(0xF << 76) | (7 << 76)
    value = value & ~(0b11 << 62) | (0b10 << 62)
    digits = f"{value:032x}"  # same text as uuid.UUID gives, four times as fast
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
