from __future__ import annotations

import pytest

from nextclick.services.api.page.stream import (
    ANSWERS_KEPT,
    POINTS,
    REASONS,
    SHOPPERS,
    Stream,
    wilson,
)
from nextclick.shared.schemas import Click, Recommendation, ScoredItem


def answer(
    user: str, clicked: str, listed: str = "abc", version: str = "v1", at: int = 0, event: str = ""
) -> Recommendation:
    return Recommendation(
        event_id=event or f"{user}-{clicked}-{at}",
        user_id=user,
        items=[ScoredItem(item, 0.1) for item in listed],
        model_version=version,
        history=[clicked],
        click_timestamp=at,
        scored_at=at,
    )


def clicks(user: str, count: int, partition: int = 0) -> list[tuple[Click, int]]:
    click = Click(event_id="e", user_id=user, item_id="a", timestamp=0)
    return [(click, partition)] * count


def add(stream: Stream, *answers: Recommendation, at: float = 0) -> None:
    stream.add_answers(answers, [at] * len(answers))


@pytest.fixture
def stream() -> Stream:
    return Stream({"popularity": lambda answers: [{"z"}] * len(answers)})


def test_a_click_is_judged_by_the_list_its_shopper_had(stream: Stream) -> None:
    add(stream, answer("u", "z"), answer("w", "b"), answer("u", "b"), answer("u", "z", at=1))
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
    judged, rates = stream.hit_rates()
    assert (judged, rates["model"][0]) == (2, 0.5)


def test_only_the_first_ten_count(stream: Stream) -> None:
    add(stream, answer("u", "x", listed="abcdefghijk"), answer("u", "k"))
    assert stream.newest[-1].rank is None


def test_a_doubled_answer_counts_as_that_and_for_nothing_else(stream: Stream) -> None:
    add(stream, answer("u", "a"), answer("u", "a"), answer("w", "a", event="u-a-0"))
    assert (stream.answers, stream.doubled, stream.shoppers["u"].clicks) == (2, 1, 1)


def test_a_point_says_what_came_since_the_last_one(stream: Stream) -> None:
    stream.add_clicks(clicks("u", 8))
    add(stream, answer("u", "a", at=90), answer("w", "a", at=80), at=100)
    stream.end_step(1000, lag=7, seconds=2)
    stream.end_step(3000, lag=None, seconds=2)
    first, second = stream.points
    assert (first.clicks_per_second, first.answers_per_second, first.lag) == (4, 1, 7)
    assert first.latency_ms == pytest.approx((15, 19.9))
    assert (second.clicks_per_second, second.latency_ms, second.lag) == (0, None, None)
    assert first.hit_rates == {}
    assert stream.latency_ms() == pytest.approx((15, 19.9))  # of the last minute


def test_a_latency_is_never_negative_as_in_the_workers_histogram(stream: Stream) -> None:
    add(stream, answer("u", "a", at=500), at=100)
    stream.end_step(1000, lag=0)
    assert stream.latency_ms() == (0, 0)


def test_hit_rates_in_the_chart_are_those_of_the_last_minute(stream: Stream) -> None:
    add(stream, answer("u", "a"), answer("u", "a", at=1))
    for step in range(30):
        stream.end_step(step, 0)
        assert stream.points[-1].hit_rates["model"] == 1
    stream.end_step(31, 0)
    assert stream.points[-1].hit_rates == {}
    assert stream.hit_rates()[0] == 1  # the headline is of all that is shown


def test_a_version_begins_once_however_partitions_interleave(stream: Stream) -> None:
    for at, version in enumerate(["v1", "v1", "v2", "v1", "v2", "v1"]):  # two workers, swapping
        add(stream, answer("u", "a", version=version, at=at), at=at)
    assert [(v, counts.first_answer_ms) for v, counts in stream.versions.items()] == [
        ("v1", 0),
        ("v2", 2),
    ]
    assert [(v, c.judged, c.hits) for v, c in stream.versions.items()] == [
        ("v1", 3, 3),  # the list that was judged, not the click, says whose hit it was
        ("v2", 2, 2),
    ]


def test_who_clicks_faster_than_a_person_is_named() -> None:
    stream = Stream({}, max_per_minute=60)
    for _ in range(30):
        stream.add_clicks([*clicks("bot", 3), *clicks("person", 1)])
        stream.end_step(0, 0)
    assert stream.bots == {"bot": 90}
    stream.add_clicks(clicks("person", 40))  # another minute
    stream.end_step(0, 0)
    assert stream.bots == {"bot": 90}


def test_a_user_on_two_partitions_is_counted(stream: Stream) -> None:
    stream.add_clicks([*clicks("u", 2, 0), *clicks("w", 1, 1), *clicks("u", 1, 1)])
    assert stream.anomalies["user_on_several_partitions"] == 1


def test_memory_is_bounded(stream: Stream) -> None:
    for i in range(2 * SHOPPERS):
        add(stream, answer(str(i), "a"))
    assert list(stream.shoppers) == [str(i) for i in range(SHOPPERS, 2 * SHOPPERS)]
    for i in range(2 * POINTS):
        stream.end_step(i, 0)
    assert len(stream.points) == POINTS
    add(stream, *(answer("u", "a", at=at, version=f"v{at}") for at in range(ANSWERS_KEPT + 100)))
    assert len(stream._answered) == ANSWERS_KEPT
    assert len(stream.versions) == 50


def test_reasons_of_dead_letters_are_bounded(stream: Stream) -> None:
    """They are headers of a topic that many may write to."""
    stream.add_dead_letters(["not_json", *(f"reason-{number}" for number in range(1000))])
    stream.add_dead_letters(["not_json"])
    assert stream.dead_letters["not_json"] == 2
    assert stream.dead_letters["other"] == 1001 - REASONS
    assert len(stream.dead_letters) == REASONS + 1


def test_wilsons_interval() -> None:
    # Newcombe (1998), table I: 81 of 263, 95 %
    assert wilson(81, 263) == pytest.approx((0.3080, 0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0, 0, 0.2775), abs=1e-4)
    assert wilson(10, 10)[2] == 1
