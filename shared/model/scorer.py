"""Histories in, ranked items out: the one scoring path of worker, trainer and tests.

A recommendation is a function of (model version, history, withheld items, constraints), up to
rounding: kernels
add in another order on another processor, with other thread counts or batch sizes. Scores agree to
a relative 1e-4 (or an absolute 1e-12), and lists hold the same items in the same order, except for
items whose scores are that close.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from nextclick.shared.errors import CheckpointError
from nextclick.shared.items import ItemAttributes
from nextclick.shared.model.bst import BST
from nextclick.shared.model.checkpoint import Checkpoint
from nextclick.shared.model.constraints import (
    Constraints,
    Withheld,
    constrained_top_k,
    draw_places,
    explored_top_k,
    left_out,
    most_popular,
    popularity_keys,
)
from nextclick.shared.model.exploration import NewItems, seed_text
from nextclick.shared.model.item_index import ItemIndex
from nextclick.shared.model.rounding import round_to_six_digits
from nextclick.shared.model.session_model import Encoded
from nextclick.shared.model.shortlist import MAX_ITEMS, Shortlist
from nextclick.shared.model.top_k import top_k
from nextclick.shared.profiles import Profile
from nextclick.shared.schemas import DrawnItems, KeptOutItems, ScoredItem
from nextclick.shared.windows import HISTORY_LENGTH, PADDING, IntArray, windows

_SCORES_PER_BLOCK = 640_000
"""Scores computed at once (2.5 MB), so that they are ranked while still in a processor cache."""

SHORTLIST_FROM = 200_000
"""Smallest catalogue for which a shortlist is ranked instead of all items."""
_SHORTLIST_WINDOWS = 64
"""Windows per batch of shortlists."""

Fallback = Literal["cold_start", "unknown_items", "not_finite"]
_List: TypeAlias = tuple[list[ScoredItem], list[float] | None]
"""Items, and their propensities if some were drawn."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best items for one history."""

    items: list[ScoredItem]
    fallback: Fallback | None
    shortened_by: dict[str, int] | None = None
    """Why the list is shorter than it was to be: see `constraints.left_out`."""
    drawn: DrawnItems | None = None
    """What of the list was drawn; None: nothing."""
    kept_out: KeptOutItems | None = None
    """What the user's own clicks kept out; None: nothing was asked."""


