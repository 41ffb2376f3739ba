from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.bst import BST, BSTConfig
from shared.neighbours import AGE_DECAY, ItemNeighbours
from shared.windows import HISTORY_LENGTH
from tests.unit.builders import CPU, bst
from trainer import cooccurrence
from trainer.dataset import Samples
from trainer.sessions import Sessions

ITEMS = 6
session_lists = st.lists(st.lists(st.integers(1, ITEMS), min_size=1, max_size=14), max_size=8)


def sessions_of(lists: list[list[int]]) -> Sessions:
    rows = np.array([row for clicks in lists for row in clicks], np.int64)
    lengths = np.array([len(clicks) for clicks in lists], np.int64)
    return Sessions(rows, np.concatenate([[0], np.cumsum(lengths)]))


def naive_table(lists: list[list[int]]) -> dict[int, dict[int, float]]:
    table: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for clicks in lists:
        for i, one in enumerate(clicks):
            for j, other in enumerate(clicks):
                if i != j and abs(i - j) <= HISTORY_LENGTH:
                    table[one][other] += 1 / abs(i - j)
    return table


@given(lists=session_lists, per_item=st.integers(1, ITEMS))
def test_neighbours_are_those_of_a_naive_count(lists: list[list[int]], per_item: int) -> None:
    neighbours = ItemNeighbours(ITEMS, per_item)
    cooccurrence.count(sessions_of(lists), neighbours)
    table = naive_table(lists)
    for row in range(1, ITEMS + 1):
        best = sorted(table[row].values(), reverse=True)[:per_item]
        known = neighbours.rows[row] != 0
        got = neighbours.shares[row][known].tolist()
        assert got == pytest.approx([weight / sum(best) for weight in best], abs=1e-6)
        assert (neighbours.shares[row][~known] == 0).all()
        for other, share in zip(neighbours.rows[row][known].tolist(), got, strict=True):
            assert share == pytest.approx(table[row][other] / sum(best), abs=1e-6)
    assert not neighbours.rows[0].any()
    assert not neighbours.shares[0].any()


