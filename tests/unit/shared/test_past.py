from __future__ import annotations

import pytest

from nextclick.shared.past import DAY_MS, PAST_KEPT, PastClick, check_days, days_of, kept_out
from nextclick.shared.profiles import Profile
from nextclick.shared.schemas import KeptOutItems

NOW = 100 * DAY_MS
PAST = [
    PastClick("old", NOW - 9 * DAY_MS, False),
    PastClick("bought", NOW - 5 * DAY_MS, True),
    PastClick("edge", NOW - 2 * DAY_MS, False),
    PastClick("seen", NOW - 2 * DAY_MS + 1, False),
    PastClick("both", NOW - 1, True),
    PastClick("seen", NOW, False),
]


def profiles(*days: tuple[float | None, float | None]) -> list[Profile]:
    return [Profile(exclude_seen_days=seen, exclude_bought_days=bought) for seen, bought in days]


@pytest.mark.parametrize(
    ("days", "seen", "bought"),
    [
        ([(2, None)], ["seen", "both"], []),
        ([(None, 7)], [], ["bought", "both"]),
        ([(2, 7)], ["seen", "both"], ["bought"]),
        ([(2, None), (None, 7), (3, 1)], ["edge", "seen", "both"], ["bought"]),
        ([(0.5, None)], ["both", "seen"], []),
    ],
)
def test_what_was_clicked_in_the_last_days_is_kept_out(
    days: list[tuple[float | None, float | None]], seen: list[str], bought: list[str]
) -> None:
    assert kept_out(PAST, NOW, profiles(*days)) == KeptOutItems(seen=seen, bought=bought)


def test_what_nobody_asks_for_is_not_kept_out() -> None:
    assert kept_out(PAST, NOW, [Profile(max_price=3)]) is None
    assert days_of([]) == (0, 0)


def test_so_many_of_the_newest_clicks_count() -> None:
    past = [PastClick(str(n), NOW, False) for n in range(PAST_KEPT + 100)]
    found = kept_out(past, NOW, profiles((1, None)))
    assert found is not None
    assert found.seen == [str(n) for n in range(100, PAST_KEPT + 100)]


def test_days_that_are_not_kept_cannot_be_asked_for() -> None:
    known = profiles((2, None), (None, 7))
    check_days(profiles((7, 3), (None, None)), known)
    check_days([Profile()], [])
    with pytest.raises(ValueError, match="clicks of 8 days are asked for, and kept for 7"):
        check_days(profiles((None, 8)), known)
    with pytest.raises(ValueError, match="of 1 days are asked for, and kept for 0"):
        check_days(profiles((1, None)), [])
