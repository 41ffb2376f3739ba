from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextclick.bench.agreement import lists_agree
from nextclick.shared.items import NOTHING_KNOWN, Attributes
from nextclick.shared.model import Constraints, Ranking, Scorer
from nextclick.shared.profiles import Profile
from tests.unit.builders import CPU, checkpoint

ITEMS = 30
SCORER = Scorer(checkpoint(ITEMS), CPU, top_k=10)
WHOLE = Scorer(checkpoint(ITEMS), CPU, top_k=ITEMS)

histories = st.lists(st.integers(1, ITEMS + 2).map(str), max_size=12)
excluded = st.one_of(st.none(), st.sets(st.integers(0, ITEMS - 1)))
constraints_drawn = st.tuples(st.integers(1, 40), excluded, st.booleans())


def constraint(
    k: int, never: set[int] | None = None, without_history: bool = False, of: Scorer = SCORER
) -> Constraints:
    """never: columns that the list must not hold; None: there is no profile."""
    if never is None:
        return Constraints(k, without_history)
    out = {of.vocabulary.item_ids[column]: Attributes(("out",)) for column in never}
    profile = Profile(excluded_categories=["out"])
    return of.prepare([profile], NOTHING_KNOWN.changed(out))(k, without_history)


@settings(max_examples=60)
@given(st.lists(st.tuples(histories, constraints_drawn), min_size=1, max_size=20))
def test_a_list_is_the_whole_ranking_without_what_the_constraints_exclude(
    asked: list[tuple[list[str], tuple[int, set[int] | None, bool]]],
) -> None:
    got = SCORER.recommend(
        [history for history, _ in asked],
        [constraint(k, columns, without) for _, (k, columns, without) in asked],
    )
    whole = WHOLE.recommend([history for history, _ in asked])
    for (history, (k, columns, without)), ranking, full in zip(asked, got, whole, strict=True):
        never = {str(column + 1) for column in columns or ()}
        if without and full.fallback is None:
            never |= set(history[-10:])
        assert ranking.fallback == full.fallback
        allowed = [item for item in full.items if item.item_id not in never]
        assert lists_agree(ranking.items, allowed[:k])


withheld_ids = st.frozensets(st.integers(1, ITEMS + 2).map(str))


@settings(max_examples=60)
@given(
    st.lists(histories, min_size=1, max_size=20),
    st.lists(withheld_ids, min_size=1, max_size=3),
    constraints_drawn,
)
def test_a_list_is_the_whole_ranking_without_what_is_withheld(
    asked: list[list[str]],
    one_after_the_other: list[frozenset[str]],
    ruled_by: tuple[int, set[int] | None, bool],
) -> None:
    """With constraints and without, and whatever was withheld before."""
    whole = WHOLE.recommend(asked)
    k, columns, without = ruled_by
    never_of_rules = {str(column + 1) for column in columns or ()}
    for withheld in one_after_the_other:
        for ranking, full in zip(SCORER.recommend(asked, withheld=withheld), whole, strict=True):
            allowed = [item for item in full.items if item.item_id not in withheld]
            assert ranking.fallback == full.fallback
            assert lists_agree(ranking.items, allowed[:10])
        ruled = SCORER.recommend(asked, [constraint(k, columns, without)] * len(asked), withheld)
        for history, ranking, full in zip(asked, ruled, whole, strict=True):
            never = withheld | never_of_rules
            if without and full.fallback is None:
                never |= set(history[-10:])
            allowed = [item for item in full.items if item.item_id not in never]
            assert lists_agree(ranking.items, allowed[:k])


def test_what_is_withheld_is_in_no_shortlist_and_changes_no_score() -> None:
    scorer = Scorer(checkpoint(2000), CPU, top_k=5, shortlist_from=1)
    exact = Scorer(checkpoint(2000), CPU, top_k=2000)
    assert scorer.shortlist is not None
    asked = [["7"], ["7", "8"], ["1999"]]
    withheld: frozenset[str] = frozenset()
    for _ in range(3):  # each time the best of the time before, in all blocks of the scan
        lists = scorer.recommend(asked, withheld=withheld)
        for ranking, full in zip(lists, exact.recommend(asked, withheld=withheld), strict=True):
            best = full.items[:5]
            assert [i.item_id for i in ranking.items] == [i.item_id for i in best]
            assert [i.score for i in ranking.items] == pytest.approx(
                [i.score for i in best], rel=2e-3
            )
        withheld |= {item.item_id for ranking in lists for item in ranking.items}
    assert len(withheld) >= 15


def test_a_broken_model_is_seen_though_items_are_withheld() -> None:
    scorer = Scorer(checkpoint(ITEMS), CPU, top_k=10)
    scorer._catalogue = torch.full_like(scorer._catalogue, torch.nan)
    (ranking,) = scorer.recommend([["1"]], withheld=frozenset({"2"}))
    assert any(item.score != item.score for item in ranking.items)


def test_all_withheld_is_an_empty_list() -> None:
    everything = frozenset(map(str, range(1, ITEMS + 1)))
    assert SCORER.recommend([["1"], []], withheld=everything) == [
        Ranking([], None, {"withheld": ITEMS}),
        Ranking([], "cold_start", {"withheld": ITEMS}),
    ]


def test_without_constraints_nothing_changes() -> None:
    asked = [["1", "2"], [], ["99"]]
    with_choices = SCORER.recommend(asked, [Constraints(10)] * 3)
    for ours, plain in zip(with_choices, SCORER.recommend(asked), strict=True):
        assert ours.fallback == plain.fallback
        assert lists_agree(ours.items, plain.items)


def test_rules_hold_where_a_shortlist_would_be_ranked() -> None:
    scorer = Scorer(checkpoint(2000), CPU, top_k=5, shortlist_from=1)
    assert scorer.shortlist is not None
    best = [item.item_id for item in scorer.recommend([["7"]])[0].items]
    never = {int(item) - 1 for item in best}
    (ranking,) = scorer.recommend([["7"]], [constraint(5, never, of=scorer)])
    assert len(ranking.items) == 5
    assert not {item.item_id for item in ranking.items} & set(best)


def test_everything_excluded_is_an_empty_list() -> None:
    asked = [constraint(3, set(range(ITEMS)))] * 2
    assert SCORER.recommend([["1"], []], asked) == [
        Ranking([], None, {"excluded_categories": ITEMS}),
        Ranking([], "cold_start", {"excluded_categories": ITEMS}),
    ]
