from __future__ import annotations

from collections.abc import Sequence

from nextclick.shared.schemas import Recommendation, ScoredItem
from nextclick.shared.stream_metrics import StreamMetrics


def answer(event: str, user: str, item: str, offers: str, version: str = "v1") -> Recommendation:
    return Recommendation(
        event_id=event,
        user_id=user,
        items=[ScoredItem(item_id=i, score=0.1) for i in offers],
        model_version=version,
        history=[item],
        click_timestamp=100,
        scored_at=101,
    )


def always_a(answers: Sequence[Recommendation]) -> list[set[str]]:
    return [{"a"}] * len(answers)


def test_it_counts_what_is_missing_doubled_and_swapped() -> None:
    live = StreamMetrics(baselines={})
    live.add_clicks(["1", "2", "3"])
    live.add_answers([answer("1", "u", "a", "b"), answer("1", "u", "a", "b")], [110, 120])
    live.add_answers([answer("2", "u", "a", "b", "v2")], [130])
    assert (live.missing, live.duplicates, live.swaps) == (1, 1, 1)
    assert live.versions == ["v1", "v2"]
    assert live.latencies_ms == [10, 30]
    assert live.latency_ms() == {"p50": 20.0, "p90": 28.0, "p99": 29.8}


def test_a_hit_is_a_next_click_that_was_on_the_list() -> None:
    live = StreamMetrics(baselines={"popularity": always_a}, k=2)
    live.add_answers(
        [
            answer("1", "u", "a", "bc"),  # nothing before it to judge
            answer("2", "u", "b", "cde"),  # was offered b, c: a hit; popularity said a: none
            answer("3", "v", "a", "a"),  # another shopper's first
            answer("4", "u", "e", "a"),  # was offered c, d within k: a miss
            answer("5", "v", "a", "x"),  # both said a
        ],
        [0] * 5,
    )
    assert live.judged == 3
    assert live.hit_rates() == {"model": round(2 / 3, 4), "popularity": round(1 / 3, 4)}


def test_without_answers_there_are_no_figures() -> None:
    live = StreamMetrics(baselines={})
    assert (live.missing, live.swaps, live.latency_ms(), live.hit_rates()) == (0, 0, {}, {})


def test_a_repeated_answer_is_not_judged_or_timed_again() -> None:
    live = StreamMetrics(baselines={})
    first = answer("1", "u", "a", "b")
    live.add_answers([first, first, answer("2", "u", "b", "c"), first], [110, 999, 120, 999])
    assert (live.judged, live.hits["model"], live.duplicates) == (1, 1, 2)
    assert live.latencies_ms == [10, 20]
    live.add_answers([answer("3", "u", "c", "d")], [130])  # judged by answer 2, not by a repeat
    assert (live.judged, live.hits["model"]) == (2, 2)


def test_an_answer_may_be_seen_before_its_click() -> None:
    live = StreamMetrics(baselines={})
    live.add_answers([answer("1", "u", "a", "b")], [110])
    live.add_clicks(["1", "2"])
    live.add_clicks(["2"])  # a second reading of the topic
    assert live.missing == 1


def test_the_newest_latencies_are_those_that_came_last() -> None:
    live = StreamMetrics(baselines={})
    for i, arrived in enumerate([1100, 1100, 110, 130]):
        live.add_answers([answer(str(i), f"u{i}", "a", "b")], [arrived])
    assert live.latency_ms(newest=2) == {"p50": 20.0, "p90": 28.0, "p99": 29.8}
    assert live.latency_ms()["p99"] > 900


def test_the_click_judged_is_the_last_of_the_history() -> None:
    live = StreamMetrics(baselines={})
    later = answer("2", "u", "x", "z").model_copy(update={"history": ["b", "x"]})
    live.add_answers([answer("1", "u", "a", "b"), later], [110, 120])
    assert live.hit_rates() == {"model": 0.0}
