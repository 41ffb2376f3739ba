from __future__ import annotations

import numpy as np
import pytest

from nextclick.shared.model import Scorer
from nextclick.shared.model.explain import explain
from nextclick.shared.windows import HISTORY_LENGTH
from tests.unit.builders import CPU, checkpoint

SCORER = Scorer(checkpoint(), CPU, top_k=5)


def log_probability(history: list[str], item_id: str) -> float:
    rows = [int(item) for item in history if int(item) <= 30][-HISTORY_LENGTH:]
    window = np.array([[0] * (HISTORY_LENGTH - len(rows)) + rows])
    return float(SCORER.log_probabilities(window)[0, int(item_id) - 1])


def test_a_contribution_is_what_leaving_the_click_out_costs() -> None:
    history = ["3", "9", "3", "27"]
    explanation = explain(SCORER, history)
    assert explanation.history == history
    assert explanation.items == SCORER.recommend([history])[0].items
    for item, row in zip(explanation.items, explanation.contributions, strict=True):
        whole = log_probability(history, item.item_id)
        for place, got in enumerate(row):
            without = log_probability(history[:place] + history[place + 1 :], item.item_id)
            assert got == pytest.approx(whole - without, abs=1e-5)


def test_unknown_items_contribute_nothing_and_move_nobody() -> None:
    plain = explain(SCORER, ["3", "27"])
    mixed = explain(SCORER, ["99", "3", "98", "27"])
    assert mixed.items == plain.items
    assert [row[0] for row in mixed.contributions] == [0.0] * 5
    assert [[row[1], row[3]] for row in mixed.contributions] == plain.contributions


def test_a_single_click_is_measured_against_popularity() -> None:
    explanation = explain(SCORER, ["7"])
    shares = np.arange(30, 0, -1) + 0.5
    for item, (got,) in zip(explanation.items, explanation.contributions, strict=True):
        popular = np.log(shares[int(item.item_id) - 1] / shares.sum())
        assert got == pytest.approx(log_probability(["7"], item.item_id) - popular, abs=1e-5)


@pytest.mark.parametrize("history", [[], ["99", "98"]])
def test_where_popularity_answers_nothing_contributes(history: list[str]) -> None:
    explanation = explain(SCORER, history)
    assert len(explanation.items) == 5
    assert explanation.contributions == [[0.0] * len(history)] * 5


def test_only_what_the_model_sees_is_explained() -> None:
    history = [str(i) for i in range(1, 16)]
    assert explain(SCORER, history) == explain(SCORER, history[-HISTORY_LENGTH:])
