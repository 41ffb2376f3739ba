from __future__ import annotations

import numpy as np
import pytest
import torch

from nextclick.bench.models import random_checkpoint
from nextclick.shared.model import BST, Scorer
from nextclick.shared.model.shortlist import MAX_ITEMS, Shortlist
from nextclick.shared.windows import HISTORY_LENGTH
from tests.unit.builders import CPU

ITEMS = 40_000
"""Three chunks, the last one not full."""


@pytest.fixture(scope="module")
def model() -> BST:
    model = random_checkpoint(ITEMS).model.eval()
    assert isinstance(model, BST)
    model.neighbours.shares[1::5] = 0.0  # items without neighbours
    return model


@pytest.fixture(scope="module")
def windows() -> torch.Tensor:
    rng = np.random.default_rng(0)
    rows = rng.integers(1, ITEMS + 1, (48, HISTORY_LENGTH))
    for number, row in enumerate(rows):
        row[: number % HISTORY_LENGTH] = 0
    rows[0] = 6  # the same item all the time, and one that has no neighbours
    rows[1] = [1, ITEMS, 1, ITEMS, 1, ITEMS, 1, ITEMS, 1, ITEMS]
    return torch.from_numpy(rows)


@pytest.mark.parametrize("halves", [True, False])
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_it_finds_what_exact_scoring_finds(
    model: BST, windows: torch.Tensor, halves: bool, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": halves})
    model.neighbours.weight.fill_(weight)
    with torch.inference_mode():
        catalogue = model.catalogue()
        exact = model(windows, catalogue)
        values, columns = Shortlist(model, model.encode, catalogue).top(windows, 20)
    best = exact.topk(20, dim=1)
    found = [
        len(set(ours) & set(theirs)) / 20
        for ours, theirs in zip(columns.tolist(), best.indices.tolist(), strict=True)
    ]
    assert np.mean(found) >= 0.98
    assert torch.allclose(values, exact.gather(1, columns), atol=2e-3)
    assert (values.diff(dim=1) <= 0).all()
    assert all(len(set(row)) == 20 for row in columns.tolist())


def test_a_large_catalogue_is_shortlisted_and_a_small_one_is_not() -> None:
    checkpoint = random_checkpoint(2_000)
    exact = Scorer(checkpoint, CPU, top_k=10)
    shortlisted = Scorer(checkpoint, CPU, top_k=10, shortlist_from=2_000)
    assert exact.shortlist is None
    assert shortlisted.shortlist is not None
    assert Scorer(checkpoint, CPU, top_k=MAX_ITEMS + 1, shortlist_from=1).shortlist is None
    assert shortlisted.bytes > exact.bytes
    ids = checkpoint.vocabulary.item_ids
    histories = [[ids[i], ids[2 * i], ids[7]] for i in range(100)]
    for ours, theirs in zip(
        shortlisted.recommend(histories), exact.recommend(histories), strict=True
    ):
        assert [i.score for i in ours.items] == pytest.approx(
            [i.score for i in theirs.items], rel=2e-3
        )


@pytest.mark.parametrize("halves", [True, False])
def test_a_window_alone_gets_what_it_gets_in_a_batch(
    model: BST, windows: torch.Tensor, halves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": halves})
    with torch.inference_mode():
        shortlist = Shortlist(model, model.encode, model.catalogue())
        together, _ = shortlist.top(windows, 20)
        alone = torch.cat([shortlist.top(window.unsqueeze(0), 20)[0] for window in windows])
    assert torch.allclose(alone, together, rtol=0, atol=1e-5)
