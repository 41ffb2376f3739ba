from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextclick.shared.model.top_k import top_k


@settings(max_examples=60)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 6_000),
    k=st.integers(1, 200),
    levels=st.sampled_from([2, 50, 1_000_000]),
    seed=st.integers(0, 1000),
)
def test_it_finds_what_sorting_finds(
    rows: int, columns: int, k: int, levels: int, seed: int
) -> None:
    """Also where many scores tie: then the values say so, and the columns hold them."""
    k = min(k, columns)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (rows, columns), generator=generator) / levels
    values, best = top_k(scores, k)
    assert torch.equal(values, torch.topk(scores, k).values)
    assert torch.equal(scores.gather(1, best), values)
    assert all(len(set(row)) == k for row in best.tolist())


@pytest.mark.parametrize("columns", [30, 30_007])
def test_what_is_excluded_comes_last(columns: int) -> None:
    scores = torch.full((2, columns), -torch.inf)
    scores[0, 17], scores[1, columns - 1] = -3.0, -2.0
    values, best = top_k(scores, 5)
    assert best[:, 0].tolist() == [17, columns - 1]
    assert values[:, 0].tolist() == [-3.0, -2.0]
    assert (values[:, 1:] == -torch.inf).all()


def test_what_is_not_a_number_is_found() -> None:
    """The worker's guard looks for it in the lists."""
    scores = torch.zeros(1, 30_000)
    scores[0, 12_345] = torch.nan
    values, best = top_k(scores, 3)
    assert torch.isnan(values[0, 0])
    assert best[0, 0] == 12_345
