"""The partitioners of Kafka's Java client and of librdkafka. Pure."""

from __future__ import annotations

import zlib

_MULTIPLIER = 0x5BD1E995
_SEED = 0x9747B28C
_32_BITS = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Kafka's MurmurHash2: a signed 32-bit integer.

    Source: org.apache.kafka.common.utils.Utils.murmur2 of Apache Kafka.
    """
    value = _SEED ^ len(data)
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * _MULTIPLIER & _32_BITS
        word = (word ^ word >> 24) * _MULTIPLIER & _32_BITS
        value = value * _MULTIPLIER & _32_BITS ^ word
    if len(data) > whole:
        value = (value ^ int.from_bytes(data[whole:], "little")) * _MULTIPLIER & _32_BITS
    value = (value ^ value >> 13) * _MULTIPLIER & _32_BITS
    value ^= value >> 15
    return value - (1 << 32) if value >> 31 else value


def java_partition(key: bytes, partitions: int) -> int:
    """The partition of a key by Kafka's Java client; librdkafka calls it `murmur2_random`."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def librdkafka_partition(key: bytes, partitions: int) -> int:
    """The partition of a key by librdkafka's default, `consistent_random`: CRC32."""
    return zlib.crc32(key) % partitions
