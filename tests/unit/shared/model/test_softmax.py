"""log P from logits."""

from __future__ import annotations

import pytest
import torch

from nextclick.shared.model.softmax import log_softmax


@pytest.mark.parametrize("items", [1, 10, 10_000, 1_000_000])
@pytest.mark.parametrize("best", [0.0, 14.0, 80.0])
def test_it_is_exact_whatever_the_number_of_items(items: int, best: float) -> None:
    logits = torch.randn(2, items, generator=torch.Generator().manual_seed(0)) * 2
    logits[:, items // 2] = best
    exact = torch.log_softmax(logits.double(), dim=1)
    error = (log_softmax(logits).double() - exact).abs() / (1 + exact.abs())
    assert error.max() < 1e-6
