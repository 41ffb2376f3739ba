"""Explains recommendations: how much each click of a history contributed to each item.

Leave-one-out: the contribution of a click to an item is
log P(item | history) − log P(item | history without the click). This works for every kind of model
and takes one forward pass over at most 11 windows. Contributions need not add up: each of two
redundant clicks contributes little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nextclick.shared.model.constraints import Constraints
from nextclick.shared.model.scorer import Scorer
from nextclick.shared.schemas import ScoredItem
from nextclick.shared.windows import HISTORY_LENGTH, PADDING


@dataclass(frozen=True)
class Explanation:
    """Recommendations for one history, with the contribution of each click to each."""

    history: list[str]
    """The clicks that the model sees, oldest first; at most HISTORY_LENGTH."""
    items: list[ScoredItem]
    contributions: list[list[float]]
    """One list per item, one number per click of the history, in nats: 0.69 doubles the item's
    probability, −0.69 halves it. 0 for a click on an item that the model does not know."""


def explain(
    scorer: Scorer,
    history: list[str],
    k: int | None = None,
    withheld: frozenset[str] = frozenset(),
) -> Explanation:
    """Recommend for a history (item ids, oldest first) with the contribution of each click.

    If the model knows no item of the history, the list is by popularity and all contributions are
    0. The contribution of a single known click is measured against popularity. `k`: how many
    items; None: the scorer's top_k. withheld: items that the list does not hold.
    """
    history = history[-HISTORY_LENGTH:]
    (ranking,) = scorer.recommend([history], None if k is None else [Constraints(k)], withheld)
    rows = scorer.vocabulary.rows(history)
    known = np.flatnonzero(rows != PADDING)
    contributions = np.zeros((len(ranking.items), len(history)))
    if len(known):
        columns = scorer.vocabulary.rows([item.item_id for item in ranking.items]) - 1
        kept = [known]
        if len(known) > 1:
            kept += [known[known != left_out] for left_out in known]
        windows = np.zeros((len(kept), HISTORY_LENGTH), np.int64)
        for window, places in zip(windows, kept, strict=True):
            window[HISTORY_LENGTH - len(places) :] = rows[places]
        log_p = scorer.log_probabilities(windows)[:, columns].cpu().numpy().astype(np.float64)
        scores = scorer.calibration.log_probabilities(log_p)
        without = scores[1:] if len(known) > 1 else scorer.log_popularity[None, columns]
        contributions[:, known] = (scores[:1] - without).T
    return Explanation(history, ranking.items, contributions.tolist())
