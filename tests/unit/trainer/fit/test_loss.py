from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import nextclick.trainer.fit.loss
from nextclick.shared.model.bst_network import Sessions
from nextclick.trainer.fit.loss import CatalogueCrossEntropy


def inputs(count: int, items: int) -> tuple[Sessions, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    columns = torch.randint(0, items, (count, 10), generator=generator)
    columns[:, 3] = columns[:, 4]  # the same item twice in a history
    targets = torch.randint(0, items, (count,), generator=generator)
    columns[::3, 0] = targets[::3]  # the target is a repeat
    return Sessions(normal(count, 8), columns, normal(count, 10)), normal(items, 8), targets


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 30])
def test_loss_and_gradients_are_those_of_the_textbook(
    count: int, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nextclick.trainer.fit.loss, "_ROWS", 8)
    sessions, catalogue, targets = inputs(count, items=13)
    leaves = (sessions.queries, sessions.bonus, catalogue)
    ours = CatalogueCrossEntropy(smoothing)(sessions, catalogue, targets)
    logits = (sessions.queries @ catalogue.T).scatter_add(1, sessions.bonus_columns, sessions.bonus)
    textbook = functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    assert ours.item() == pytest.approx(textbook.item(), rel=1e-5)
    for got, expected in zip(
        torch.autograd.grad(3 * ours, leaves),
        torch.autograd.grad(3 * textbook, leaves),
        strict=True,
    ):
        assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_target_of_weight_two_counts_as_two_and_one_of_zero_as_none(
    smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nextclick.trainer.fit.loss, "_ROWS", 8)
    sessions, catalogue, targets = inputs(20, items=13)
    leaves = (sessions.queries, sessions.bonus, catalogue)
    importance = torch.arange(20.0) % 3
    twice = torch.repeat_interleave(torch.arange(20), importance.long())
    repeated = Sessions(*(part[twice] for part in sessions))
    loss = CatalogueCrossEntropy(smoothing)
    weighed = loss(sessions, catalogue, targets, importance=importance)
    expected = loss(repeated, catalogue, targets[twice])
    assert weighed.item() == pytest.approx(expected.item(), rel=1e-5)
    for got, wanted in zip(
        torch.autograd.grad(weighed, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        assert torch.allclose(got, wanted, atol=1e-5)
    nothing = loss(sessions, catalogue, targets, importance=torch.zeros(20))
    assert nothing.item() == 0
    assert all(not gradient.any() for gradient in torch.autograd.grad(nothing, leaves))


def test_one_loss_serves_catalogues_of_any_size_in_turn() -> None:
    loss = CatalogueCrossEntropy()
    for items in (5, 40, 5):
        sessions, catalogue, targets = inputs(12, items)
        logits = (sessions.queries @ catalogue.T).scatter_add(
            1, sessions.bonus_columns, sessions.bonus
        )
        expected = functional.cross_entropy(logits, targets).item()
        assert loss(sessions, catalogue, targets).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_item_that_stands_for_several_counts_as_so_many(smoothing: float) -> None:
    sessions, catalogue, targets = inputs(20, items=13)
    weights = torch.ones(16)
    weights[13:] = torch.tensor([1.0, 2.0, 4.0])  # neither targets nor clicked
    extra = torch.randn(3, 8)
    some = torch.cat([catalogue, extra])
    every = torch.cat([catalogue, extra.repeat_interleave(torch.tensor([1, 2, 4]), dim=0)])
    leaves = (sessions.queries, sessions.bonus, catalogue)
    sampled = CatalogueCrossEntropy(smoothing)(sessions, some, targets, weights)
    full = CatalogueCrossEntropy(smoothing)(sessions, every, targets)
    assert sampled.item() == pytest.approx(full.item(), rel=1e-5)
    for got, expected in zip(
        torch.autograd.grad(sampled, leaves), torch.autograd.grad(full, leaves), strict=True
    ):
        assert torch.allclose(got, expected, atol=1e-5)
