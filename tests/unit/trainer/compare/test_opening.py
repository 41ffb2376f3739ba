"""Event logs and frames as benchmarks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from nextclick.shared.errors import ConfigurationError
from nextclick.trainer.collect import EventLog
from nextclick.trainer.compare.benchmark import judgeable_log, open_event_log
from nextclick.trainer.data import click_log, weighted

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


@pytest.mark.parametrize(("n", "why"), [(0, "to learn from"), (1, "to learn from"), (3, "test")])
def test_too_few_clicks_are_refused(n: int, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"the file: .*{why}"):
        judgeable_log(clicks(users=1)[:n], 0, "the file")
