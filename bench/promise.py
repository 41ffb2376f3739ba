"""Checks that two lists for one history agree as the scorer promises, see shared/model/scorer."""

from __future__ import annotations

from collections.abc import Sequence

from nextclick.shared.schemas import Recommendation, ScoredItem

RELATIVE = 1e-5
ABSOLUTE = 1e-12


def close(one: float, other: float) -> bool:
    """Whether two scores, each in [0, 1], are equal up to rounding."""
    return abs(one - other) <= RELATIVE * max(one, other) + ABSOLUTE


def same_list(ours: Sequence[ScoredItem], theirs: Sequence[ScoredItem]) -> bool:
    """Whether two lists have the same items in the same order, up to ties, with close scores.

    At each rank the scores must be close. An item of both lists must have close scores in both, so
    items in different order tie. An item of only one list must tie with the last one of the other.
    """
    if len(ours) != len(theirs):
        return False
    if not all(close(a.score, b.score) for a, b in zip(ours, theirs, strict=True)):
        return False
    return _known(ours, theirs) and _known(theirs, ours)


def same_answer(ours: Recommendation, theirs: Recommendation) -> bool:
    """Whether two answers are equal in all fields, with lists as in `same_list`."""
    rest = [answer.model_dump(exclude={"items"}) for answer in (ours, theirs)]
    return rest[0] == rest[1] and same_list(ours.items, theirs.items)


def _known(ours: Sequence[ScoredItem], theirs: Sequence[ScoredItem]) -> bool:
    scores = {item.item_id: item.score for item in theirs}
    return all(close(item.score, scores.get(item.item_id, theirs[-1].score)) for item in ours)
