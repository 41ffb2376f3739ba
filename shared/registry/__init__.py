"""The model registry: versions in a folder or bucket, a pointer to one, and hot swap to it."""

from nextclick.shared.registry.arm_split import ArmBroken, ArmSplit, split_by_arm
from nextclick.shared.registry.registry import Pointer, Registry
from nextclick.shared.registry.slot import Arms, ModelSlot, ServedModel

__all__ = [
    "ArmBroken",
    "ArmSplit",
    "Arms",
    "ModelSlot",
    "Pointer",
    "Registry",
    "ServedModel",
    "split_by_arm",
]
