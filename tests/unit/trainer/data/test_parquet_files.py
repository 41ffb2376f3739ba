from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.event_types import weights_of
from nextclick.trainer.collect import EventLog
from nextclick.trainer.compare.benchmark import open_benchmark, open_event_log
from nextclick.trainer.data import Split, click_log, weighted
from nextclick.trainer.data.parquet_files import read_clicks

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
    expected = click_log(weighted(frame, weights_of({"purchase": 5})), HOUR)
    assert log.items.tolist() == expected.items.tolist()
    assert log.split.tolist() == expected.split.tolist()
    assert log.starts.tolist() == expected.starts.tolist()
    assert log.weights is not None
    assert expected.weights is not None
    assert log.weights.tolist() == expected.weights.tolist()
    assert sorted(tmp_path.rglob("*")) == before


def test_one_file_or_a_folder_of_any_names_will_do(tmp_path: Path) -> None:
    frame = clicks()
    frame[:25].to_parquet(tmp_path / "a.parquet")
    frame[25:].drop(columns="event_id").to_parquet(tmp_path / "b.parquet")
    whole, _ = read_clicks(tmp_path, 0)
    assert whole.items.tolist() == click_log(frame, 0).items.tolist()
    assert len(read_clicks(tmp_path / "a.parquet", 0)[0].items) == 25


def test_integers_and_dates_are_taken(tmp_path: Path) -> None:
    frame = clicks()
    frame["item_id"] = range(40)
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], unit="ms", utc=True)
    frame.to_parquet(tmp_path / "x.parquet")
    log, problems = read_clicks(tmp_path / "x.parquet", 0)
    assert set(log.item_ids) == {str(i) for i in range(40)}
    assert (log.first_timestamp, log.last_timestamp, problems) == (0, 39_000, [])


def test_flaws_are_counted_with_their_rows_and_test_clicks_stay(tmp_path: Path) -> None:
    frame = clicks(users=1)
    frame.loc[39, "item_id"] = None  # the newest click: a test case
    frame.loc[38, "item_id"] = "x" * 129  # another
    frame.loc[3, "item_id"] = "a\tb"
    frame.loc[5, "user_id"] = None
    frame.loc[6, "event_id"] = "e2"
    frame["timestamp"] = frame["timestamp"].astype("Int64")
    frame.loc[7, "timestamp"] = None
    frame.loc[8, "timestamp"] = -1
    frame.to_parquet(tmp_path / "x.parquet")
    benchmark = open_benchmark(tmp_path / "x.parquet", 0)
    assert {p.what: (p.count, p.first) for p in benchmark.problems} == {
        "click without user_id": (1, [6]),
        "click without a time": (2, [8, 9]),
        "empty item id": (1, [40]),
        "item id of more than 128 characters": (1, [39]),
        "item id with a control character": (1, [4]),
        "duplicate event_id": (1, []),
    }
    log = benchmark.log
    assert len(log.items) == 40 - 5
    assert (log.split == Split.TEST).sum() == 3
    assert benchmark.cases.targets[-2:].tolist() == [0, 0]
    assert benchmark.cases.targets[:-2].all()
    assert "" not in benchmark.vocabulary.item_ids


def test_what_is_no_log_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(ConfigurationError, match="cannot be read as Parquet"):
        read_clicks(tmp_path / "text.parquet", 0)
    clicks().drop(columns=["item_id", "timestamp"]).to_parquet(tmp_path / "less.parquet")
    with pytest.raises(ConfigurationError, match="no column item_id, timestamp"):
        read_clicks(tmp_path / "less.parquet", 0)
    clicks().astype({"timestamp": float}).to_parquet(tmp_path / "float.parquet")
    with pytest.raises(ConfigurationError, match="timestamp is double"):
        read_clicks(tmp_path / "float.parquet", 0)
    pq.write_table(
        pa.table({"user_id": ["a"], "item_id": [[1]], "timestamp": [1]}), tmp_path / "list.parquet"
    )
    with pytest.raises(ConfigurationError, match="item_id is list"):
        read_clicks(tmp_path / "list.parquet", 0)


@pytest.mark.parametrize(("n", "why"), [(0, "to learn from"), (1, "to learn from"), (3, "test")])
def test_too_few_clicks_are_refused(tmp_path: Path, n: int, why: str) -> None:
    clicks(users=1)[:n].to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ConfigurationError, match=why):
        read_clicks(tmp_path / "x.parquet", 0)


def test_a_path_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        open_benchmark(tmp_path / "nowhere", 0)
    with pytest.raises(ConfigurationError, match="neither"):
        open_benchmark(tmp_path, 0)
