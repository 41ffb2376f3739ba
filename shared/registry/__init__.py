"""The registry: versions of a model in a folder or a bucket, and the one that serves."""

from nextclick.shared.registry.registry import Pointer, Registry
from nextclick.shared.registry.slot import ModelSlot, ServedModel

__all__ = [
    "ModelSlot",
    "Pointer",
    "Registry",
    "ServedModel",
]
