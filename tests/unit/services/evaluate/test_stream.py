"""Prequential evaluation: each click is predicted before anything learns from it."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from nextclick import __main__ as cli
from nextclick.services.evaluate.stream import (
    Deltas,
    Every,
    Ranker,
    Retraining,
    Stretch,
    parse_every,
    prequential,
    update_positions,
)
from nextclick.services.evaluate.stream_report import StreamReport, plot, show, summarise
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.model import BSTConfig, Vocabulary
from nextclick.shared.registry import Registry
from nextclick.trainer.compare.baselines.counting import Markov
from nextclick.trainer.data import Split, click_log
from nextclick.trainer.evaluate.metrics import MISS
from nextclick.trainer.fit.presets import PRESETS, Regularisation
from nextclick.trainer.retrain import FitLimits, Outcome
from tests.unit.builders import CPU

GAP_MS = 10_000
TINY = replace(
    PRESETS["default"],
    shape=BSTConfig(items=1, embed_dim=16, heads=2, layers=1, feedforward=16),
    regularisation=Regularisation(0.0, 0.0, 0.0),
    batch_size=16,
    epochs=3,
    steps=0,
    learning_rate=1e-2,
)


def frame(rows: list[tuple[int, int, int]]) -> pd.DataFrame:
    """Clicks of (user, item, seconds since the click before)."""
    made = pd.DataFrame(rows, columns=["user", "item", "pause"])
    return pd.DataFrame(
        {
            "user_id": "u" + made["user"].astype(str),
            "item_id": "i" + made["item"].astype(str),
            "timestamp": 1_700_000_000_000 + 1000 * made["pause"].cumsum(),
            "event_type": "click",
        }
    )


def markov(clicks: pd.DataFrame) -> dict[str, Ranker]:
    """A method that is fitted at once, on all it is given."""
    log = click_log(clicks, GAP_MS, 0.0, 0.0)
    vocabulary = Vocabulary([]).extended(log.ids_in(Split.TRAIN))
    method = Markov("Markov", steps=3, reach=2)
    method.fit(log, vocabulary, seed=0)
    return {"Markov": Ranker(method.score, vocabulary, log.users_per_item(vocabulary))}


def predictions(clicks: pd.DataFrame, every: Every, before: int) -> list[tuple[int, int]]:
    """Positions below `before`, and ranks."""
    updates = update_positions(clicks["timestamp"].to_numpy(np.int64), every)
    found = prequential(clicks, GAP_MS, updates, markov) if len(updates) else ()
    return [
        (int(position), int(rank))
        for stretch in found
        for position, rank in zip(stretch.positions, stretch.ranks["Markov"], strict=True)
        if position < before
    ]


CLICKS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 7), st.integers(0, 4)), min_size=8, max_size=30
)


@settings(max_examples=30, deadline=None)
@given(
    past=CLICKS,
    future=CLICKS,
    other=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 12), st.integers(0, 4))),
    every=st.sampled_from([Every(clicks=3), Every(clicks=7), Every(ms=5_000), Every(ms=20_000)]),
)
def test_other_clicks_after_a_position_change_no_prediction_before_it(
    past: list[Any], future: list[Any], other: list[Any], every: Every
) -> None:
    as_it_was = predictions(frame(past + future), every, len(past))
    assert predictions(frame(past + other), every, len(past)) == as_it_was


def test_a_click_is_predicted_from_its_session_and_from_nothing_that_it_taught() -> None:
    """Two users walk alike: the second is predicted right after an update, and the first never."""
    walk = [(0, item, 1) for item in range(6)] + [(1, item, 1) for item in range(6)]
    (whole,) = prequential(frame(walk), GAP_MS, np.array([6]), markov)
    assert whole.positions.tolist() == [7, 8, 9, 10, 11]
    assert whole.ranks["Markov"].tolist() == [1, 1, 1, 1, 1]
    early, late = prequential(frame(walk), GAP_MS, np.array([3, 9]), markov)
    assert early.positions.tolist() == [3, 4, 5, 7, 8]
    # Items 3, 4, 5 are not in the catalogue before position 9.
    assert early.ranks["Markov"].tolist() == [MISS, MISS, MISS, 1, 1]
    assert late.positions.tolist() == [9, 10, 11]
    assert late.ranks["Markov"].tolist() == [1, 1, 1]


def test_updates_come_after_so_many_clicks_or_so_much_event_time() -> None:
    seconds = np.array([0, 10, 5, 30, 31, 200, 201])
    assert update_positions(seconds * 1000, Every(clicks=3)).tolist() == [3, 6]
    # 30 s after 0, then the first click 30 s after that; a late time turns no clock back.
    assert update_positions(seconds * 1000, parse_every("30s")).tolist() == [3, 5]
    assert update_positions(seconds * 1000, parse_every("1h")).tolist() == []
    assert parse_every("2d") == Every(ms=2 * 86_400_000)
    assert parse_every("500") == Every(clicks=500)
    for wrong in ("0", "1.5h", "-3", "h", "3w"):
        with pytest.raises(ConfigurationError, match="--every"):
            parse_every(wrong)


def ring(clicks: int, seed: int = 0) -> pd.DataFrame:
    """Forty users walk round a ring of twelve items, and sometimes jump."""
    rng = np.random.default_rng(seed)
    at = rng.integers(0, 12, 40)
    rows = []
    for user in rng.integers(0, 40, clicks).tolist():
        at[user] = rng.integers(0, 12) if rng.random() < 0.1 else (at[user] + 1) % 12
        rows.append((user, int(at[user]), 1))
    return frame(rows)


def retraining(folder: Path) -> Retraining:
    return Retraining(Registry(str(folder)), TINY, FitLimits(0), 10**9, CPU, 2_000, 0, {}, {})


def test_models_are_retrained_as_by_the_trainer_and_served_if_the_gate_agrees(
    tmp_path: Path,
) -> None:
    clicks, update = ring(800), retraining(tmp_path)
    first, second = prequential(clicks, 10**9, np.array([400, 600]), update)
    assert set(first.ranks) == {"BST default", "V-SkNN"}
    assert (first.ranks["BST default"] <= 3).mean() > 0.5
    published = [outcome.version for outcome in update.outcomes]
    assert None not in published
    served = Registry(str(tmp_path)).load(str(published[1]))
    assert served.parent == published[0]
    assert served.training["warm_start"]
    # Other clicks after the second update change nothing before them.
    changed = pd.concat([clicks[:600], ring(200, seed=9)], ignore_index=True)
    again = next(prequential(changed, 10**9, np.array([400, 600]), retraining(tmp_path / "again")))
    for name, ranks in first.ranks.items():
        np.testing.assert_array_equal(again.ranks[name], ranks)
    assert len(second.positions) > 0


def shifted_ring(clicks: int, changes_at: int) -> pd.DataFrame:
    """A ring in which ever new users step by five from a position on, and one item is new."""
    whole = ring(clicks)
    turned = ring(clicks, seed=1).iloc[changes_at:]
    items = (5 * turned["item_id"].str[1:].astype(int) % 12).replace(0, 12)  # i12 is new
    whole.loc[turned.index, "item_id"] = "i" + items.astype(str)
    visit = (turned.index // 100).astype(str)
    whole.loc[turned.index, "user_id"] = "visit-" + visit + turned["user_id"]
    return whole


def test_deltas_learn_between_two_retrainings(tmp_path: Path) -> None:
    clicks, update = shifted_ring(1_200, 500), retraining(tmp_path)
    deltas = Deltas(50, "with deltas", update.learn)
    (stretch,) = prequential(clicks, 10**9, np.array([500]), update, deltas)
    without, learned = stretch.ranks["BST default"], stretch.ranks["with deltas"]
    early, late = stretch.positions < 550, stretch.positions >= 900
    # Nothing is learned from before the first click, and it is the model of the retraining.
    np.testing.assert_array_equal(learned[early], without[early])
    assert (learned[late] <= 3).mean() > (without[late] <= 3).mean() + 0.3
    ranked_new = clicks["item_id"].to_numpy()[stretch.positions] == "i12"
    assert (without[ranked_new] == MISS).all()
    assert (learned[ranked_new & late] != MISS).all()


def test_deltas_learn_from_no_click_that_they_predict(tmp_path: Path) -> None:
    clicks = shifted_ring(700, 500)
    ranks = []
    for name, other in (("a", clicks.iloc[650:]), ("b", ring(50, seed=9))):
        update = retraining(tmp_path / name)
        frame_of = pd.concat([clicks.iloc[:650], other], ignore_index=True)
        deltas = Deltas(30, "with deltas", update.learn)
        (stretch,) = prequential(frame_of, 10**9, np.array([500]), update, deltas)
        ranks.append(stretch.ranks["with deltas"][stretch.positions < 650])
    np.testing.assert_array_equal(*ranks)


def test_the_report_has_what_deltas_gave(report: StreamReport, tmp_path: Path) -> None:
    ranks = {"BST": np.array([3, 4, 4]), "V-SkNN": np.array([2, 2, 2]), "with": np.array([1, 2, 2])}
    stretch = Stretch(100, np.arange(100, 103), np.arange(3), ranks)
    found = summarise(
        [stretch],
        [Outcome("v1", "good", 2.0)],
        1_700_000_000_000 + 1000 * np.arange(103),
        data="log",
        every="50 clicks",
        problems=[],
        environment={},
        deltas=20,
    )
    assert found.by_deltas["mrr@20"].other == "BST"
    assert found.by_deltas["mrr@20"].difference == pytest.approx((2 / 3 + 1 / 4 + 1 / 4) / 3)
    console = Console(file=io.StringIO(), width=200)
    show(found, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "deltas every 20 clicks" in shown
    assert "+38.89" in shown
    assert (report.deltas, report.by_deltas) == (0, {})


@pytest.fixture
def report() -> StreamReport:
    """Three windows: no model yet, one with hits of the model, one with hits of both."""
    users = np.arange(40) % 10
    ranks = {"BST default": np.repeat([1, MISS], 20), "V-SkNN": np.repeat([2, MISS], [10, 30])}
    better = {name: np.where(found == MISS, 4, found) for name, found in ranks.items()}
    positions = np.arange(40)
    stretches = [
        Stretch(100, positions + 100, users, {}),
        Stretch(150, positions + 150, users, ranks),
        Stretch(200, positions + 200, users, better),
    ]
    outcomes = [
        Outcome(None, "too few", 1.0),
        Outcome("v1", "good", 2.0),
        Outcome(None, "worse", 3.0),
    ]
    times = 1_700_000_000_000 + 1000 * np.arange(240)
    return summarise(
        stretches, outcomes, times, data="log", every="50 clicks", problems=["odd"], environment={}
    )


def test_the_report_counts_what_was_predicted_by_a_model(report: StreamReport) -> None:
    empty, first, second = report.windows
    assert (empty.metrics, empty.published) == ({}, False)
    assert first.metrics["BST default"] == {"hr@20": 0.5, "mrr@20": 0.5}
    assert second.metrics["V-SkNN"]["hr@20"] == 1.0
    assert report.cases == 80
    total = report.totals["V-SkNN"]["hr@20"]
    assert total.mean == pytest.approx(50 / 80)
    assert total.low <= total.mean <= total.high
    versus = report.versus["hr@20"]
    assert versus.difference == pytest.approx(10 / 80)
    assert versus.low <= versus.difference <= versus.high
    assert StreamReport.model_validate_json(report.model_dump_json()) == report


def test_the_report_is_shown_and_drawn(report: StreamReport, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    show(report, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in ("62.50", "+12.50", "refused at click 200: worse", "odd", "2023-11-14 22:15"):
        assert expected in shown
    plot(report, tmp_path / "stream.png")
    assert (tmp_path / "stream.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_model_the_report_says_why(report: StreamReport) -> None:
    windows = report.windows[:1]
    nothing = report.model_copy(update={"windows": windows, "totals": {}, "versus": {}})
    console = Console(file=io.StringIO(), width=200)
    show(nothing, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "nothing was predicted" in shown
    assert "refused at click 100: too few" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missions", "--stream"], "order"),
        (["clicks.csv", "--stream", "--every", "often"], "--every often"),
        (["clicks.csv", "--stream", "--every", "1d"], "too long"),
        (["clicks.csv", "--stream", "--html", "x.html"], "--stream goes without"),
        (["clicks.csv", "--stream", "--plot", "nowhere/x.png"], "nowhere"),
        (["clicks.csv", "--stream", "--preset", "source_table"], "test data"),
        (["clicks.csv", "--every", "100"], "go with --stream"),
        (["clicks.csv", "--deltas", "100"], "go with --stream"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ring(30).to_csv(tmp_path / "clicks.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["nextclick", "evaluate", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