class Scorer:
    """Scores the whole catalogue of one checkpoint on one device."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        top_k: int,
        *,
        shortlist_from: int = SHORTLIST_FROM,
    ) -> None:
        """Move the model to `device`, precompute its catalogue, and run a smoke test.

        On a CPU, a catalogue of `shortlist_from` items or more is ranked by a shortlist (see
        `shortlist`). top_k: length of a list without constraints.

        Raises CheckpointError unless the smoke test gives finite scores of the right shape.
        """
        self.vocabulary = checkpoint.vocabulary
        self.shortlist: Shortlist | None = None
        self.device = device
        self.calibration = checkpoint.calibration
        self._model = checkpoint.model.to(device).eval()
        self.top_k = min(top_k, len(self.vocabulary))
        with torch.inference_mode():
            self._catalogue = self._model.catalogue()
            self._encode = self._model.serving_encoder(self._catalogue)
        large = len(self.vocabulary) >= shortlist_from and self.top_k <= MAX_ITEMS
        if large and device.type == "cpu" and isinstance(self._model, BST):
            self.shortlist = Shortlist(self._model, self._encode, self._catalogue)
        shares = (checkpoint.popularity + 0.5) / (checkpoint.popularity + 0.5).sum()
        self.log_popularity: npt.NDArray[np.float64] = np.log(shares)
        """Shape [items]: log P(next click) if no item of the session is known."""
        self._new = NewItems(checkpoint.popularity)
        self._popularity = checkpoint.popularity / max(1, int(checkpoint.popularity.sum()))
        self._by_popularity: IntArray = np.argsort(-checkpoint.popularity, kind="stable")
        self._withheld = Withheld.nothing(len(self.vocabulary), device)
        self._index = ItemIndex.empty(self.vocabulary, device)
        self._plain = Constraints(self.top_k)
        self._popular = self._most_popular(self._plain, self._withheld)
        self._smoke_test()

    @property
    def bytes(self) -> int:
        """Memory of the weights and tables."""
        tables = [*self._model.parameters(), *self._model.buffers(), self._catalogue]
        if self.shortlist is not None:
            tables.append(self.shortlist.rough)
        return sum(table.nbytes for table in tables)

    def recommend(
        self,
        histories: list[list[str]],
        constraints: Sequence[Constraints] | None = None,
        withheld: frozenset[str] = frozenset(),
        seeds: Sequence[int] | None = None,
    ) -> list[Ranking]:
        """Rank the catalogue for each history (item ids, oldest first), best first.

        One forward pass for all. A history that is empty, or holds only unknown items, gets the
        popular items, and its Ranking says why in `fallback`. With `constraints`, one per history,
        a list holds the best k items that they allow, else the top_k of the whole catalogue.
        No list holds an item of `withheld`, which is quickest if it is the same object as before.
        seeds: see `recommend_each`.
        """
        (rankings,) = self.recommend_each(histories, [constraints], withheld, seeds)
        return rankings

    def recommend_each(
        self,
        histories: list[list[str]],
        kinds: Sequence[Sequence[Constraints] | None],
        withheld: frozenset[str] = frozenset(),
        seeds: Sequence[int] | None = None,
    ) -> list[list[Ranking]]:
        """Rank for each kind of list, as `recommend`; all kinds from one forward pass.

        kinds: for each kind the constraints, one per history, or None for lists without any.
        seeds: one per history, for the places that profiles draw (`exploration.seed_of`); None:
        nothing is drawn. Returns the rankings of each kind.
        """
        if not histories:
            return [[] for _ in kinds]
        never = self._withheld_columns(withheld)
        rows = self.vocabulary.rows([item for history in histories for item in history])
        lengths = np.array([len(history) for history in histories])
        ends = lengths.cumsum()
        batch = windows(rows, ends - lengths, ends)
        known = batch[:, -1].nonzero()[0].tolist()
        kept = [None if kind is None else [kind[i] for i in known] for kind in kinds]
        seeds_kept = None if seeds is None else [seeds[i] for i in known]
        tops = self._top(batch[known], kept, never, seeds_kept)
        return [
            self._rankings(histories, batch, dict(zip(known, top, strict=True)), kind, never, seeds)
            for kind, top in zip(kinds, tops, strict=True)
        ]

    def prepare(
        self, profiles: Sequence[Profile], attributes: ItemAttributes
    ) -> Callable[[int, bool], Constraints]:
        """Make the constraints that profiles are for these attributes: of (k, without_history).

        What was prepared before is kept until the attributes are another object.
        """
        index = self._index  # read once: several threads may use a scorer
        if attributes is not index.attributes:
            index = self._index = index.changed_to(attributes)
        prepared = tuple(index.prepare(profile) for profile in profiles)
        return lambda k, without_history: Constraints(k, without_history, prepared, index)

    def _rankings(
        self,
        histories: list[list[str]],
        batch: IntArray,
        ranked: dict[int, _List],
        constraints: Sequence[Constraints] | None,
        withheld: Withheld,
        seeds: Sequence[int] | None,
    ) -> list[Ranking]:
        """One ranking per history. ranked: place of a history → the model's list."""
        rankings = []
        for place, history in enumerate(histories):
            constraint = self._plain if constraints is None else constraints[place]
            seed = None if seeds is None else seeds[place]
            fallback: Fallback | None = None
            if place in ranked:
                items, propensities = ranked[place]
            else:
                fallback = "unknown_items" if history else "cold_start"
                plain = constraints is None and not withheld.any
                items, propensities = (
                    self._popular if plain else self._most_popular(constraint, withheld, seed)
                )
            shortened_by = None
            if len(items) < constraint.k:
                window = batch[place] if constraint.without_history else batch[place, :0]
                seen = window[window != PADDING] - 1
                shortened_by = left_out(constraint, withheld, seen, len(items))
            drawn = None
            if propensities is not None and seed is not None:
                drawn = DrawnItems.model_construct(seed=seed_text(seed), propensities=propensities)
            kept_out = None if constraint.kept_out is None else constraint.kept_out.items
            rankings.append(Ranking(items, fallback, shortened_by, drawn, kept_out))
        return rankings

    def log_probabilities(self, batch: IntArray) -> torch.Tensor:
        """The model's log P for windows [B, HISTORY_LENGTH], not calibrated: shape [B, items].

        They rank the catalogue as calibrated ones would. B ≥ 1, and every window holds at least
        one known item.
        """
        histories = self._histories(batch)
        with torch.inference_mode():
            encoded = self._encode(histories)
            (whole,) = self._score_in_blocks(histories, encoded, len(batch))
        return whole

    def _withheld_columns(self, item_ids: frozenset[str]) -> Withheld:
        """The columns of withheld items: what has changed since the last call is looked up."""
        now = self._withheld  # read once: several threads may use a scorer
        if item_ids is not now.item_ids:
            now = now.changed_to(item_ids, self.vocabulary)
            self._withheld = now
        return now

    def _top(
        self,
        batch: IntArray,
        kinds: Sequence[Sequence[Constraints] | None],
        withheld: Withheld,
        seeds: Sequence[int] | None,
    ) -> list[list[_List]]:
        """The lists of each kind, one per window. Each window is encoded and scored once."""
        if len(batch) == 0:
            return [[] for _ in kinds]
        explores = [
            seeds is not None and kind is not None and any(c.drawn_places for c in kind)
            for kind in kinds
        ]
        propensities: list[list[list[float] | None]] = [[] for _ in kinds]
        best: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in kinds]
        short = self.shortlist
        # With constraints all items are ranked: they could leave too few of a shortlist.
        exact = [i for i, kind in enumerate(kinds) if kind is not None or short is None]
        step = len(batch) if short is None else _SHORTLIST_WINDOWS
        with torch.inference_mode():
            for start in range(0, len(batch), step):
                histories = self._histories(batch)[start : start + step]
                encoded = self._encode(histories)
                if short is not None and len(exact) < len(kinds):
                    mask = withheld.mask if withheld.any else None
                    shortlisted = short.top(histories, self.top_k, mask, encoded)
                    for i in range(len(kinds)):
                        if i not in exact:
                            best[i].append(shortlisted)
                if not exact:
                    continue
                first = start
                for scores in self._score_in_blocks(histories, encoded):
                    withheld.apply(scores)
                    part = slice(first, first + len(scores))
                    first += len(scores)
                    for i in exact:
                        kind = kinds[i]
                        if kind is None:
                            best[i].append(top_k(scores, self.top_k))
                        elif explores[i] and seeds is not None:
                            top, drawn = explored_top_k(
                                scores, batch[part], kind[part], seeds[part], self._new
                            )
                            best[i].append(top)
                            propensities[i] += drawn
                        else:
                            best[i].append(constrained_top_k(scores, batch[part], kind[part]))
        shortened = [kind is not None or withheld.any for kind in kinds]
        return [
            list(zip(self._lists(tops, may_end), drawn or [None] * len(batch), strict=True))
            for tops, may_end, drawn in zip(best, shortened, propensities, strict=True)
        ]

    def _lists(
        self, parts: list[tuple[torch.Tensor, torch.Tensor]], shortened: bool
    ) -> list[list[ScoredItem]]:
        """Make lists of log P and columns, each [b, k], one after the other.

        shortened: a list may end before k; what follows has a log P of −inf.
        """
        if len(parts) > 1:
            k = max(columns.shape[1] for _, columns in parts)
            padded = [functional.pad(v, (0, k - v.shape[1]), value=-torch.inf) for v, _ in parts]
            same = [functional.pad(c, (0, k - c.shape[1])) for _, c in parts]
            parts = [(torch.cat(padded), torch.cat(same))]
        values = parts[0][0].cpu().numpy().astype(np.float64)
        columns = parts[0][1].tolist()
        scores = round_to_six_digits(self.calibration.probabilities(values)).tolist()
        ids = self.vocabulary.item_ids
        ranked = [
            [ScoredItem(ids[column], score) for score, column in zip(*row, strict=True)]
            for row in zip(scores, columns, strict=True)
        ]
        if shortened:
            # Not NaN: whoever asks must see that a model is broken.
            lengths = (values != -np.inf).sum(axis=1).tolist()
            ranked = [items[:length] for items, length in zip(ranked, lengths, strict=True)]
        return ranked

    def _histories(self, batch: IntArray) -> torch.Tensor:
        """Windows on the device, without the columns that are padding in all of them."""
        longest = batch[:, batch.any(axis=0).argmax() :]
        return torch.from_numpy(longest).to(self.device)

    def _score_in_blocks(
        self, histories: torch.Tensor, encoded: Encoded, block: int | None = None
    ) -> Iterator[torch.Tensor]:
        """Yield log P [b, items] of at most `block` windows; None: of _SCORES_PER_BLOCK scores."""
        block = block or max(1, _SCORES_PER_BLOCK // len(self.vocabulary))
        for start in range(0, len(histories), block):
            part = slice(start, start + block)
            logits = self._model.score(tuple(t[part] for t in encoded), self._catalogue)
            yield self._model.log_probabilities(logits, histories[part])

    def _most_popular(
        self, constraint: Constraints, withheld: Withheld, seed: int | None = None
    ) -> _List:
        drawn = seed is not None and constraint.drawn_places > 0
        head = constraint.head if drawn else constraint
        keys = popularity_keys(self.log_popularity, constraint, withheld)
        columns = most_popular(keys, self._by_popularity, head)
        propensities = None
        if drawn and seed is not None:
            whole = torch.from_numpy(keys[None])
            (propensities,) = draw_places(whole, [columns], [constraint], [seed], self._new)
        shares = round_to_six_digits(self._popularity[columns]).tolist()
        ids = self.vocabulary.item_ids
        items = [ScoredItem(ids[i], share) for i, share in zip(columns, shares, strict=True)]
        return items, propensities

    def _smoke_test(self) -> None:
        windows_tried = np.full((2, HISTORY_LENGTH), len(self.vocabulary), np.int64)
        windows_tried[0] = [PADDING] * (HISTORY_LENGTH - 1) + [1]
        scores = self.log_probabilities(windows_tried)
        if scores.shape != (2, len(self.vocabulary)) or not torch.isfinite(scores).all():
            raise CheckpointError("the model's scores are not finite numbers, one for every item")


def are_finite(rankings: Iterable[Ranking]) -> bool:
    """Whether all scores are finite numbers."""
    return all(isfinite(sum([item.score for item in r.items])) for r in rankings)
