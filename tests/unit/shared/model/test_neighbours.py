from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from nextclick.shared.model import BST, BSTConfig, ItemNeighbours
from nextclick.shared.model.neighbours import AGE_DECAY
from nextclick.shared.windows import HISTORY_LENGTH
from nextclick.trainer.data import Sessions
from nextclick.trainer.fit.cooccurrence import (
    count_pairs,
    initialise_item_vectors,
    item_vectors,
    set_neighbours,
)
from tests.unit.builders import votes

ITEMS = 6
session_lists = st.lists(st.lists(st.integers(1, ITEMS), min_size=1, max_size=14), max_size=8)


def sessions_of(lists: list[list[int]]) -> Sessions:
    rows = np.array([row for clicks in lists for row in clicks], np.int64)
    lengths = np.array([len(clicks) for clicks in lists], np.int64)
    return Sessions(rows, np.concatenate([[0], np.cumsum(lengths)]))


def naive_table(lists: list[list[int]]) -> dict[int, dict[int, float]]:
    """How near two items are, times how rare the second is."""
    table: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    counts = Counter(dict.fromkeys(range(1, ITEMS + 1), 1))
    counts |= Counter(row for clicks in lists for row in clicks)
    for clicks in lists:
        for i, one in enumerate(clicks):
            for j, other in enumerate(clicks):
                if abs(i - j) <= HISTORY_LENGTH:
                    rarity = math.log(1 + counts.total() / counts[other])
                    table[one][other] += math.exp(-abs(i - j) / 4) * rarity
    for row in range(1, ITEMS + 1):
        if row not in table:
            table[row][row] = 1.0  # alone, whatever the number
    return table


def counted(lists: list[list[int]], per_item: int) -> ItemNeighbours:
    neighbours = ItemNeighbours(ITEMS, per_item)
    sessions = sessions_of(lists)
    clicks = np.bincount(sessions.rows - 1, minlength=ITEMS)
    set_neighbours(neighbours, count_pairs(sessions, ITEMS), clicks)
    return neighbours


@given(lists=session_lists, per_item=st.integers(1, ITEMS))
def test_neighbours_are_those_of_a_naive_count(lists: list[list[int]], per_item: int) -> None:
    neighbours = counted(lists, per_item)
    table = naive_table(lists)
    for row in range(1, ITEMS + 1):
        best = sorted(table[row].values(), reverse=True)[:per_item]
        known = neighbours.rows[row] != 0
        got = neighbours.shares[row][known].tolist()
        assert got == pytest.approx(
            [weight / sum(table[row].values()) for weight in best], abs=1e-6
        )
        assert (neighbours.shares[row][~known] == 0).all()
        for other, share in zip(neighbours.rows[row][known].tolist(), got, strict=True):
            assert share == pytest.approx(table[row][other] / sum(table[row].values()), abs=1e-6)
    assert not neighbours.rows[0].any()
    assert not neighbours.shares[0].any()


def test_an_item_that_is_clicked_alone_is_a_stronger_neighbour_of_itself() -> None:
    neighbours = counted([[1, 2], [1, 3], [4], [4, 5]], ITEMS)
    itself = {row: neighbours.shares[row][neighbours.rows[row] == row].item() for row in (1, 2, 4)}
    assert 0 < itself[1] < itself[4] < 1
    assert counted([[6]], ITEMS).shares[6, 0] == 1.0


def test_newer_clicks_vote_more_and_votes_are_shares() -> None:
    neighbours = counted([[1, 2], [3, 4], [3, 4], [3, 5]], 3)
    windows = torch.tensor([[0] * 8 + [1, 3], [0] * 8 + [3, 1], [0] * 9 + [6], [0] * 10])
    found = votes(neighbours, windows)
    of_one, of_three = (votes(neighbours, torch.tensor([[0] * 9 + [row]]))[0] for row in (1, 3))
    newer, older = 1 / (1 + AGE_DECAY), AGE_DECAY / (1 + AGE_DECAY)
    assert torch.allclose(found[0], older * of_one + newer * of_three)
    assert torch.allclose(found[1], newer * of_one + older * of_three)
    assert found[2].tolist() == [0, 0, 0, 0, 0, 1]  # never clicked: it knows itself alone
    assert not found[3].any()
    assert torch.allclose(found[:3].sum(dim=1), torch.ones(3))
    assert torch.isfinite(neighbours.mix(torch.zeros(4, ITEMS), windows)).all()


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.99])
def test_the_mixture_is_one_of_probabilities(weight: float) -> None:
    neighbours = counted([[1, 2], [3, 4], [3, 4], [3, 5]], 3)
    neighbours.weight.fill_(weight)
    torch.manual_seed(0)
    windows = torch.tensor([[0] * 8 + [1, 3], [0] * 8 + [3, 3]])
    logits = torch.randn(2, ITEMS)
    expected = (1 - weight) * torch.softmax(logits, dim=1) + weight * votes(neighbours, windows)
    assert torch.allclose(neighbours.mix(logits, windows).exp(), expected, atol=1e-6)


def groups(seed: int) -> Sessions:
    """Sessions that stay within items 1 to 5 or 6 to 10; item 11 is clicked alone."""
    rng = np.random.default_rng(seed)
    lists = [rng.integers(1, 6, 6) + 5 * rng.integers(0, 2) for _ in range(200)]
    return sessions_of([*(clicks.tolist() for clicks in lists), [11]])


def test_items_that_are_clicked_together_get_like_vectors() -> None:
    torch.manual_seed(0)
    vectors = item_vectors(count_pairs(groups(0), 11), dimensions=4)
    assert vectors.shape == (11, 4)
    assert torch.allclose(vectors[:10].norm(dim=1), torch.ones(10), atol=1e-5)
    assert not vectors[10].any()
    like = vectors @ vectors.T
    assert like[:5, :5].min() > like[:5, 5:10].max() + 0.5
    assert like[5:10, 5:10].min() > like[:5, 5:10].max() + 0.5


def test_more_dimensions_than_items_and_no_clicks_at_all_are_fine() -> None:
    assert item_vectors(count_pairs(groups(0), 11), dimensions=20).shape == (11, 20)
    assert not item_vectors(count_pairs(sessions_of([]), 11), dimensions=4).any()


def test_a_cold_model_starts_with_the_item_vectors_of_the_counts() -> None:
    torch.manual_seed(0)
    model = BST(BSTConfig(items=11, embed_dim=8, heads=2))
    initialise_item_vectors(model, count_pairs(groups(0), 11), known=0)
    weight = model.network.item_embedding.weight
    catalogue = weight.detach()[1:]
    assert torch.allclose(catalogue.norm(dim=1), torch.ones(11), atol=1e-6)
    like = catalogue @ catalogue.T
    assert like[:5, :5].min() > like[:5, 5:10].max() + 0.3
    assert not weight[0].any()
    assert weight.requires_grad


def test_a_new_item_starts_at_the_mean_of_its_neighbours_and_old_ones_stay() -> None:
    torch.manual_seed(0)
    model = BST(BSTConfig(items=11, embed_dim=8, heads=2))
    initialise_item_vectors(model, count_pairs(groups(0), 11), known=0)
    weight = model.network.item_embedding.weight.detach()
    before = weight[:10].clone()
    weight[10:].normal_()
    initialise_item_vectors(model, count_pairs(groups(1), 11), known=9)  # items 10 and 11 are new
    assert torch.equal(weight[:10], before)
    catalogue = functional.normalize(weight[1:], dim=1)
    like = catalogue[:9] @ catalogue[9]
    assert like[5:].min() > like[:5].max() + 0.3
    assert torch.isfinite(weight).all()
