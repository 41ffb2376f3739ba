"""What the model is measured against while it serves, on the same histories."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from nextclick.services.simulator.shop import Shop
from nextclick.shared.model import Vocabulary
from nextclick.shared.schemas import Recommendation
from nextclick.shared.stream_metrics import K, TopItems
from nextclick.shared.windows import HISTORY_LENGTH


def constant_list(items: Collection[str]) -> TopItems:
    """The same list, whatever the history."""
    listed = set(items)

    def same(answers: Sequence[Recommendation]) -> list[set[str]]:
        return [listed] * len(answers)

    return same


def ceiling(shop: Shop) -> TopItems:
    """The best K items for a history, for somebody who knows the shop's law.

    It lets histories run on into the shopper's next mission, because simulated traffic is too fast
    for a pause that cuts them. A run of a few thousand clicks ends before many shoppers are back,
    so among its judged clicks too few begin a mission: at 2,000 clicks the ceiling is 0.895 where
    one that knew this would reach 0.908; at 12,000 the two are the same.
    """
    vocabulary = Vocabulary(shop.item_ids)
    names = np.array(shop.item_ids, object)

    def best(answers: Sequence[Recommendation]) -> list[set[str]]:
        if not answers:
            return []
        histories = np.zeros((len(answers), HISTORY_LENGTH), np.int64)
        for row, answer in zip(histories, answers, strict=True):
            row[HISTORY_LENGTH - len(answer.history) :] = vocabulary.rows(answer.history)
        columns = np.argsort(-shop.next_click_given_history(histories), axis=1)[:, :K]
        return [set(row) for row in names[columns]]

    return best
