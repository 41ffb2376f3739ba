from __future__ import annotations

import numpy as np
import pytest
import torch

from shared.bst import BST
from shared.bst_network import BSTConfig
from shared.windows import HISTORY_LENGTH
from tests.unit.builders import CPU, bst
from trainer.cooccurrence import near, set_neighbours
from trainer.dataset import Samples
from trainer.evaluate import ranks_of
from trainer.mixing import (
    MOST_WEIGHT,
    WEIGHT_WITHOUT_VALIDATION,
    choose_about_share,
    mix,
    weigh_neighbours,
)
from trainer.sessions import Sessions

ITEMS = 6


def sessions_of(lists: list[list[int]]) -> Sessions:
    lengths = [len(clicks) for clicks in lists]
    return Sessions(np.concatenate(lists), np.concatenate([[0], np.cumsum(lengths)]))


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
    set_neighbours(model.neighbours, near(sessions_of(pairs[:200]), ITEMS))
    histories = np.zeros((200, HISTORY_LENGTH), np.int64)
    histories[:, -1] = [a for a, _ in pairs[200:]]
    cases = Samples(histories, np.array([b for _, b in pairs[200:]]))
    weigh_neighbours(model, cases, CPU)
    best = float(model.neighbours.weight)
    assert 0.05 < best < 0.95
    reached = likelihood(model, cases)
    for other in np.linspace(0.01, 0.99, 50):
        model.neighbours.weight.fill_(other)
        assert likelihood(model, cases) <= reached + 1e-6


def test_neighbours_that_are_always_right_leave_the_rest_possible() -> None:
    model = bst(ITEMS).eval()
    ring = [[item, item % ITEMS + 1] for item in range(1, ITEMS + 1)] * 20
    set_neighbours(model.neighbours, near(sessions_of(ring), ITEMS))
    histories = np.zeros((ITEMS, HISTORY_LENGTH), np.int64)
    histories[:, -1] = range(1, ITEMS + 1)
    model.neighbours.shares[1:, 1:] = 0.0
    model.neighbours.shares[1:, 0] = 1.0
    targets = model.neighbours.rows[1:, 0].numpy().astype(np.int64)
    weigh_neighbours(model, Samples(histories, targets), CPU)
    assert float(model.neighbours.weight) == pytest.approx(MOST_WEIGHT)
    with torch.no_grad():
        assert torch.isfinite(model(torch.from_numpy(histories))).all()


def gain(model: BST, cases: Samples) -> float:
    with torch.no_grad():
        scores = model.logits(torch.from_numpy(cases.histories), model.catalogue())
    return float((1 / np.log2(1.0 + ranks_of(scores.numpy(), cases.targets))).mean())


@pytest.mark.parametrize("seed", range(3))
def test_the_about_share_is_the_one_that_ranks_validation_best(seed: int) -> None:
    torch.manual_seed(seed)
    model = bst().eval()
    rng = np.random.default_rng(seed)
    cases = Samples(rng.integers(1, 31, (600, HISTORY_LENGTH)), rng.integers(1, 31, 600))
    choose_about_share(model, cases, CPU)
    reached = gain(model, cases)
    for share in np.linspace(0, 1, 11):
        model.about_share.fill_(share)
        assert gain(model, cases) <= reached + 1e-6


def test_a_reading_that_knows_is_heard() -> None:
    """Sessions about one item: the next click is the item again; ahead is noise here."""
    torch.manual_seed(0)
    model = bst().eval()
    for network in model.networks:
        torch.nn.init.normal_(network.norm.weight)
        for aim in (network.ahead, network.about):
            torch.nn.init.zeros_(aim.repeat.weight)
    histories = np.repeat(np.arange(1, 31)[:, None], HISTORY_LENGTH, axis=1)
    choose_about_share(model, Samples(histories, np.arange(1, 31)), CPU)
    assert float(model.about_share) > 0
    assert gain(model, Samples(histories, np.arange(1, 31))) > 0.99


def test_without_validation_both_readings_count_and_neighbours_have_a_small_say() -> None:
    model = bst()
    mix(model, Samples(np.zeros((0, 10), np.int64), np.zeros(0, np.int64)), CPU)
    assert float(model.about_share) == 0.5
    assert float(model.neighbours.weight) == pytest.approx(WEIGHT_WITHOUT_VALIDATION)