def test_newer_clicks_vote_more_and_votes_are_shares() -> None:
    neighbours = ItemNeighbours(ITEMS, 2)
    cooccurrence.count(sessions_of([[1, 2], [3, 4], [3, 4], [3, 5]]), neighbours)
    windows = torch.tensor([[0] * 8 + [1, 3], [0] * 8 + [3, 1], [0] * 8 + [1, 6], [0] * 9 + [6]])
    votes = neighbours.votes(windows)
    newer, older = 1 / (1 + AGE_DECAY), AGE_DECAY / (1 + AGE_DECAY)
    expected = [0, older, 0, newer * 2 / 3, newer / 3, 0]
    assert votes[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert votes[1, 1].item() == pytest.approx(newer)
    assert votes[2].tolist() == pytest.approx([0, 1, 0, 0, 0, 0])  # item 6 was never clicked
    assert not votes[3].any()
    assert torch.isfinite(neighbours.blend(torch.zeros(4, ITEMS), windows)).all()


def test_without_a_vote_the_network_decides_alone() -> None:
    model = bst().eval()
    model.neighbours.rows.zero_()
    model.neighbours.shares.zero_()
    window = torch.tensor([[0] * 8 + [1, 3]])
    with torch.no_grad():
        network = model.network_logits(window, model.catalogue())
        assert torch.allclose(
            torch.log_softmax(model(window), 1), torch.log_softmax(network, 1), atol=1e-5
        )


def likelihood(model: BST, cases: Samples) -> float:
    with torch.no_grad():
        scores = torch.log_softmax(model(torch.from_numpy(cases.histories)), dim=1)
    return float(scores.gather(1, torch.from_numpy(cases.targets)[:, None] - 1).mean())


def test_the_weight_is_the_one_under_which_validation_is_likeliest() -> None:
    torch.manual_seed(0)
    model = BST(BSTConfig(items=ITEMS, embed_dim=8, heads=2, neighbours=2)).eval()
    rng = np.random.default_rng(0)
    first, other = rng.integers(1, ITEMS + 1, (2, 400))
    second = np.where(rng.random(400) < 0.6, first % ITEMS + 1, other)
    pairs = np.stack([first, second], axis=1).tolist()
    cooccurrence.count(sessions_of(pairs[:200]), model.neighbours)
    histories = np.zeros((200, HISTORY_LENGTH), np.int64)
    histories[:, -1] = [a for a, _ in pairs[200:]]
    cases = Samples(histories, np.array([b for _, b in pairs[200:]]))
    cooccurrence.weigh(model, cases, CPU)
    best = float(model.neighbours.weight)
    assert 0.05 < best < 0.95
    reached = likelihood(model, cases)
    for other in np.linspace(0.01, 0.99, 50):
        model.neighbours.weight.fill_(other)
        assert likelihood(model, cases) <= reached + 1e-6


def test_without_validation_the_neighbours_have_a_small_say() -> None:
    model = bst()
    cooccurrence.weigh(model, Samples(np.zeros((0, 10), np.int64), np.zeros(0, np.int64)), CPU)
    assert float(model.neighbours.weight) == pytest.approx(cooccurrence.WEIGHT_WITHOUT_VALIDATION)


def groups(seed: int) -> Sessions:
    """Sessions that stay within items 1 to 5 or 6 to 10; item 11 is clicked alone."""
    rng = np.random.default_rng(seed)
    lists = [rng.integers(1, 6, 6) + 5 * rng.integers(0, 2) for _ in range(200)]
    return sessions_of([*(clicks.tolist() for clicks in lists), [11]])


def test_items_that_are_clicked_together_get_like_vectors() -> None:
    torch.manual_seed(0)
    vectors = cooccurrence.item_vectors(groups(0), items=11, dimensions=4)
    assert vectors.shape == (11, 4)
    assert torch.allclose(vectors[:10].norm(dim=1), torch.ones(10), atol=1e-5)
    assert not vectors[10].any()
    like = vectors @ vectors.T
    assert like[:5, :5].min() > like[:5, 5:10].max() + 0.5
    assert like[5:10, 5:10].min() > like[:5, 5:10].max() + 0.5


def test_more_dimensions_than_items_and_no_clicks_at_all_are_fine() -> None:
    assert cooccurrence.item_vectors(groups(0), items=11, dimensions=20).shape == (11, 20)
    assert not cooccurrence.item_vectors(sessions_of([]), items=11, dimensions=4).any()


def test_a_cold_model_starts_where_counting_puts_its_items() -> None:
    torch.manual_seed(0)
    model = BST(BSTConfig(items=11, embed_dim=8, heads=2))
    cooccurrence.place_items(model, groups(0), known=0)
    with torch.no_grad():
        catalogue = model.catalogue()
        like = catalogue @ catalogue.T
    assert torch.allclose(model.item_embedding.weight[1:], catalogue, atol=1e-6)
    assert like[:5, :5].min() > like[:5, 5:10].max() + 0.3
    assert not model.item_embedding.weight[0].any()
    assert model.item_embedding.weight.requires_grad


def test_a_new_item_starts_amid_its_neighbours_and_old_ones_stay() -> None:
    torch.manual_seed(0)
    model = BST(BSTConfig(items=11, embed_dim=8, heads=2))
    cooccurrence.place_items(model, groups(0), known=0)
    before = model.item_embedding.weight[:10].clone()
    with torch.no_grad():
        model.item_embedding.weight[10:].normal_()
    cooccurrence.place_items(model, groups(1), known=9)  # items 10 and 11 are new
    assert torch.equal(model.item_embedding.weight[:10], before)
    with torch.no_grad():
        like = model.catalogue()[:9] @ model.catalogue()[9]
    assert like[5:].min() > like[:5].max() + 0.3
    assert torch.isfinite(model.item_embedding.weight).all()
