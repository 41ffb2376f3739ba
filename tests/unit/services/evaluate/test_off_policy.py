"""Off-policy estimates: what is judged, that they are unbiased, and what their intervals hold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextclick.services.evaluate.off_policy import (
    ESTIMATORS,
    Log,
    LoggedList,
    estimate,
    shown_worth,
)
from nextclick.shared.schemas import DrawnItems, ExtendedRecommendation, ScoredItem

GAP_MS = 1000


def answer(
    user: str, event: str, item: str, time_ms: int, shown: Sequence[tuple[str, float]] = ()
) -> ExtendedRecommendation:
    """The answer to a click on an item; without `shown` nothing of its list is drawn."""
    drawn = DrawnItems(seed="00", propensities=[p for _, p in shown]) if shown else None
    return ExtendedRecommendation(
        event_id=event,
        user_id=user,
        items=[ScoredItem(i, 0.1) for i, _ in shown],
        model_version="v",
        history=[item],
        click_timestamp=time_ms,
        scored_at=time_ms,
        exploration=drawn,
    )


SHOWN = [("a", 1.0), ("b", 0.25)]


def judged(answers: Sequence[ExtendedRecommendation], gap_ms: int = GAP_MS) -> list[str | None]:
    log = Log(gap_ms)
    for one in answers:
        log.add(one)
    return [one.clicked for one in log.judged()]


def test_a_list_is_judged_by_its_users_next_click_in_the_session() -> None:
    assert judged(
        [
            answer("ann", "1", "x", 0, SHOWN),
            answer("bob", "1", "y", 0, SHOWN),
            answer("ann", "2", "b", 900, SHOWN),
            answer("bob", "2", "b", 1001, SHOWN),  # another session
            answer("ann", "3", "z", 1500),  # a list in which nothing is drawn: it judges, only
            answer("ann", "4", "a", 1600),
            answer("cat", "1", "a", 9000),
        ]
    ) == ["b", None, "z", None]


def test_the_end_of_a_log_judges_nothing() -> None:
    end = [answer("ann", "1", "x", 0, SHOWN), answer("bob", "1", "x", 900, SHOWN)]
    assert judged(end) == []
    assert judged([*end, answer("cat", "1", "x", 1000)]) == [None]
    assert judged([*end, answer("bob", "2", "a", 950, SHOWN)]) == ["a"]


def test_without_a_gap_any_next_click_counts_and_lists_without_one_are_not_judged() -> None:
    answers = [
        answer("ann", "1", "x", 5, SHOWN),
        answer("ann", "2", "b", 10**12, SHOWN),
        answer("ann", "3", "c", 3, SHOWN),  # the clock went back
    ]
    assert judged(answers, gap_ms=0) == ["b", "c"]


def test_an_answer_that_comes_again_counts_once() -> None:
    first, second = answer("ann", "1", "x", 0, SHOWN), answer("ann", "2", "a", 10, SHOWN)
    later = answer("cat", "1", "x", 5000)
    assert judged([first, second, first, second, later]) == ["a", None]


def listed(user: int, shown: dict[str, float], clicked: str | None) -> LoggedList:
    return LoggedList(str(user), ["x"], None, shown, 0, clicked)


def test_a_model_with_the_same_lists_is_worth_what_they_were() -> None:
    lists = [listed(i, {"a": 1.0, "b": 1.0}, clicked) for i, clicked in enumerate("abcab" * 4)]
    same = [[ScoredItem("a", 0.3), ScoredItem("b", 0.2)]] * len(lists)
    found = estimate(lists, same)
    shown = shown_worth(lists)
    assert shown.mean == pytest.approx(0.8)
    for name in ESTIMATORS:
        assert found.by[name].mean == pytest.approx(0.8)
        assert (found.by[name].low, found.by[name].high) == pytest.approx((shown.low, shown.high))
    assert found.uplift.mean == pytest.approx(0)
    assert (found.support.low, found.support.mean, found.support.high) == (1, 1, 1)
    assert found.effective_lists == pytest.approx(16)


@given(
    st.lists(st.integers(0, 5), min_size=8, max_size=8).filter(any),
    st.permutations(range(8)),
    st.lists(st.floats(0.01, 0.9), min_size=3, max_size=3),
)
@settings(max_examples=50)
def test_ips_and_dr_are_unbiased_whatever_is_clicked_and_expected(
    shares: list[int], order: list[int], scores: list[float]
) -> None:
    """The exact expectation: each draw and each click, as often as it is likely.

    Items 0 and 1 are always shown, one of 2 to 4 and one of 5 to 7 are drawn.
    """
    total = sum(shares) + 2  # two of them do not click
    lists = []
    for drawn in itertools.product((2, 3, 4), (5, 6, 7)):
        shown = {"0": 1.0, "1": 1.0, **{str(i): 1 / 3 for i in drawn}}
        wanted = [str(i) for i, share in enumerate(shares) for _ in range(share)]
        for clicked in [*wanted, None, None]:
            # Who does not find what he wants does not click.
            lists += [
                listed(user, shown, clicked if clicked in shown else None) for user in range(2)
            ]
    other = [ScoredItem(str(i), score) for i, score in zip(order, scores, strict=False)]
    truth = sum(shares[i] for i in order[:3]) / total
    found = estimate(lists, [other] * len(lists))
    for name in ESTIMATORS:  # the draws are balanced here, so that SNIPS is exact as well
        assert found.by[name].mean == pytest.approx(truth, abs=1e-9)
    assert found.support.mean == pytest.approx(1)


def test_items_that_could_not_be_shown_are_said_to_be_missing() -> None:
    lists = [listed(i, {"a": 1.0}, "a" if i % 2 else None) for i in range(20)]
    other = [ScoredItem("a", 0.25), ScoredItem("never", 0.25)]
    found = estimate(lists, [other] * 20)
    assert found.support.mean == 0.5
    assert found.by["ips"].mean == pytest.approx(0.5), "worthless"
    assert found.by["snips"].mean == pytest.approx(1.0), "as the others"
    assert found.by["dr"].mean == pytest.approx(1.0), "as the model says, times 2"


def test_dr_is_fitted_to_other_users_than_it_is_used_for() -> None:
    """Else the factor would follow the noise of the very lists that it is to be free of."""
    lists = [listed(i, {"a": 1.0}, "a" if i % 2 else None) for i in range(20)]
    other = [[ScoredItem("a", 0.5), ScoredItem("never", 0.5)]] * 20
    # Users of one half always click, those of the other never: each is given the other's factor.
    assert estimate(lists, other).by["dr"].mean == pytest.approx(1.0)
    swapped = [replace(one, clicked=None) for one in lists]
    assert estimate(swapped, other).by["dr"].mean == 0


@pytest.mark.long
def test_intervals_hold_what_is_true_though_propensities_are_small() -> None:
    """400 logs of 600 users, each with one to five lists; the wanted item is drawn by 1 of 20."""
    rng = np.random.default_rng(1)
    held = dict.fromkeys(ESTIMATORS, 0)
    logs = 400
    other = [ScoredItem("a", 0.3), ScoredItem("b", 0.1)]
    for _ in range(logs):
        lists = []
        for user in range(600):
            likes_b = rng.random() < 0.4  # lists of one user are alike
            for _ in range(int(rng.integers(1, 6))):
                shown = {"a": 1.0, "b": 0.05} if rng.random() < 0.05 else {"a": 1.0, "c": 0.95}
                wanted = "b" if rng.random() < (0.6 if likes_b else 0.1) else "a"
                lists.append(listed(user, shown, wanted if wanted in shown else None))
        found = estimate(lists, [other] * len(lists))
        for name in ESTIMATORS:
            held[name] += found.by[name].low <= 1.0 <= found.by[name].high
    for name in ESTIMATORS:
        # 93 %, less what 400 logs may miss by chance.
        assert held[name] / logs >= 0.93 - 2 * math.sqrt(0.93 * 0.07 / logs), (name, held)


def test_nothing_is_estimated_from_one_user() -> None:
    lists = [listed(1, {"a": 1.0}, "a")] * 3
    with pytest.raises(ValueError, match="two users"):
        estimate(lists, [[ScoredItem("a", 0.5)]] * 3)
    with pytest.raises(ValueError, match="two users"):
        estimate([], [])
