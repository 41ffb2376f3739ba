"""A summary of the registry, for /models and the page."""

from __future__ import annotations

from nextclick.services.api.messages import ModelsResponse, ModelSummary
from nextclick.shared.errors import CheckpointError
from nextclick.shared.registry import ModelSlot, Registry

NEWEST = 50
"""Most versions in a summary; hourly retraining makes as many in two days."""


def registry_summary(registry: Registry, slot: ModelSlot) -> ModelsResponse:
    """The newest versions. Raises Unavailable if the registry cannot be reached."""
    try:
        pointer = registry.pointer()
    except CheckpointError:  # invalid pointer: the versions can still be listed
        pointer = None
    serving = slot.model
    return ModelsResponse(
        current=pointer.version if pointer else None,
        serving=serving.version if serving else None,
        versions=[_summary(registry, v) for v in reversed(registry.versions()[-NEWEST:])],
    )


def _summary(registry: Registry, version: str) -> ModelSummary:
    try:
        manifest = registry.manifest(version)
    except CheckpointError:
        return ModelSummary(version=version, created_at=None, parent=None, metrics={}, clicks=None)
    clicks = manifest.training.get("clicks")
    return ModelSummary(
        version=version,
        created_at=manifest.created_at,
        parent=manifest.parent,
        metrics=manifest.metrics,
        clicks=clicks if isinstance(clicks, int) else None,
    )
