"""A fitted model that recommends, and access to the model registry."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from functools import cached_property, partial

import torch

from nextclick.shared.errors import NextclickError
from nextclick.shared.model import Checkpoint, Constraints, Explanation, Scorer, select_device
from nextclick.shared.model.explain import explain
from nextclick.shared.model.related import RelatedLists
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import Settings
from nextclick.shared.schemas import RelatedItem, ScoredItem
from nextclick.shared.version_names import base_of
from nextclick.shared.windows import PADDING

_TOP_K = 10


class Recommender:
    """A fitted model: histories in, ranked items out, with the same results as in a worker."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        version: str | None = None,
        device: str = "auto",
        related: Callable[[], RelatedLists | None] | None = None,
    ) -> None:
        """Use `fit` or `from_registry` to make one.

        device: auto (the first of MPS, CUDA, CPU) or the name of a torch device. related: makes or
        reads the related items when they are asked for; default: those of the checkpoint. Raises
        ConfigurationError for a missing device, CheckpointError if scores are not finite.
        """
        self.checkpoint = checkpoint
        self.version = version
        """Its version in the registry from which it was loaded or to which it was published."""
        self._get_related = related
        self._scorer = Scorer(checkpoint, select_device(device), _TOP_K)

    def __repr__(self) -> str:
        return f"<Recommender {self.name}: {len(self.items):,} items>"

    @classmethod
    def from_registry(
        cls, registry: Registry | str, version: str | None = None, *, device: str = "auto"
    ) -> Recommender:
        """Load a version; default: the current one, which the workers serve.

        registry: a folder, any fsspec URL, or the result of `open_registry`. Raises NextclickError
        if the registry is empty, CheckpointError if the version is missing or broken, Unavailable
        if the registry cannot be read.
        """
        registry = _opened(registry)
        if version is None:
            pointer = registry.pointer()
            if pointer is None:
                raise NextclickError(f"the registry {registry.url} has no model yet")
            version = pointer.version
        related = partial(registry.related_lists, base_of(version))
        return cls(registry.load(version), version=version, device=device, related=related)

    def publish(self, registry: Registry | str) -> str:
        """Write a new version and make it current: running workers swap to it within seconds.

        Unlike in the trainer, no gate checks it. Returns the version's name. Raises Unavailable if
        the registry cannot be written.
        """
        checkpoint = replace(self.checkpoint, related=self.related)
        self.version = _opened(registry).publish(checkpoint)
        return self.version

    @cached_property
    def related(self) -> RelatedLists | None:
        """The related items, made or read when they are first asked for.

        None: a version of an earlier nextclick. Of one from a registry: raises CheckpointError if
        it is no longer there or broken, Unavailable if the registry cannot be read.
        """
        found = self.checkpoint.related if self._get_related is None else self._get_related()
        self._get_related = None  # it may hold the whole log
        return found

    @property
    def name(self) -> str:
        """Its version, or else the preset that it was fitted with."""
        return self.version or f"BST {self.checkpoint.preset}"

    @property
    def items(self) -> list[str]:
        """The catalogue: every item that can be recommended."""
        return self.checkpoint.vocabulary.item_ids

    def recommend(
        self,
        history: Iterable[str],
        k: int = _TOP_K,
        *,
        exclude: Collection[str] = (),
        without_history: bool = False,
    ) -> list[ScoredItem]:
        """The k likeliest next clicks after a history, best first; fewer if fewer are allowed.

        history: item ids, oldest first; the model uses the newest 10. If it knows none of them, the
        popular items are returned. exclude: item ids to leave out. without_history: leave out these
        10 items, too. A score is P(next click), over the whole catalogue. Raises ValueError for
        k < 1.
        """
        (ranking,) = self._scorer.recommend(
            [_ids(history)],
            [Constraints(positive(k), without_history)],
            frozenset(_ids(exclude)),
        )
        return ranking.items

    def similar(self, item: str, k: int = _TOP_K) -> list[ScoredItem]:
        """The k items that are most similar to one, best first, without the item itself.

        30 at most; a score is from 0 to 1. A version of an earlier nextclick gives the k items with
        the nearest vectors; a score is then their cosine, from −1 to 1. Raises ValueError for an
        item that is not in the catalogue, and for k < 1; and as `related`.
        """
        row, related = self._row(item), self.related
        if related is not None:
            return [*related.similar.of(row, self.items, positive(k))]
        with torch.inference_mode():
            vectors = self.checkpoint.model.item_vectors()
            cosines = vectors @ vectors[row - 1]
            cosines[row - 1] = -torch.inf
            best = torch.topk(cosines, min(positive(k), len(self.items) - 1))
        found = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [ScoredItem(self.items[column], cosine) for column, cosine in found]

    def bought_together(self, item: str, k: int = _TOP_K) -> list[RelatedItem]:
        """The k items that are most often bought together with one, the closest first; 30 at most.

        A score is from 0 to 1. Of an item that nobody bought together with another: those that are
        clicked together with it. Raises ValueError for an item that is not in the catalogue, and
        for k < 1, NextclickError for a version of an earlier nextclick; and as `related`.
        """
        row, related = self._row(item), self.related
        if related is None:
            raise NextclickError(
                f"{self.name} does not know what is bought together: an earlier version of "
                "nextclick made it; fit it again"
            )
        return related.bought_together.of(row, self.items, positive(k))

    def _row(self, item: str) -> int:
        (row,) = self.checkpoint.vocabulary.rows([str(item)]).tolist()
        if row == PADDING:
            raise ValueError(f"{item!r} is not among the model's {len(self.items):,} items")
        return int(row)

    def explain(self, history: Iterable[str], k: int = _TOP_K) -> Explanation:
        """Recommend k items, with the contribution of each click of the history to each of them.

        `contributions[i][j]` is the increase of log P(items[i]) by click j of `history` (the newest
        10), in nats: 0.69 doubles the probability, −0.69 halves it.
        """
        return explain(self._scorer, _ids(history), positive(k))


def open_registry(url: str | None = None) -> Registry:
    """Open a model registry: a folder or any fsspec URL; None: the one of the settings.

    Nothing is read or written yet. Raises ConfigurationError if no package supports the URL.
    """
    return Registry(Settings.from_environment().registry.url if url is None else url)


def _opened(registry: Registry | str) -> Registry:
    return registry if isinstance(registry, Registry) else Registry(registry)


def _ids(items: Iterable[str]) -> list[str]:
    if isinstance(items, str):
        raise TypeError(f"a list of item ids is needed, not {items!r}")
    return [str(item) for item in items]


def positive(k: int) -> int:
    """Return k; raises ValueError if it is less than 1."""
    if k < 1:
        raise ValueError(f"k = {k}: at least 1")
    return k
