from __future__ import annotations

import pytest
import torch
from torch import Tensor

import nextclick.shared.model.source_bst
from nextclick.shared.model import SourceBST, SourceBSTConfig
from nextclick.shared.windows import HISTORY_LENGTH
from nextclick.trainer.fit.presets import SOURCE

CONFIG = SourceBSTConfig(items=30, embed_dim=16, heads=2, layers=2, feedforward=32, tower=24)


@pytest.fixture
def model() -> SourceBST:
    torch.manual_seed(3)
    return SourceBST(CONFIG).eval()


def left_padded(*rows: int) -> Tensor:
    return torch.tensor([[0] * (HISTORY_LENGTH - len(rows)) + list(rows)])


def by_hand(model: SourceBST, rows: list[int], target: int) -> Tensor:
    """One history and one candidate, no padding, no batch, no mask and no halves."""
    places = model.position_embedding[HISTORY_LENGTH - len(rows) :]
    hidden = (model.item_embedding.weight[rows] + places).unsqueeze(0)
    for layer in model.encoder.layers:
        hidden = layer(hidden)
    session = hidden[0].mean(dim=0)
    together = torch.cat([session, model.item_embedding.weight[target]])
    return model.tower_out(torch.relu(model.tower_in(together)))[0]


@pytest.mark.parametrize("config", [CONFIG, SOURCE.config(30, clicks=0)])
def test_a_logit_is_what_a_naive_forward_gives(config: SourceBSTConfig) -> None:
    torch.manual_seed(3)
    model = SourceBST(config).eval()
    histories = [[7], [3, 3], [1, 2, 30, 4, 5], list(range(1, 11))]
    with torch.no_grad():
        windows = torch.cat([left_padded(*rows) for rows in histories])
        got = model.logits(windows, model.catalogue())
        assert got.shape == (4, 30)
        for i, rows in enumerate(histories):
            for target in (1, 2, 17, 30):
                expected = by_hand(model, rows, target).item()
                assert got[i, target - 1].item() == pytest.approx(expected, abs=1e-5)


def test_the_catalogues_target_half_is_that_of_its_rows(model: SourceBST) -> None:
    rows = torch.tensor([[1, 2], [30, 2]])
    half = model.target_half(model.item_embedding(rows))
    assert torch.allclose(half, model.catalogue()[rows - 1], atol=1e-6)


def test_only_known_items_are_candidates(model: SourceBST) -> None:
    """The padding row has no column."""
    with torch.no_grad():
        scores = model.logits(left_padded(5), model.catalogue())
        first = model.candidate_logits(left_padded(5), torch.tensor([[1, 30]]))
    assert scores.shape == (1, 30)
    assert torch.allclose(first, scores[:, [0, 29]], atol=1e-6)


def test_the_position_of_an_item_matters(model: SourceBST) -> None:
    with torch.no_grad():
        assert not torch.allclose(model(left_padded(5, 6)), model(left_padded(6, 5)), atol=1e-4)


def test_a_window_is_scored_alike_beside_longer_and_shorter_ones(model: SourceBST) -> None:
    with torch.no_grad():
        alone = model(left_padded(5, 6))
        beside = model(torch.cat([left_padded(9), left_padded(5, 6), left_padded(*range(1, 11))]))
    assert torch.allclose(beside[1], alone[0], atol=1e-5)


def test_scoring_holds_no_more_than_its_block_at_once(
    model: SourceBST, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nextclick.shared.model.source_bst, "_BLOCK_ELEMENTS", 24 * 4 * 7)
    held = []
    tower = model.tower

    def watched(session_half: Tensor, target_half: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(session_half.shape, target_half.shape)
        held.append(shape.numel())
        return tower(session_half, target_half)

    monkeypatch.setattr(model, "tower", watched)
    with torch.no_grad():
        assert model(left_padded(5).repeat(4, 1)).shape == (4, 30)
    assert held == [24 * 4 * 7] * 4 + [24 * 4 * 2]


def test_training_never_moves_the_padding_row(model: SourceBST) -> None:
    model.train()
    model(torch.cat([left_padded(5), left_padded(6, 7)])).sum().backward()
    gradient = model.item_embedding.weight.grad
    assert gradient is not None
    assert not gradient[0].any()
    assert gradient[1:].any(dim=1).all()  # every item is a candidate
    assert not model.item_embedding.weight[0].any()


@pytest.mark.parametrize(
    "wrong",
    [{"items": 0}, {"embed_dim": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"depth": 3}],
    ids=lambda wrong: "=".join(map(str, *wrong.items())),
)
def test_a_shape_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SourceBSTConfig(**{"items": 30, **wrong})
