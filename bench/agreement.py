"""Whether two recommendations agree up to rounding, as `shared/model/scorer` promises."""

from __future__ import annotations

from collections.abc import Sequence

from nextclick.shared.schemas import Recommendation, ScoredItem

RELATIVE_TOLERANCE = 1e-4
ABSOLUTE_TOLERANCE = 1e-12


def scores_agree(a: float, b: float) -> bool:
    """Whether two scores, each in [0, 1], are equal up to rounding."""
    return abs(a - b) <= RELATIVE_TOLERANCE * max(a, b) + ABSOLUTE_TOLERANCE


def lists_agree(a: Sequence[ScoredItem], b: Sequence[ScoredItem]) -> bool:
    """Whether two lists have the same items in the same order, up to ties, with close scores.

    At each rank the scores must be close. An item of both lists must have close scores in both, so
    items in different order tie. An item of only one list must tie with the last one of the other.
    """
    if len(a) != len(b):
        return False
    if not all(scores_agree(x.score, y.score) for x, y in zip(a, b, strict=True)):
        return False
    return _each_ties(a, b) and _each_ties(b, a)


def answers_agree(a: Recommendation, b: Recommendation) -> bool:
    """Whether two answers are equal in all fields, with lists as in `lists_agree`."""
    rest = [answer.model_dump(exclude={"items"}) for answer in (a, b)]
    return rest[0] == rest[1] and lists_agree(a.items, b.items)


def _each_ties(items: Sequence[ScoredItem], others: Sequence[ScoredItem]) -> bool:
    """Whether each item has a close score among `others`, or to their last if it is missing."""
    scores = {item.item_id: item.score for item in others}
    return all(
        scores_agree(item.score, scores.get(item.item_id, others[-1].score)) for item in items
    )
