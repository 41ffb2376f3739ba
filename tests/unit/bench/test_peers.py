"""The pure parts of `nextclick bench peers`; the processes are in the integration tests."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from nextclick.bench.peers import interpreter, measure, report
from nextclick.bench.peers.history import Entry, append
from nextclick.bench.peers.passes import Pass, compare, rate
from nextclick.bench.round_trip import Percentiles, RoundTrip, Servers
from nextclick.shared.errors import ConfigurationError, NextclickError
from nextclick.shared.redis import ENTRIES_KEPT
from nextclick.shared.runtime.settings import PREFIX
from nextclick.shared.schemas import Recommendation, ScoredItem
from tests.integration.traffic import expected_histories, make_clicks

GAP_MS = 1_800_000


def recommendation(event_id: str = "1", score: float = 0.5, item: str = "a") -> Recommendation:
    return Recommendation(
        event_id=event_id,
        user_id="u",
        items=[ScoredItem(item, score)],
        model_version="v",
        history=["x"],
        click_timestamp=100,
        scored_at=101,
    )


def test_the_quix_worker_has_the_session_rules_of_the_store() -> None:
    clicks = make_clicks(3000, users=7)
    clicks = [
        c for i, one in enumerate(clicks) for c in ((one, clicks[i - 3]) if i > 9 else (one,))
    ]
    expected = expected_histories(clicks)
    state: dict[str, str] = {}
    for click in clicks:
        entries: list[Entry] = json.loads(state.get(click.user_id, "[]"))
        history = append(entries, click.event_id, click.item_id, click.timestamp, GAP_MS)
        assert history == expected[click.event_id]
        assert len(entries) <= ENTRIES_KEPT
        state[click.user_id] = json.dumps(entries)


def test_the_rate_starts_when_the_first_answers_are_scored() -> None:
    """Neither those scored with the first count, nor when the first of all arrived."""
    assert rate([1000, 1000, 1500, 2000], ended_ms=3000.0) == 1.0


def test_equal_answers_may_come_in_any_order() -> None:
    answers = [recommendation("1"), recommendation("2")]
    compare(answers, [recommendation("2", score=0.500001), recommendation("1")])


def test_items_whose_scores_tie_may_change_places() -> None:
    """One scores a click alone, the other a batch: the last digit may differ."""
    items = [ScoredItem("a", 0.5), ScoredItem("b", 0.000944669), ScoredItem("c", 0.000944669)]
    one = recommendation().model_copy(update={"items": items})
    other = one.model_copy(update={"items": [items[0], items[2], items[1]], "scored_at": 7})
    compare([one], [other])
    for others in ([items[1], items[0], items[2]], [ScoredItem("z", 0.5), *items[1:]]):
        with pytest.raises(NextclickError, match="answer"):
            compare([one], [one.model_copy(update={"items": others})])


@pytest.mark.parametrize(
    "others",
    [
        [],
        [recommendation("2")],
        [recommendation(), recommendation()],
        [recommendation(score=0.51)],
        [recommendation().model_copy(update={"history": ["y"]})],
        [recommendation().model_copy(update={"items": []})],
    ],
)
def test_different_answers_are_no_result(others: list[Recommendation]) -> None:
    with pytest.raises(NextclickError, match="answer"):
        compare([recommendation()], others)


def test_every_figure_is_of_its_contestant_and_ratios_are_of_one_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without processes: with them it is measured in tests/integration/test_peers.py."""
    per_second = {
        "nextclick-40-model-0": 300.0, "quix-40-model-0": 100.0,
        "nextclick-40-model-1": 100.0, "quix-40-model-1": 50.0,
        "nextclick-40-floor-0": 900.0, "quix-40-floor-0": 600.0,
        "nextclick-40-floor-1": 700.0, "quix-40-floor-1": 200.0,
    }  # fmt: skip
    p50 = {"echo-40-50": 2.0, "nextclick-40-50": 5.0, "quix-40-50": 9.0}

    def answer_all(name: str, *_: object) -> Pass:
        return Pass(per_second.pop(name), [recommendation()])

    def round_trip(name: str, *_: object, **__: object) -> RoundTrip:
        ms = p50.pop(name)
        return RoundTrip(Percentiles(100, ms, 2 * ms, 3 * ms, 4 * ms), 0, ("v",), 0.0, 0.0)

    monkeypatch.setattr(measure, "versions", lambda _: {"quixstreams": "3.99"})
    monkeypatch.setattr(measure, "RATES", (50.0,))
    for function in (answer_all, round_trip):
        monkeypatch.setattr(measure, function.__name__, function)
    monkeypatch.setattr(measure, "fill", lambda *_: None)
    servers = Servers(tmp_path, {f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS": "nowhere:1"}, "4.1.0", 7)
    row = measure.measure(servers, 40, 400, 2, Path("python"), "cpu", seconds=2)
    assert not per_second
    assert not p50
    assert (row.nextclick, row.quix, row.nextclick_floor, row.quix_floor) == (200, 75, 800, 400)
    assert (row.ratio, row.floor_ratio) == (2.5, 2.5)
    (latency,) = row.latency
    assert [found.p50_ms for found in (latency.echo, latency.nextclick, latency.quix)] == [2, 5, 9]

    console = Console(width=112, record=True, file=io.StringIO())
    report.show([row], servers, console)
    text = console.export_text()
    for words in ("Quix Streams", "echo", "Apache Kafka 4.1.0", "quixstreams 3.99", "2.5×", "27.0"):
        assert words in text


def test_an_interpreter_without_quixstreams_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no-such-python.*make bench-peers"):
        interpreter.find(tmp_path / "no-such-python")
