from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nextclick.shared.model import BST, BSTConfig
from nextclick.shared.model.bst_network import Network
from nextclick.shared.windows import HISTORY_LENGTH
from tests.unit.builders import bst, votes


@pytest.fixture
def model() -> BST:
    torch.manual_seed(3)
    return bst().eval()


def left_padded(*rows: int) -> Tensor:
    return torch.tensor([[0] * (HISTORY_LENGTH - len(rows)) + list(rows)])


def by_hand(model: BST, rows: list[int]) -> Tensor:
    """One history, click by click: no padding, no batch and no mask. Returns [items]."""
    ahead, about = network_by_hand(model.network, model.config.heads, rows)
    share = model.about_share
    return (1 - share) * ahead + share * about


def network_by_hand(network: Network, heads: int, rows: list[int]) -> tuple[Tensor, Tensor]:
    """Logits of both readings, each [items]."""
    items = [functional.normalize(network.item_embedding.weight[row], dim=0) for row in rows]
    d = len(items[0])
    hidden = [item * d**0.5 for item in items]
    for layer in network.layers:
        before = hidden
        projected = [
            [
                part(layer.attention_norm(h)).view(heads, -1)
                for part in (layer.query, layer.key, layer.value)
            ]
            for h in hidden
        ]
        attended = []
        for t in range(len(rows)):
            mixed = []
            for head in range(heads):
                scores = torch.stack(
                    [
                        projected[t][0][head] @ projected[s][1][head] / math.sqrt(d // heads)
                        + layer.distance_bias[head, t - s]
                        for s in range(t + 1)
                    ]
                )
                values = torch.stack([projected[s][2][head] for s in range(t + 1)])
                mixed.append(torch.softmax(scores, 0) @ values)
            attended.append(hidden[t] + layer.attention_out(torch.cat(mixed)))
        hidden = [
            h
            + layer.feedforward_out(
                functional.gelu(layer.feedforward_in(layer.feedforward_norm(h)))
            )
            for h in attended
        ]
    encoded = [network.norm(h) for h in hidden]
    last = len(rows) - 1
    relevance = torch.stack(
        [
            network.about_query(encoded[-1]) @ network.about_key(network.norm(click)) / math.sqrt(d)
            + network.about_bias[last - place]
            for place, click in enumerate(before)
        ]
    )
    about = torch.softmax(relevance, 0) @ torch.stack(items)
    catalogue = functional.normalize(network.item_embedding.weight[1:], dim=1)
    readings = []
    for aim, towards in ((network.ahead, encoded[-1]), (network.about, about)):
        logits = aim.log_scale.exp() * (catalogue @ functional.normalize(towards, dim=0))
        for age, row in enumerate(reversed(rows)):
            logits[row - 1] += aim.repeat(encoded[-1])[age]
        readings.append(logits)
    return readings[0], readings[1]


@pytest.mark.parametrize("rows", [[7], [3, 3], [1, 2, 30, 4, 5], list(range(1, 11))])
def test_a_logit_is_what_a_naive_forward_gives(model: BST, rows: list[int]) -> None:
    with torch.no_grad():
        got = model.logits(left_padded(*rows), model.catalogue())[0]
        assert torch.allclose(got, by_hand(model, rows), atol=1e-4)


def test_a_prediction_inside_a_session_is_that_of_the_window_up_to_there(model: BST) -> None:
    """What makes training after every click at once the training of what is served."""
    session = torch.tensor([[0, 0, 5, 9, 5, 2, 30, 7, 7, 1]])
    network = model.network
    with torch.no_grad():
        inside = network.read(session, session > 0)
        for number, end in enumerate(range(3, 11)):
            window = left_padded(*session[0, 2:end].tolist())
            for there, served in zip(inside, network.read(window), strict=True):
                assert torch.allclose(there.queries[number], served.queries[0], atol=1e-5)
                assert torch.allclose(there.bonus[number], served.bonus[0], atol=1e-5)
                known = served.bonus[0] != 0
                assert torch.equal(
                    there.bonus_columns[number][known], served.bonus_columns[0][known]
                )


def test_the_bonus_goes_to_the_clicks_newest_first(model: BST) -> None:
    window = left_padded(5, 9, 5)
    for found in model.network.read(window):
        assert found.bonus_columns[0, :3].tolist() == [4, 8, 4]
        assert (found.bonus[0, :3] != 0).all()
        assert (found.bonus[0, 3:] == 0).all()


def test_what_a_session_is_about_lies_among_its_items(model: BST) -> None:
    """After one click there is nothing else that it could be about."""
    _, about = model.network.read(left_padded(5))
    direction = functional.normalize(about.queries[0], dim=0)
    assert torch.allclose(direction, model.network.unit_vectors(torch.tensor(5)), atol=1e-5)


def test_a_window_is_scored_alike_beside_longer_and_shorter_ones(model: BST) -> None:
    with torch.no_grad():
        alone = model(left_padded(5, 6))
        beside = model(torch.cat([left_padded(9), left_padded(5, 6), left_padded(*range(1, 11))]))
    assert torch.allclose(beside[1], alone[0], atol=1e-5)


def test_the_position_of_an_item_matters(model: BST) -> None:
    with torch.no_grad():
        assert not torch.allclose(model(left_padded(5, 6)), model(left_padded(6, 5)), atol=1e-3)


def test_its_logits_are_log_probabilities_of_network_and_neighbours(model: BST) -> None:
    window = left_padded(5, 6)
    with torch.no_grad():
        network = torch.softmax(model.logits(window, model.catalogue()), dim=1)
        expected = 0.8 * network + 0.2 * votes(model.neighbours, window)
        assert torch.allclose(model(window).exp(), expected, atol=1e-6)


def test_a_fresh_model_has_no_repeat_bonus_and_no_neighbours() -> None:
    fresh = BST(BSTConfig(items=9, embed_dim=8, heads=2)).eval()
    with torch.no_grad():
        network = torch.log_softmax(fresh.logits(left_padded(3), fresh.catalogue()), dim=1)
        assert torch.allclose(fresh(left_padded(3)), network, atol=1e-5)
        for found in fresh.network.read(left_padded(3)):
            assert not found.bonus.any()


def test_training_never_moves_the_padding_row(model: BST) -> None:
    model.train()
    rows = torch.cat([left_padded(5), left_padded(6, 7)])
    model.logits(rows, model.catalogue()).sum().backward()
    gradient = model.network.item_embedding.weight.grad
    assert gradient is not None
    assert not gradient[0].any()
    assert gradient[1:].any(dim=1).all()  # every item is a candidate


@pytest.mark.parametrize(
    "wrong",
    [
        {"items": 0},
        {"embed_dim": 0},
        {"dropout": 1.0},
        {"embed_dropout": -0.1},
        {"depth": 3},
        {"heads": 5},
    ],
    ids=lambda wrong: "=".join(map(str, *wrong.items())),
)
def test_a_shape_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BSTConfig(**{"items": 30, **wrong})
