from __future__ import annotations

import numpy as np
import pytest
import torch

from nextclick.shared.model import BST
from nextclick.shared.windows import HISTORY_LENGTH
from nextclick.trainer.data import Samples
from nextclick.trainer.evaluate import ranks_of
from nextclick.trainer.fit.mixing import (
    SHARE_WITHOUT_VALIDATION,
    SHARES,
    WEIGHT_WITHOUT_VALIDATION,
    WEIGHTS,
    choose_about_share,
    choose_neighbours_share,
    mix,
)
from tests.unit.builders import CPU, bst


def gain(scores: torch.Tensor, cases: Samples) -> float:
    return float((1 / np.log2(1.0 + ranks_of(scores.numpy(), cases.targets))).mean())


def of_network(model: BST, cases: Samples) -> float:
    with torch.no_grad():
        return gain(model.logits(torch.from_numpy(cases.histories), model.catalogue()), cases)


def of_all(model: BST, cases: Samples) -> float:
    with torch.no_grad():
        return gain(model(torch.from_numpy(cases.histories)), cases)


def random_cases(seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    return Samples(rng.integers(1, 31, (600, HISTORY_LENGTH)), rng.integers(1, 31, 600))


@pytest.mark.parametrize("seed", range(3))
def test_the_weight_is_the_one_that_ranks_validation_best(seed: int) -> None:
    torch.manual_seed(seed)
    model = bst().eval()
    cases = random_cases(seed)
    choose_neighbours_share(model, cases, CPU)
    reached = of_all(model, cases)
    for weight in WEIGHTS:
        model.neighbours.weight.fill_(weight)
        assert of_all(model, cases) <= reached + 1e-9


def test_neighbours_that_are_always_right_leave_the_rest_possible() -> None:
    torch.manual_seed(0)
    model = bst().eval()
    model.neighbours.shares.zero_()
    model.neighbours.shares[1:, 0] = 1.0
    histories = np.repeat(np.arange(1, 31)[:, None], HISTORY_LENGTH, axis=1)
    targets = model.neighbours.rows[1:, 0].numpy().astype(np.int64)
    cases = Samples(histories, targets)
    choose_neighbours_share(model, cases, CPU)
    assert of_all(model, cases) == pytest.approx(1.0)
    assert 0.2 < float(model.neighbours.weight) < 1.0
    model.neighbours.weight.fill_(WEIGHTS[-1])
    assert 0.9 < WEIGHTS[-1] < 1.0
    with torch.no_grad():
        assert torch.isfinite(model(torch.from_numpy(histories))).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_about_share_is_the_one_that_ranks_validation_best(seed: int) -> None:
    torch.manual_seed(seed)
    model = bst().eval()
    cases = random_cases(seed)
    choose_about_share(model, cases, CPU)
    reached = of_network(model, cases)
    for share in SHARES:
        model.about_share.fill_(share)
        assert of_network(model, cases) <= reached + 1e-6


def test_the_better_reading_gets_the_larger_share() -> None:
    """Sessions about one item: the next click is the item again; ahead is noise here."""
    torch.manual_seed(0)
    model = bst().eval()
    torch.nn.init.normal_(model.network.norm.weight)
    for aim in (model.network.ahead, model.network.about):
        torch.nn.init.zeros_(aim.repeat.weight)
    histories = np.repeat(np.arange(1, 31)[:, None], HISTORY_LENGTH, axis=1)
    choose_about_share(model, Samples(histories, np.arange(1, 31)), CPU)
    assert float(model.about_share) > 0
    assert of_network(model, Samples(histories, np.arange(1, 31))) > 0.99


def test_without_validation_the_mixing_weights_are_the_defaults() -> None:
    model = bst()
    mix(model, Samples(np.zeros((0, 10), np.int64), np.zeros(0, np.int64)), CPU)
    assert float(model.about_share) == SHARE_WITHOUT_VALIDATION
    assert float(model.neighbours.weight) == pytest.approx(WEIGHT_WITHOUT_VALIDATION)
