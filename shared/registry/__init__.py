"""The model registry: versions in a folder or bucket, a pointer to one, and hot swap to it."""

from nextclick.shared.registry.registry import Pointer, Registry
from nextclick.shared.registry.slot import Arms, ModelSlot, ServedModel

__all__ = [
    "Arms",
    "ModelSlot",
    "Pointer",
    "Registry",
    "ServedModel",
]
