"""Values in Protobuf, read by the descriptors that the registry has: no generated code."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from nextclick.shared.kafka.schema_registry.client import FetchedSchema
from nextclick.shared.kafka.schema_registry.formats import FIELDS, Compiled, SchemaUnusable

_ROOT = "nextclick_schema_registry_root.proto"
_WELL_KNOWN = re.compile(r"google/(protobuf|type)/\w+\.proto|confluent/(meta|types?/\w+)\.proto")
MAX_FIELDS = 1000
"""Fields whose conversion is remembered."""
_TIMESTAMP = "google.protobuf.Timestamp"
_WRAPPER = re.compile(r"google\.protobuf\.(String|Bytes|Bool|U?Int(32|64)|Float|Double)Value")


def compile_schema(schema: FetchedSchema) -> Compiled:
    """See `formats.compile_schema`. Fields count by their name, or else by their json_name."""
    pool = DescriptorPool()
    try:
        for name, text in schema.references.items():
            _add(pool, name, FileDescriptorProto.FromString(b64decode(text, validate=True)))
        root = FileDescriptorProto.FromString(b64decode(schema.text, validate=True))
        _add(pool, _ROOT, root)
    except Exception as error:  # whatever the library raises for what somebody has registered
        raise SchemaUnusable(
            "the registry gives no usable Protobuf schema in the format `serialized` "
            f"({type(error).__name__})"
        ) from None
    classes: dict[tuple[int, ...], type[Message]] = {}

    def class_of(indexes: tuple[int, ...]) -> type[Message]:
        if indexes not in classes:
            name = _message_name(root, indexes)
            classes[indexes] = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
        return classes[indexes]

    def read(payload: bytes) -> Mapping[str, object]:
        indexes, start = _indexes(payload)
        return _fields(class_of(indexes).FromString(payload[start:]))

    def declares(payload: bytes) -> frozenset[str]:
        fields = class_of(_indexes(payload)[0]).DESCRIPTOR.fields
        return frozenset(_name(field) for field in fields) & FIELDS

    return Compiled(read, declares)


def _add(pool: DescriptorPool, name: str, file: FileDescriptorProto) -> None:
    for dependency in file.dependency:
        try:
            pool.FindFileByName(dependency)
        except KeyError:
            _add(pool, dependency, _well_known(dependency))
    file.name = name
    pool.AddSerializedFile(file.SerializeToString())


def _well_known(name: str) -> FileDescriptorProto:
    """A file that comes with Protobuf, or with Confluent's serializers; registries have none."""
    if not _WELL_KNOWN.fullmatch(name):
        raise ValueError(f"{name} is not in the registry")
    package = "confluent_kafka.schema_registry." if name.startswith("confluent/") else ""
    import_module(package + name.removesuffix(".proto").replace("/", ".") + "_pb2")
    found: FileDescriptor = descriptor_pool.Default().FindFileByName(name)
    return FileDescriptorProto.FromString(found.serialized_pb)


def _message_name(file: FileDescriptorProto, indexes: tuple[int, ...]) -> str:
    names, messages = [file.package] if file.package else [], file.message_type
    for index in indexes:
        message: DescriptorProto = messages[index] if index >= 0 else messages[len(messages)]
        names.append(message.name)
        messages = message.nested_type
    return ".".join(names)


def _indexes(payload: bytes) -> tuple[tuple[int, ...], int]:
    """Which message of the file a value is, and where the value begins.

    Confluent's wire format: the number of indexes, and each of them, as zigzag varints; a zero
    stands for the file's first message.
    """
    count, place = _varint(payload, 0)
    if count == 0:
        return (0,), place
    indexes = []
    for _ in range(min(count, 16)):  # deeper ones are not nested in earnest
        index, place = _varint(payload, place)
        indexes.append(index)
    return tuple(indexes), place


def _varint(payload: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = payload[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), place


def _fields(message: Message) -> dict[str, object]:
    """What a message carries; lists also if they are empty."""
    fields: dict[str, object] = {name: [] for name in _lists(message.DESCRIPTOR)}
    for field, value in message.ListFields():
        name, convert = _named_converter(field)
        fields[name] = convert(value)
    return fields


@lru_cache(maxsize=MAX_FIELDS)
def _lists(message: Descriptor) -> list[str]:
    return [_name(field) for field in message.fields if field.is_repeated and not _is_map(field)]


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _name(field: FieldDescriptor) -> str:
    name, json_name = str(field.name), str(field.json_name)
    return json_name if name not in FIELDS and json_name in FIELDS else name


@lru_cache(maxsize=MAX_FIELDS)
def _named_converter(field: FieldDescriptor) -> tuple[str, Callable[[Any], object]]:
    convert: Callable[[Any], object] = _plain
    if _is_map(field):  # no click has one, but what else a shop's message carries may be one
        return _name(field), dict
    if field.message_type is not None:
        full_name = field.message_type.full_name
        if full_name == _TIMESTAMP:
            convert = _milliseconds
        else:
            convert = _wrapped if _WRAPPER.fullmatch(full_name) else _fields
    elif field.enum_type is not None:
        names = {number: v.name for number, v in field.enum_type.values_by_number.items()}
        convert = lambda number: names.get(number, number)  # noqa: E731
    if field.is_repeated:
        return _name(field), lambda values: [convert(value) for value in values]
    return _name(field), convert


def _plain(value: object) -> object:
    return value


def _wrapped(message: Any) -> object:
    return message.value


def _milliseconds(timestamp: Any) -> int:
    return int(timestamp.seconds * 1000 + timestamp.nanos // 1_000_000)
