"""Small models for workers that follow a real registry, and what these should serve."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, cast

from nextclick.shared.errors import CheckpointError
from nextclick.shared.model import BST, Checkpoint
from nextclick.shared.registry import Registry
from nextclick.shared.version_names import name_of
from nextclick.trainer.collect import LogState
from tests.simulation.bucket import Bucket
from tests.simulation.event_log import MemoryEventLog
from tests.unit.builders import checkpoint

ROOT = "models"
_NEWEST = 20
"""So many clicks a delta must know, whoever clicked (LEAST_LIMIT in bound_contributions)."""


def registry_on(store: object) -> Registry:
    """A Registry on a bucket, or on a process's client of one."""
    return Registry(ROOT, cast(Any, store))


def trained(items: int, number: int, state: LogState) -> Checkpoint:
    """The model of a retraining from the clicks of a log; every other one is refitted."""
    training: dict[str, Any] = {"event_log": state._asdict()}
    if number % 2:
        training["refit"] = {"clicks": state.clicks}
    return replace(_weights(items, number % 4), training=training)


@cache
def _weights(items: int, seed: int) -> Checkpoint:
    return checkpoint(items, seed)


def fingerprint(of: Checkpoint) -> str:
    """Of all that a delta, or another version, changes."""
    assert isinstance(of.model, BST)
    neighbours = of.model.neighbours
    number = zlib.crc32(" ".join(of.vocabulary.item_ids).encode())
    for content in (neighbours.rows, neighbours.shares, neighbours.weight):
        number = zlib.crc32(content.numpy().tobytes(), number)
    number = zlib.crc32(of.popularity.tobytes(), number)
    return f"{number}"


class Models:
    """What was published in a history: what a name stands for, and what should serve."""

    def __init__(self, bucket: Bucket, log: MemoryEventLog, items: int) -> None:
        self._log = log
        self._now = registry_on(bucket)
        self._ever = registry_on(Bucket(objects=bucket.ever))
        self._found: dict[str, str] = {}
        began = datetime.fromtimestamp(1_699_999_000, UTC)
        self._now.publish(trained(items, 0, log.state()), began)

    def content_of(self, name: str) -> str:
        """The fingerprint of a version with or without a delta, also if it was removed since.

        "" if there was none of the name.
        """
        if name not in self._found:
            try:
                self._found[name] = fingerprint(self._ever.load(name))
            except CheckpointError:
                self._found[name] = ""
        return self._found[name]

    def missing(self, served: Sequence[str]) -> str:
        """What is yet to happen until workers serve all that can be known; "" if nothing.

        served: what each worker that runs now would name.
        """
        pointer = self._now.pointer()
        assert pointer is not None
        version = pointer.version
        number = self._now.newest_delta(version)
        trained_on = LogState(**self._now.manifest(version).training["event_log"])
        known = {0}
        if number is not None:
            try:
                known |= {*self._now.load_delta(version, number).touched.tolist()}
            except CheckpointError as error:
                return str(error)
        newest = self._log.items_since(trained_on)[-_NEWEST:]  # item "1" is row 1; no model has "0"
        if unknown := {*map(int, newest)} - known:
            return f"{version} has no delta that knows clicks on {sorted(unknown)}"
        name = version if number is None else name_of(version, number)
        behind = sorted({*served} - {name})
        return f"workers serve {behind}, not {name}" if behind else ""
