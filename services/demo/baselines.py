"""Baselines that the served model is compared with live, on the same histories."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from nextclick.services.simulator.shop import Shop
from nextclick.shared.model import Vocabulary
from nextclick.shared.schemas import Recommendation
from nextclick.shared.stream_metrics import K, TopItems
from nextclick.shared.windows import HISTORY_LENGTH


def constant_list(items: Collection[str]) -> TopItems:
    """A baseline that recommends the same items for every history."""
    listed = set(items)

    def same(answers: Sequence[Recommendation]) -> list[set[str]]:
        return [listed] * len(answers)

    return same


def ceiling(shop: Shop) -> TopItems:
    """The best possible K items for a history, by the shop's true click probabilities.

    Histories continue into the shopper's next mission, because simulated traffic is too fast for a
    pause that ends a session. In a short run few shoppers return, so fewer clicks begin a mission
    than these probabilities assume: at 2,000 clicks the ceiling is 0.895 instead of 0.908, at
    12,000 it is exact.
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
