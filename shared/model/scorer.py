"""Histories in, ranked items out: the one scoring path of worker, trainer and tests.

A recommendation is a function of (model version, history, withheld items), up to rounding: kernels
add in another order on another processor, with other thread counts or batch sizes. Scores agree to
a relative 1e-4 (or an absolute 1e-12), and lists hold the same items in the same order, except for
items whose scores are that close.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from nextclick.shared.errors import CheckpointError
from nextclick.shared.model.bst import BST
from nextclick.shared.model.checkpoint import Checkpoint
from nextclick.shared.model.constraints import (
    Constraints,
    Withheld,
    apply_constraints,
    most_popular,
)
from nextclick.shared.model.shortlist import MAX_ITEMS, Shortlist
from nextclick.shared.model.top_k import top_k
from nextclick.shared.schemas import ScoredItem
from nextclick.shared.windows import HISTORY_LENGTH, PADDING, IntArray, windows

_SCORES_PER_BLOCK = 640_000
"""Scores computed at once (2.5 MB), so that they are ranked while still in a processor cache."""

SHORTLIST_FROM = 200_000
"""Smallest catalogue for which a shortlist is ranked instead of all items."""
_SHORTLIST_WINDOWS = 64
"""Windows per batch of shortlists."""

_POWERS_OF_TEN = np.array([float(f"1e{exponent}") for exponent in range(60)])
"""Exact up to 1e22, so that rounding with them gives the nearest double of a decimal."""

Fallback = Literal["cold_start", "unknown_items", "not_finite"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best items for one history."""

    items: list[ScoredItem]
    fallback: Fallback | None


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
        self._popularity = checkpoint.popularity / max(1, int(checkpoint.popularity.sum()))
        self._by_popularity: IntArray = np.argsort(-checkpoint.popularity, kind="stable")
        self._withheld = Withheld.nothing(len(self.vocabulary), device)
        self._popular = self._most_popular(Constraints(self.top_k), self._withheld)
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
    ) -> list[Ranking]:
        """Rank the catalogue for each history (item ids, oldest first), best first.

        One forward pass for all. A history that is empty, or holds only unknown items, gets the
        popular items, and its Ranking says why in `fallback`. With `constraints`, one per history,
        a list holds the best k items that they allow, else the top_k of the whole catalogue.
        No list holds an item of `withheld`, which is quickest if it is the same object as before.
        """
        if not histories:
            return []
        never = self._withheld_columns(withheld)
        rows = self.vocabulary.rows([item for history in histories for item in history])
        lengths = np.array([len(history) for history in histories])
        ends = lengths.cumsum()
        batch = windows(rows, ends - lengths, ends)
        known = batch[:, -1].nonzero()[0]
        kept = None if constraints is None else [constraints[i] for i in known.tolist()]
        ranked = dict(zip(known.tolist(), self._top(batch[known], kept, never), strict=True))
        rankings = []
        for i, history in enumerate(histories):
            if i in ranked:
                rankings.append(Ranking(ranked[i], None))
            else:
                popular = (
                    self._most_popular(constraints[i], never)
                    if constraints is not None
                    else self._most_popular(Constraints(self.top_k), never)
                    if never.any
                    else self._popular
                )
                rankings.append(Ranking(popular, "unknown_items" if history else "cold_start"))
        return rankings

    def log_probabilities(self, batch: IntArray) -> torch.Tensor:
        """The model's log P for windows [B, HISTORY_LENGTH], not calibrated: shape [B, items].

        They rank the catalogue as calibrated ones would. B ≥ 1, and every window holds at least
        one known item.
        """
        (whole,) = self._in_blocks(batch, len(batch))
        return whole

    def _withheld_columns(self, item_ids: frozenset[str]) -> Withheld:
        """The columns of withheld items: what has changed since the last call is looked up."""
        now = self._withheld  # read once: several threads may use a scorer
        if item_ids is not now.item_ids:
            now = now.changed_to(item_ids, self.vocabulary)
            self._withheld = now
        return now

    def _top(
        self, batch: IntArray, constraints: Sequence[Constraints] | None, withheld: Withheld
    ) -> list[list[ScoredItem]]:
        if len(batch) == 0:
            return []
        if constraints is not None:
            best = list(self._top_constrained(batch, constraints, withheld))
        elif self.shortlist is not None:
            best = list(self._top_of_shortlists(batch, self.shortlist, withheld))
        else:
            best = [top_k(withheld.apply(scores), self.top_k) for scores in self._in_blocks(batch)]
        values = torch.cat([values for values, _ in best]).cpu().numpy().astype(np.float64)
        columns = torch.cat([columns for _, columns in best]).tolist()
        scores = round_to_six_digits(self.calibration.probabilities(values)).tolist()
        ids = self.vocabulary.item_ids
        ranked = [
            [ScoredItem(ids[column], score) for score, column in zip(*row, strict=True)]
            for row in zip(scores, columns, strict=True)
        ]
        if constraints is not None or withheld.any:
            # Not NaN: whoever asks must see that a model is broken.
            allowed = (values != -np.inf).sum(axis=1).tolist()
            most = [c.k for c in constraints] if constraints is not None else allowed
            ranked = [r[: min(n, k)] for r, n, k in zip(ranked, allowed, most, strict=True)]
        return ranked

    def _top_constrained(
        self, batch: IntArray, constraints: Sequence[Constraints], withheld: Withheld
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Rank all items: the rules could leave too few of a shortlist."""
        k = min(len(self.vocabulary), max(constraint.k for constraint in constraints))
        start = 0
        for scores in self._in_blocks(batch):
            part = slice(start, start + len(scores))
            allowed = apply_constraints(withheld.apply(scores), batch[part], constraints[part])
            yield top_k(allowed, k)
            start += len(scores)

    def _top_of_shortlists(
        self, batch: IntArray, shortlist: Shortlist, withheld: Withheld
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        with torch.inference_mode():
            for histories in torch.split(self._histories(batch), _SHORTLIST_WINDOWS):
                yield shortlist.top(histories, self.top_k, withheld.mask if withheld.any else None)

    def _histories(self, batch: IntArray) -> torch.Tensor:
        """Windows on the device, without the columns that are padding in all of them."""
        longest = batch[:, batch.any(axis=0).argmax() :]
        return torch.from_numpy(longest).to(self.device)

    def _in_blocks(self, batch: IntArray, block: int | None = None) -> Iterator[torch.Tensor]:
        """Yield log P [b, items] of at most `block` windows; None: of _SCORES_PER_BLOCK scores."""
        block = block or max(1, _SCORES_PER_BLOCK // len(self.vocabulary))
        histories = self._histories(batch)
        with torch.inference_mode():
            encoded = self._encode(histories)
            for start in range(0, len(batch), block):
                part = slice(start, start + block)
                logits = self._model.score(tuple(t[part] for t in encoded), self._catalogue)
                yield self._model.log_probabilities(logits, histories[part])

    def _most_popular(self, constraint: Constraints, withheld: Withheld) -> list[ScoredItem]:
        columns = most_popular(self._by_popularity, constraint, withheld)
        shares = round_to_six_digits(self._popularity[columns]).tolist()
        ids = self.vocabulary.item_ids
        return [ScoredItem(ids[i], share) for i, share in zip(columns, shares, strict=True)]

    def _smoke_test(self) -> None:
        windows_tried = np.full((2, HISTORY_LENGTH), len(self.vocabulary), np.int64)
        windows_tried[0] = [PADDING] * (HISTORY_LENGTH - 1) + [1]
        scores = self.log_probabilities(windows_tried)
        if scores.shape != (2, len(self.vocabulary)) or not torch.isfinite(scores).all():
            raise CheckpointError("the model's scores are not finite numbers, one for every item")


def round_to_six_digits(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Round to six significant digits: float32 has no more, and it halves the JSON.

    scores: any shape, in [0, 1].
    """
    magnitude = np.floor(np.log10(scores, out=np.zeros_like(scores), where=scores > 0))
    scale = _POWERS_OF_TEN[np.minimum(5 - magnitude.astype(np.int64), len(_POWERS_OF_TEN) - 1)]
    rounded: npt.NDArray[np.float64] = np.round(scores * scale) / scale
    return rounded
