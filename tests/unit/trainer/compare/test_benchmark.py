from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nextclick.services.evaluate.worlds import WORLDS
from nextclick.trainer.compare.benchmark import Benchmark
from nextclick.trainer.compare.ceiling import Ceiling
from nextclick.trainer.data import Split, click_log
from nextclick.trainer.data.session_files import read_sessions
from nextclick.trainer.evaluate import evaluate


@pytest.fixture
def sessions(tmp_path: Path) -> Benchmark:
    (tmp_path / "train_sessions.txt").write_text("a b\nb c\n" * 10)
    (tmp_path / "test_sessions.txt").write_text("a b a\nnew a\nc " + "b " * 11 + "new\n")
    return Benchmark("three", *read_sessions(tmp_path))


def test_the_facts_of_a_data_set(sessions: Benchmark) -> None:
    facts = sessions.facts()
    assert facts["training sessions"] == 20
    assert facts["training clicks"] == 40
    assert facts["items"] == 3
    assert facts["test sessions"] == 3
    assert facts["test cases"] == 2 + 1 + 12
    assert facts["cold targets"] == pytest.approx(1 / 15)
    assert facts["targets seen earlier in the session"] == pytest.approx((1 + 10) / 15)
    assert facts["histories longer than 10"] == pytest.approx(2 / 15)
    assert facts["histories without a known item"] == pytest.approx(1 / 15)
    assert "first click" not in facts  # the files hold no times


def test_times_are_told_where_they_are_known() -> None:
    frame = pd.DataFrame({"user_id": ["a"] * 20, "item_id": ["x", "y"] * 10})
    frame["timestamp"] = 86_400_000 * np.arange(20)
    facts = Benchmark("days", click_log(frame, 0)).facts()
    assert (facts["first click"], facts["last click"]) == ("1970-01-01", "1970-01-20")


def test_methods_never_get_a_click_of_the_test(sessions: Benchmark) -> None:
    assert (sessions.learnable.split != Split.TEST).all()
    assert len(sessions.learnable.items) == 40
    assert sessions.vocabulary.item_ids == ["a", "b", "c"]
    assert sessions.popularity.tolist() == [10, 20, 10]


def test_cases_know_their_session_and_place(sessions: Benchmark) -> None:
    assert len(np.unique(sessions.sessions)) == 3
    assert sessions.clicks_before.tolist() == [1, 2, 1, *range(1, 13)]


def test_keeping_some_clicks_keeps_sessions_apart() -> None:
    frame = pd.DataFrame(
        {"user_id": list("aaaaabbb"), "item_id": list("stuvwxyz"), "timestamp": range(8)}
    )
    log = click_log(frame, gap_ms=0)
    kept = log.keep(np.array([0, 1, 1, 0, 1, 0, 1, 1], bool))
    assert [kept.item_ids[i] for i in kept.items] == list("tuwyz")
    assert kept.starts.tolist() == [0, 0, 0, 3, 3]
    assert kept.order is not None
    assert kept.order.tolist() == [1, 2, 4, 6, 7]
    assert len(log.keep(np.zeros(8, bool)).starts) == 0


@pytest.mark.parametrize(
    ("name", "cases", "hits"), [("source", 4191, 0.43), ("missions", 15604, 0.88)]
)
def test_a_world_has_an_oracle(name: str, cases: int, hits: float) -> None:
    benchmark = WORLDS[name]()
    assert (benchmark.name, benchmark.facts()["test cases"]) == (name, cases)
    assert benchmark.oracle is not None
    some = benchmark.cases.take(np.arange(0, cases, 4))
    ceiling = Ceiling(benchmark.oracle)
    ceiling.fit(benchmark.learnable, benchmark.vocabulary, seed=0)
    assert evaluate(ceiling.score, benchmark.popularity, some).metrics()["hr@10"] > hits
    scores = benchmark.oracle(some, benchmark.vocabulary)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1.0)


def test_histories_run_on_where_missions_have_no_gap() -> None:
    ends, runs_on = WORLDS["missions"](), WORLDS["missions-nogap"]()
    np.testing.assert_array_equal(ends.popularity.sum(), runs_on.popularity.sum())
    assert ends.facts()["histories longer than 10"] == 0.0
    assert runs_on.facts()["histories longer than 10"] == 1.0
