"""The comparison of lists, which other tests rely on."""

from __future__ import annotations

import pytest

from nextclick.bench.agreement import lists_agree
from nextclick.shared.schemas import ScoredItem


def listed(*items: tuple[str, float]) -> list[ScoredItem]:
    return [ScoredItem(item_id, score) for item_id, score in items]


A = listed(("a", 0.3), ("b", 0.2), ("c", 0.1))


@pytest.mark.parametrize(
    "same",
    [
        A,
        listed(("a", 0.30002), ("b", 0.2), ("c", 0.10001)),
        listed(("a", 0.3), ("b", 0.2), ("d", 0.1)),  # may have tied with c
    ],
)
def test_lists_that_differ_by_rounding_agree(same: list[ScoredItem]) -> None:
    assert lists_agree(A, same)
    assert lists_agree(same, A)


@pytest.mark.parametrize(
    "other",
    [
        [],
        A[:2],
        listed(("a", 0.3001), ("b", 0.2), ("c", 0.1)),
        listed(("b", 0.3), ("a", 0.2), ("c", 0.1)),
        listed(("b", 0.2), ("a", 0.3), ("c", 0.1)),
        listed(("a", 0.3), ("d", 0.2), ("c", 0.1)),
        listed(("a", 0.3), ("b", 0.2), ("c", 0.0)),
    ],
)
def test_other_lists_do_not_agree(other: list[ScoredItem]) -> None:
    assert not lists_agree(A, other)
    assert not lists_agree(other, A)


def test_items_that_tie_may_be_in_another_order() -> None:
    one = listed(("a", 0.20001), ("b", 0.2), ("c", 0.1))
    other = listed(("b", 0.20001), ("a", 0.2), ("c", 0.1))
    assert lists_agree(one, other)


def test_tiny_scores_agree_up_to_the_absolute_tolerance() -> None:
    assert lists_agree(listed(("a", 1e-13)), listed(("a", 3e-13)))
    assert not lists_agree(listed(("a", 1e-11)), listed(("a", 3e-11)))
