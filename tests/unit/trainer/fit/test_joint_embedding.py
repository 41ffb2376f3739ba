from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from nextclick.shared.item_features import ItemContent
from nextclick.shared.model import BST, BSTConfig
from nextclick.shared.model.content import PRICE_BOUNDS, ItemFeatures
from nextclick.trainer.data import Sessions
from nextclick.trainer.fit.joint_embedding import (
    FloatArray,
    JointEmbedding,
    Mask,
    click_evidence,
    fold,
    join,
    price_bounds,
    since_first_click,
)

ITEMS = 12
EVIDENCE = np.array([30.0] * 9 + [0.0, 0.0, 30.0])
COLD = np.arange(ITEMS) // 9 == 1
COLD[11] = False


def made() -> tuple[BST, ItemFeatures]:
    """Items 1 to 9 and 10, 11 are of three categories; of item 12 nothing is known."""
    torch.manual_seed(1)
    model = BST(BSTConfig(items=ITEMS, embed_dim=8, heads=2, layers=1, content_buckets=4096))
    assert model.content is not None
    known = [ItemContent(categories=(f"category {i % 3}",)) for i in range(11)]
    return model, model.content.features([None, *known, None])


def joined(
    evidence: FloatArray = EVIDENCE, cold: Mask = COLD, trained: int = ITEMS
) -> tuple[BST, JointEmbedding, torch.Tensor]:
    model, features = made()
    before = model.network.item_embedding.weight.detach().clone()
    join(model, features, evidence, cold, trained, fresh=True)
    joint = model.network.item_embedding
    assert isinstance(joint, JointEmbedding)
    return model, joint, before


def test_vectors_stay_and_cold_items_get_that_of_their_content() -> None:
    _, joint, before = joined()
    warm = torch.from_numpy(np.r_[True, ~COLD])
    assert torch.allclose(joint.weight[warm], before[warm], atol=1e-6)
    content = joint.weight[1:][torch.from_numpy(COLD)]
    for row, vector in zip((10, 11), content, strict=True):
        alike = before[1:10][(row - 1) % 3 :: 3]
        cosine = torch.cosine_similarity(vector, alike.mean(dim=0), dim=0)
        assert cosine > 0.999, "the mean of its category explains most"
        assert (joint.own.weight[row] == 0).all()


def test_rows_are_those_of_the_whole() -> None:
    _, joint, _ = joined()
    joint.eval()
    rows = torch.tensor([[0, 12, 3], [10, 3, 0]])
    assert torch.allclose(joint(rows), joint.weight[rows], atol=1e-6)
    assert (joint(rows)[0, 0] == 0).all(), "padding has neither part"


def test_the_own_part_is_left_out_in_training_where_something_is_known() -> None:
    _, joint, before = joined()
    joint.train()
    rows = torch.tensor([3, 12]).repeat_interleave(1000)
    with torch.no_grad():
        vectors = joint(rows)
    as_ever = torch.isclose(vectors, before[rows], atol=1e-6).all(dim=1)
    assert as_ever[1000:].all(), "item 12 has nothing else"
    left_out = vectors[:1000][~as_ever[:1000]]
    assert 140 < len(left_out) < 260
    content = joint.weight[3] - joint.trust[3] * joint.own.weight[3]
    assert torch.allclose(left_out, content.expand_as(left_out), atol=1e-6)


def test_both_parts_learn_and_become_one_row() -> None:
    model, joint, _ = joined()
    joint.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    content_before = joint.weight.detach().clone()
    joint(torch.tensor([1, 1, 1, 1])).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    moved = (joint.weight - content_before).norm(dim=1) > 1e-3
    assert moved.nonzero().flatten().tolist() == [1, 4, 7, 10], "its category moves along"
    whole = joint.weight.detach().clone()
    fold(model)
    assert isinstance(model.network.item_embedding, nn.Embedding)
    assert torch.equal(model.network.item_embedding.weight, whole)
    assert set(model.state_dict()) == set(made()[0].state_dict())
    fold(model)
    assert torch.equal(model.network.item_embedding.weight, whole), "once"


def test_bounds_part_prices_into_equally_large_buckets() -> None:
    bounds = price_bounds([float(price) for price in range(1600)])
    filled = np.histogram(range(1600), [-np.inf, *bounds.tolist(), np.inf])[0]
    assert filled.tolist() == pytest.approx([100] * (PRICE_BOUNDS + 1), abs=1)
    assert price_bounds([]).tolist() == [0.0] * PRICE_BOUNDS


def test_an_item_leans_on_its_content_the_less_the_more_is_known_by_clicks() -> None:
    evidence = EVIDENCE.copy()
    evidence[:2] = 1.0, 1e6
    _, joint, before = joined(evidence, trained=0)
    assert joint.trust[:, 0].tolist() == pytest.approx(
        [0, 1 / 11, 1, *[0.75] * 7, 0.01, 0.01, 1], abs=1e-4
    )
    _, kept, _ = joined(evidence)
    assert torch.allclose(kept.weight[1:10], before[1:10], atol=1e-5), "a champion's vectors stay"
    content = joint.weight - joint.trust * joint.own.weight
    for row, share in ((1, 1 / 11), (2, 1.0), (3, 0.75)):
        between = torch.lerp(content[row], before[row], share)
        assert torch.allclose(joint.weight[row], between, atol=1e-5)


def test_evidence_is_clicks_or_as_many_as_items_have_since_the_first() -> None:
    rows = np.array([1, 1, 2, 1, 1, 1, 1, 1, 3, 1])
    since = since_first_click(Sessions(rows, np.array([0, 10])), 4)
    assert since.tolist() == pytest.approx([1, 0.8, 0.2, 0])
    found = click_evidence(np.array([8, 1, 1, 0]), since)
    assert found.tolist() == pytest.approx([8, 8 / 3, 1, 0])
