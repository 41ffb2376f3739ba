"""The versions over time: what the registry says, and nothing that was only guessed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from nextclick.shared.errors import CheckpointError
from nextclick.shared.model.checkpoint import Manifest
from nextclick.shared.registry import ModelSlot, Registry
from nextclick.shared.registry.registry import Pointer

SHOWN = 12
"""Newest versions, and newest refusals, that are shown."""
METRICS = {
    "model": "test_hr@10",
    "V-SkNN": "test_v-sknn_hr@10",
    "popularity": "test_popularity_hr@10",
}
"""What the gate measured: name → key in the manifest."""


class Versions:
    """Reads the registry. Used by one thread at a time."""

    def __init__(self, registry: Registry, slot: ModelSlot) -> None:
        self._registry = registry
        self._slot = slot
        self._manifests: dict[str, Manifest | None] = {}

    def read(self) -> dict[str, Any]:
        """The state as JSON. Raises Unavailable if the registry cannot be reached."""
        try:
            pointer = self._registry.pointer()
        except CheckpointError:  # invalid pointer: the versions can still be listed
            pointer = None
        names = self._registry.versions()[-SHOWN:]
        self._manifests = {name: self._manifest(name) for name in names}
        serving = self._slot.model
        return {
            "current": pointer.version if pointer else None,
            "serving": serving.version if serving else None,
            "versions": [self._row(name, pointer) for name in reversed(names)],
            "refusals": [
                {"at": _ms(refusal.at), "reason": refusal.reason}
                for refusal in reversed(self._registry.refusals()[-SHOWN:])
            ],
            "rollbacks": [
                {"at": _ms(one.at), "version": one.version, "reason": one.reason}
                for one in reversed(pointer.rollbacks if pointer else [])
            ],
        }

    def _manifest(self, name: str) -> Manifest | None:
        """A manifest never changes, so it is read once; None if it is unreadable."""
        if self._manifests.get(name) is not None:
            return self._manifests[name]
        try:
            return self._registry.manifest(name)
        except CheckpointError:
            return None

    def _row(self, name: str, pointer: Pointer | None) -> dict[str, Any]:
        manifest = self._manifests[name]
        if manifest is None:
            return {"version": name, "state": "unreadable", "metrics": {}}
        return {
            "version": name,
            "at": _ms(datetime.fromisoformat(manifest.created_at)),
            "state": _state(name, pointer),
            "clicks": manifest.training.get("clicks"),
            "verdict": manifest.training.get("gate", ""),
            "metrics": {
                label: manifest.metrics[key]
                for label, key in METRICS.items()
                if key in manifest.metrics
            },
        }


def _state(name: str, pointer: Pointer | None) -> str:
    """current, before: it served once; taken_back: it served, and the pointer went back.

    not_promoted: it was published and has not served.
    """
    if pointer is None:
        return "unknown"
    if name == pointer.version:
        return "current"
    if name in pointer.history:
        return "before"
    return "taken_back" if name in [one.version for one in pointer.rollbacks] else "not_promoted"


def _ms(at: datetime) -> float:
    return at.timestamp() * 1000
