"""Event logs and frames as benchmarks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from nextclick.services.evaluate.evaluation import open_data
from nextclick.services.replay.log import ReadOptions
from nextclick.shared.errors import ConfigurationError
from nextclick.trainer.collect import EventLog
from nextclick.trainer.compare.benchmark import judgeable_log, open_event_log
from nextclick.trainer.data import bound_contributions, click_log, weighted

HOUR = 3_600_000


def clicks(n: int = 40, users: int = 2) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "event_id": [f"e{i}" for i in range(n)],
            "user_id": [f"u{i % users}" for i in range(n)],
            "item_id": [f"i{i % 7}" for i in range(n)],
            "timestamp": [1000 * i for i in range(n)],
        }
    )


def test_an_event_log_is_read_in_order_of_arrival_and_weighed_as_the_trainer_does(
    tmp_path: Path,
) -> None:
    frame = clicks().assign(event_type=["click", "purchase", "impression", "click"] * 10)
    EventLog(str(tmp_path)).import_clicks(frame[20:])
    EventLog(str(tmp_path)).import_clicks(frame[:20])
    before = sorted(tmp_path.rglob("*"))
    log = open_event_log(str(tmp_path), HOUR, {"purchase": 5}).log
    expected = click_log(weighted(frame, {"purchase": 5}), HOUR)
    assert log.items.tolist() == expected.items.tolist()
    assert log.split.tolist() == expected.split.tolist()
    assert log.starts.tolist() == expected.starts.tolist()
    assert log.weights is not None
    assert expected.weights is not None
    assert log.weights.tolist() == expected.weights.tolist()
    assert sorted(tmp_path.rglob("*")) == before


def test_the_clicks_of_bots_do_not_count_where_they_do_not_in_a_retraining(tmp_path: Path) -> None:
    """By themselves in an event log, in files if asked; what is missing is a problem."""
    bot = clicks(1000, users=1).assign(user_id="bot", timestamp=[120 * i for i in range(1000)])
    bot["event_id"] = "b" + bot["event_id"]
    frame = pd.concat([clicks(users=10), bot]).sort_values("timestamp", kind="stable")
    frame["timestamp"] += 1_700_000_040_000
    log, file = tmp_path / "log", tmp_path / "clicks.csv"
    EventLog(str(log)).import_clicks(frame)
    frame.to_csv(file, index=False)
    kept, expected = bound_contributions(frame.reset_index(drop=True), 60)
    assert (expected.rate, expected.share, len(kept)) == (880, 70, 90)
    for data in (log, file):
        for bound_users in (None, True, False):
            benchmark = open_data(
                str(data), HOUR, ReadOptions(), bound_users=bound_users, max_per_minute=60
            )
            bounded = bound_users or (bound_users is None and data == log)
            assert len(benchmark.log.items) == (90 if bounded else 1040)
            found = {problem.what: problem.count for problem in benchmark.problems}
            assert found == (
                {
                    "click beyond 60 of one user in a minute": 880,
                    "click beyond the newest 50 of one user": 70,
                }
                if bounded
                else {}
            )
    with pytest.raises(ConfigurationError, match="--bound-users goes with"):
        open_data("source", HOUR, ReadOptions(), bound_users=True)


@pytest.mark.parametrize(("n", "why"), [(0, "to learn from"), (1, "to learn from"), (3, "test")])
def test_too_few_clicks_are_refused(n: int, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"the file: .*{why}"):
        judgeable_log(clicks(users=1)[:n], 0, "the file")
