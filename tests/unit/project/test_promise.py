"""The comparison that other tests rely on tells lists apart."""

from __future__ import annotations

import pytest

from nextclick.bench.promise import same_list
from nextclick.shared.schemas import ScoredItem


def listed(*items: tuple[str, float]) -> list[ScoredItem]:
    return [ScoredItem(item_id, score) for item_id, score in items]


A = listed(("a", 0.3), ("b", 0.2), ("c", 0.1))


@pytest.mark.parametrize(
    "same",
    [
        A,
        listed(("a", 0.300002), ("b", 0.2), ("c", 0.100001)),
        listed(("a", 0.3), ("b", 0.2), ("d", 0.1)),  # may have tied with c
    ],
)
def test_what_rounding_can_do_is_the_same_list(same: list[ScoredItem]) -> None:
    assert same_list(A, same)
    assert same_list(same, A)


@pytest.mark.parametrize(
    "other",
    [
        [],
        A[:2],
        listed(("a", 0.30001), ("b", 0.2), ("c", 0.1)),
        listed(("b", 0.3), ("a", 0.2), ("c", 0.1)),
        listed(("b", 0.2), ("a", 0.3), ("c", 0.1)),
        listed(("a", 0.3), ("d", 0.2), ("c", 0.1)),
        listed(("a", 0.3), ("b", 0.2), ("c", 0.0)),
    ],
)
def test_anything_else_is_another_list(other: list[ScoredItem]) -> None:
    assert not same_list(A, other)
    assert not same_list(other, A)


def test_items_that_tie_may_change_places() -> None:
    one = listed(("a", 0.200001), ("b", 0.2), ("c", 0.1))
    other = listed(("b", 0.200001), ("a", 0.2), ("c", 0.1))
    assert same_list(one, other)


def test_next_to_nothing_is_nothing() -> None:
    assert same_list(listed(("a", 1e-13)), listed(("a", 3e-13)))
    assert not same_list(listed(("a", 1e-11)), listed(("a", 3e-11)))
