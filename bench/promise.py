"""What the scorer promises of two lists for one history, whatever they were computed on."""

from __future__ import annotations

from collections.abc import Sequence

from nextclick.shared.schemas import Recommendation, ScoredItem

RELATIVE = 1e-5
ABSOLUTE = 1e-12


def close(one: float, other: float) -> bool:
    """Are two scores, each in [0, 1], the same but for rounding?"""
    return abs(one - other) <= RELATIVE * max(one, other) + ABSOLUTE


def same_list(ours: Sequence[ScoredItem], theirs: Sequence[ScoredItem]) -> bool:
    """Are these the same items in the same order with close scores, but for ties?

    Place by place the scores are close. An item of both lists has close scores in both, so items
    that changed places tie. An item of one list alone ties with the last one of the other.
    """
    if len(ours) != len(theirs):
        return False
    if not all(close(a.score, b.score) for a, b in zip(ours, theirs, strict=True)):
        return False
    return _known(ours, theirs) and _known(theirs, ours)


def same_answer(ours: Recommendation, theirs: Recommendation) -> bool:
    """Are these the same answer to the same click, with the same list?"""
    rest = [answer.model_dump(exclude={"items"}) for answer in (ours, theirs)]
    return rest[0] == rest[1] and same_list(ours.items, theirs.items)


def _known(ours: Sequence[ScoredItem], theirs: Sequence[ScoredItem]) -> bool:
    scores = {item.item_id: item.score for item in theirs}
    return all(close(item.score, scores.get(item.item_id, theirs[-1].score)) for item in ours)
