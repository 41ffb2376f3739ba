from __future__ import annotations

import numpy as np
import pytest
import torch

import nextclick.trainer.fit.negative_samples
from nextclick.trainer.fit.negative_samples import draw_negative_samples

CLICKED = torch.tensor([[0, 0, 7, 3], [3, 9, 9, 12]])


def test_in_a_small_catalogue_all_items_are_in_the_softmax() -> None:
    found = draw_negative_samples(20, CLICKED, np.random.default_rng(0))
    assert found.rows.tolist() == list(range(1, 21))
    assert found.weights.tolist() == [1.0] * 20
    assert found.columns(torch.tensor([[3, 20]])).tolist() == [[2, 19]]


def test_in_a_large_catalogue_random_items_are_weighted_for_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nextclick.trainer.fit.negative_samples, "MAX_DRAWN", 5)
    found = draw_negative_samples(20, CLICKED, np.random.default_rng(0))
    rows = found.rows.tolist()
    assert len(rows) == len(set(rows)) == 4 + 5
    assert rows == sorted(rows)
    assert {3, 7, 9, 12} < set(rows) <= set(range(1, 21))
    assert found.rows[found.columns(CLICKED[CLICKED > 0])].tolist() == [7, 3, 3, 9, 9, 12]
    for row, weight in zip(rows, found.weights.tolist(), strict=True):
        assert weight == (1.0 if row in (3, 7, 9, 12) else pytest.approx(16 / 5))
    assert float(found.weights.sum()) == pytest.approx(20)


def test_every_item_is_drawn_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nextclick.trainer.fit.negative_samples, "MAX_DRAWN", 5)
    rng = np.random.default_rng(0)
    drawn = np.zeros(21)
    for _ in range(2000):
        drawn[draw_negative_samples(20, CLICKED, rng).rows.numpy()] += 1
    assert (drawn[[3, 7, 9, 12]] == 2000).all()
    others = np.delete(drawn, [0, 3, 7, 9, 12])
    assert np.abs(others / 2000 - 5 / 16).max() < 0.05


def test_nothing_is_drawn_if_the_step_holds_the_whole_catalogue() -> None:
    found = draw_negative_samples(3, torch.tensor([[1, 2, 3]]), np.random.default_rng(0))
    assert found.rows.tolist() == [1, 2, 3]
    assert found.weights.tolist() == [1.0, 1.0, 1.0]


def test_an_item_is_drawn_in_the_share_of_the_steps_in_which_it_was_there() -> None:
    available = np.ones(20)
    available[[2, 13, 14, 19]] = 0.0, 0.1, 0.0, 0.5
    rng, drawn = np.random.default_rng(0), np.zeros(21)
    for _ in range(2000):
        found = draw_negative_samples(20, CLICKED, rng, available)
        drawn[found.rows.numpy()] += 1
        assert found.weights.sum() == len(found.rows)
    assert drawn[15] == 0
    assert (drawn[[1, 3, 7, 9, 12, 18]] == 2000).all(), "3 was clicked in the step"
    assert drawn[[14, 20]] / 2000 == pytest.approx([0.1, 0.5], abs=0.03)
