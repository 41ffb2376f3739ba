"""Histories in, ranked items out: the one scoring path of worker, trainer and tests.

On the CPU a recommendation is *bit for bit* a function of (model version, history): matrix
kernels may differ in the last bit with the number of rows, so batches are padded to a multiple
of ROWS, from which on the kernels were found (and are tested) not to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from shared.bst import BST
from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError
from shared.schemas import ScoredItem
from shared.shortlist import MOST, Shortlist
from shared.windows import HISTORY_LENGTH, IntArray, windows

ROWS = 8

_CELLS = 640_000
"""Scores computed at once: 2.5 MB."""

SHORTLIST_FROM = 200_000
"""Items from which on a shortlist is ranked instead of the whole catalogue."""
_SHORTLISTED = 64
"""Windows whose shortlists are made at once, a multiple of ROWS."""

_POWERS_OF_TEN = np.array([float(f"1e{exponent}") for exponent in range(60)])
"""Up to 1e22 they are exact, and so are the decimals made with them."""

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
        """Move the model to `device`, precompute its catalogue, and try it once.

        A CPU makes a shortlist of catalogues with `shortlist_from` items or more, and scores only
        that exactly.

        Raises CheckpointError if the trial gives anything but finite scores of the right shape.
        """
        self.vocabulary = checkpoint.vocabulary
        self.shortlist: Shortlist | None = None
        self.device = device
        self._model = checkpoint.model.to(device).eval()
        self.top_k = min(top_k, len(self.vocabulary))
        with torch.inference_mode():
            self._catalogue = self._model.catalogue()
        large = len(self.vocabulary) >= shortlist_from and self.top_k <= MOST
        if large and device.type == "cpu" and isinstance(self._model, BST):
            self.shortlist = Shortlist(self._model, self._catalogue)
        shares = (checkpoint.popularity + 0.5) / (checkpoint.popularity + 0.5).sum()
        self.log_popularity: npt.NDArray[np.float64] = np.log(shares)
        """Shape [items]: log P(next click) where nothing is known of the session."""
        self._popular = self._rank_by_popularity(checkpoint.popularity)
        self._try_once()

    @property
    def bytes(self) -> int:
        """Memory that the weights and tables take."""
        tables = [*self._model.parameters(), *self._model.buffers(), self._catalogue]
        if self.shortlist is not None:
            tables.append(self.shortlist.rough)
        return sum(table.nbytes for table in tables)

    def recommend(self, histories: list[list[str]]) -> list[Ranking]:
        """Rank the catalogue for each history (item ids, oldest first): top k, best first.

        One forward pass for all. A history that is empty, or holds only items that the model
        never saw, gets the popular items and says so.
        """
        if not histories:
            return []
        rows = self.vocabulary.rows([item for history in histories for item in history])
        ends = np.cumsum([len(history) for history in histories])
        batch = windows(rows, np.r_[0, ends[:-1]], ends)
        known = np.flatnonzero(batch.any(axis=1))
        rankings = [
            Ranking(self._popular, "unknown_items" if history else "cold_start")
            for history in histories
        ]
        if len(known):
            scores, columns = self._top(batch[known])
            ids = self.vocabulary.item_ids
            for i, row_scores, row_columns in zip(known, scores, columns, strict=True):
                items = [
                    ScoredItem(ids[column], score)
                    for score, column in zip(row_scores, row_columns, strict=True)
                ]
                rankings[i] = Ranking(items, None)
        return rankings

    def log_probabilities(self, batch: IntArray) -> torch.Tensor:
        """log P(next click = item | history) for windows [B, HISTORY_LENGTH]: shape [B, items].

        B ≥ 1, and every window holds at least one known item.
        """
        (whole,) = self._in_blocks(batch, len(batch))
        return whole

    def _top(self, batch: IntArray) -> tuple[list[list[float]], list[list[int]]]:
        if self.shortlist is not None:
            best = list(self._shortlisted(batch, self.shortlist))
        else:  # scores of a block are ranked while they are still in a cache
            block = max(ROWS, _CELLS // len(self.vocabulary))
            best = [torch.topk(scores, self.top_k) for scores in self._in_blocks(batch, block)]
        values = torch.cat([values for values, _ in best])[: len(batch)]
        columns = torch.cat([columns for _, columns in best])[: len(batch)]
        return six_digits(values.double().exp().cpu().numpy()).tolist(), columns.tolist()

    def _shortlisted(
        self, batch: IntArray, shortlist: Shortlist
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        with torch.inference_mode():
            for histories in torch.split(self._padded(batch), _SHORTLISTED):
                yield shortlist.top(histories, self.top_k)

    def _padded(self, batch: IntArray) -> torch.Tensor:
        padded = np.concatenate([batch, np.repeat(batch[:1], -len(batch) % ROWS, axis=0)])
        return torch.from_numpy(padded).to(self.device)

    def _in_blocks(self, batch: IntArray, block: int) -> Iterator[torch.Tensor]:
        """log P of at most `block` windows (rounded to ROWS) after the other."""
        histories = self._padded(batch)
        step = -(-block // ROWS) * ROWS
        with torch.inference_mode():
            encoded = self._model.encode(histories)
            for start in range(0, len(batch), step):
                part = tuple(tensor[start : start + step] for tensor in encoded)
                kept = min(step, len(batch) - start)
                logits = self._model.score(part, self._catalogue)[:kept]
                yield self._model.log_probabilities(logits, histories[start : start + kept])

    def _rank_by_popularity(self, popularity: IntArray) -> list[ScoredItem]:
        order = np.argsort(-popularity, kind="stable")[: self.top_k]
        shares = six_digits(popularity[order] / max(1, int(popularity.sum())))
        return [
            ScoredItem(self.vocabulary.item_ids[i], score)
            for i, score in zip(order, shares.tolist(), strict=True)
        ]

    def _try_once(self) -> None:
        trial = np.zeros((ROWS, HISTORY_LENGTH), np.int64)
        trial[:, -1] = 1
        trial[1:, :] = len(self.vocabulary)
        scores = self.log_probabilities(trial)
        if scores.shape != (ROWS, len(self.vocabulary)) or not torch.isfinite(scores).all():
            raise CheckpointError("the model's scores are not finite numbers, one for every item")


def six_digits(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Round to six significant digits: about what float32 carries, in half the bytes on the topic.

    scores: any shape, in [0, 1].
    """
    magnitude = np.floor(np.log10(scores, out=np.zeros_like(scores), where=scores > 0))
    scale = _POWERS_OF_TEN[np.minimum(5 - magnitude.astype(np.int64), len(_POWERS_OF_TEN) - 1)]
    rounded: npt.NDArray[np.float64] = np.round(scores * scale) / scale
    return rounded
