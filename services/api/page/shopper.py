"""Be the shopper: lists for any history, by the served model and by the one before it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from nextclick.shared.errors import CheckpointError
from nextclick.shared.model.explain import explain
from nextclick.shared.registry import ModelSlot, Registry, ServedModel

SUGGESTIONS = 8


def list_of(model: ServedModel, history: list[str], withheld: frozenset[str]) -> dict[str, Any]:
    """The list for a history, with the reasons: per item the contribution of each click, nats."""
    explained = explain(model.scorer, history, 10, withheld)
    return {
        "version": model.name,
        "history": explained.history,
        "items": [
            {"id": item.item_id, "score": item.score, "why": [round(nats, 3) for nats in row]}
            for item, row in zip(explained.items, explained.contributions, strict=True)
        ],
    }


class ModelBefore:
    """Loads the version that served before the served one, once. For one event loop."""

    def __init__(self, registry: Registry, slot: ModelSlot) -> None:
        self._registry = registry
        self._slot = slot
        self._loaded: ServedModel | None = None
        self._lock = asyncio.Lock()

    async def get(self) -> ServedModel | None:
        """The model; None if there was none before, or it cannot be loaded. Raises Unavailable."""
        async with self._lock:
            return await asyncio.to_thread(self._load)

    def _load(self) -> ServedModel | None:
        try:
            pointer = self._registry.pointer()
            if pointer is None or not pointer.history:
                return None
            version = pointer.history[-1]
            if self._loaded is None or self._loaded.version != version:
                self._loaded = None  # two at a time are enough
                self._loaded = self._slot.load(version)
        except (CheckpointError, RuntimeError):
            return None
        return self._loaded


class Suggestions:
    """Finds items by a part of their id or title, the most clicked first. For one thread."""

    def __init__(self) -> None:
        self._made_for = ("", 0)
        self._items: list[tuple[str, str]] = []

    def find(self, model: ServedModel, titles: Mapping[str, str], text: str) -> list[str]:
        """Ids of the items that hold a text; those that begin with it come first."""
        made_for = (model.name, len(titles))
        if made_for != self._made_for:
            scorer = model.scorer
            best = (-scorer.log_popularity).argsort(kind="stable")
            ids = [scorer.vocabulary.item_ids[row] for row in best]
            self._items = [(f"{titles.get(i, '')} {i}".strip().casefold(), i) for i in ids]
            self._made_for = made_for
        wanted = text.strip().casefold()
        begin: list[str] = []
        inside: list[str] = []
        for searched, item_id in self._items:
            if searched.startswith(wanted):
                begin.append(item_id)
                if len(begin) == SUGGESTIONS:
                    break
            elif wanted in searched and len(inside) < SUGGESTIONS:
                inside.append(item_id)
        return (begin + inside)[:SUGGESTIONS]
