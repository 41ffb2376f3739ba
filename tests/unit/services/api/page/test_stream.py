from __future__ import annotations

import pytest

from nextclick.services.api.page import charts
from nextclick.services.api.page.stream import POINTS, SHOPPERS, Mark, Stream
from nextclick.shared.schemas import Recommendation, ScoredItem


def answer(
    user: str, clicked: str, listed: str = "abc", version: str = "v1", at: int = 0
) -> Recommendation:
    return Recommendation(
        event_id=f"{user}-{clicked}-{at}",
        user_id=user,
        items=[ScoredItem(item, 0.1) for item in listed],
        model_version=version,
        history=[clicked],
        click_timestamp=at,
        scored_at=at,
    )


@pytest.fixture
def stream() -> Stream:
    return Stream({"popularity": lambda answers: [{"z"}] * len(answers)})


def test_a_click_is_judged_by_the_list_its_shopper_had(stream: Stream) -> None:
    stream.add_answers([answer("u", "z"), answer("w", "b"), answer("u", "b"), answer("u", "z")], 5)
    assert [(seen.user_id, seen.rank, seen.judged) for seen in stream.newest] == [
        ("u", None, False),
        ("w", None, False),
        ("u", 2, True),
        ("u", None, True),
    ]
    shopper = stream.shoppers["u"]
    assert (shopper.clicks, shopper.judged, shopper.hits) == (3, 2, 1)
    stream.end_step(10, lag=3)
    assert stream.points[-1].hit_rates == {"model": 0.5, "popularity": 0.5}


def test_only_the_first_ten_count(stream: Stream) -> None:
    stream.add_answers([answer("u", "x", listed="abcdefghijk"), answer("u", "k")], 0)
    assert stream.newest[-1].rank is None


def test_a_point_says_what_came_since_the_last_one(stream: Stream) -> None:
    stream.add_clicks(8)
    stream.add_answers([answer("u", "a", at=90), answer("w", "a", at=80)], 100)
    stream.end_step(1000, lag=7, seconds=2)
    stream.end_step(3000, lag=None, seconds=2)
    first, second = stream.points
    assert (first.clicks_per_second, first.answers_per_second, first.lag) == (4, 1, 7)
    assert first.latency_ms == pytest.approx((15, 19, 19.9))
    assert (second.clicks_per_second, second.latency_ms, second.lag) == (0, None, None)
    assert first.hit_rates == {}


def test_hit_rates_are_those_of_the_last_minute(stream: Stream) -> None:
    stream.add_answers([answer("u", "a"), answer("u", "a")], 0)
    for step in range(30):
        stream.end_step(step, 0)
        assert stream.points[-1].hit_rates["model"] == 1
    stream.end_step(31, 0)
    assert stream.points[-1].hit_rates == {}


def test_swaps_and_rollbacks_are_marked_once(stream: Stream) -> None:
    for at, version in enumerate(["v1", "v1", "v2", "v1", "v2", "v2"]):  # two workers, swapping
        stream.add_answers([answer("u", "a", version=version)], at)
    assert [(mark.kind, mark.text) for mark in stream.marks] == [
        ("swap", "v2 serves"),
        ("rollback", "back to v1"),
        ("rollback", "back to v2"),
    ]
    stream.add_answers([answer("u", "a", version="v1")], 10)  # soon after: the same news
    assert len(stream.marks) == 3


def test_memory_is_bounded(stream: Stream) -> None:
    for i in range(2 * SHOPPERS):
        stream.add_answers([answer(str(i), "a")], 0)
    assert list(stream.shoppers) == [str(i) for i in range(SHOPPERS, 2 * SHOPPERS)]
    for i in range(2 * POINTS):
        stream.end_step(i, 0)
    assert len(stream.points) == POINTS


def test_charts_draw_what_there_is(stream: Stream) -> None:
    stream.add_answers([answer("u", "a"), answer("u", "b")], 0)
    stream.end_step(1000, lag=2)
    stream.end_step(3000, lag=None)
    marks = [Mark(500, "swap", "before the first point"), Mark(2000, "refusal", "refused: worse")]
    drawn = charts.hit_rates(stream.points, marks)
    assert [series["name"] for series in drawn["series"]] == ["model", "popularity"]
    assert drawn["series"][0]["data"] == [(1000, 1.0), (3000, 1.0)]
    assert [mark["name"] for mark in drawn["series"][0]["markLine"]["data"]] == ["refused: worse"]
    assert charts.lag(stream.points)["series"][0]["data"] == [(1000, 2), (3000, None)]
    assert charts.latency(stream.points)["series"][2]["data"][1] == (3000, None)
    assert charts.hit_rates([], marks)["series"] == []
