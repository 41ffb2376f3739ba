"""An event log of the format before Delta Lake is taken over."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nextclick.shared.errors import ConfigurationError
from nextclick.trainer.collect import EventLog
from nextclick.trainer.collect.upgrade import upgrade

COLUMNS = ("event_id", "user_id", "item_id", "timestamp", "event_type", "arrival")


def former(folder: Path, name: str, arrivals: dict[str, int], topic_id: str = "a") -> None:
    """A file as former versions wrote it. arrivals: event id → arrival."""
    rows = [(event, "u", "i", when, "click", when) for event, when in arrivals.items()]
    columns = zip(*rows, strict=True) if rows else [()] * 6
    table = pa.table(dict(zip(COLUMNS, map(list, columns), strict=True)))
    metadata = {b"nextclick.topic_id": topic_id.encode()} if topic_id else {}
    pq.write_table(table.replace_schema_metadata(metadata), folder / f"clicks-{name}.parquet")


def offsets(partition: int, first: int, last: int, generation: int = 0) -> str:
    of_generation = f"g{generation:04d}-" if generation else ""
    return f"{of_generation}p{partition:05d}-{first:018d}-{last:018d}"


def test_clicks_offsets_and_order_are_taken_over(tmp_path: Path) -> None:
    former(tmp_path, f"import-{0:018d}", {"i1": 1, "i2": 2})
    former(tmp_path, offsets(0, 0, 9), {"a": 5, "b": 4, "c": 6})
    former(tmp_path, offsets(0, 0, 4), {"a": 5, "b": 4})  # merged, and not yet removed
    former(tmp_path, offsets(0, 10, 12), {"d": 3})
    former(tmp_path, offsets(1, 7, 7), {"e": 7})
    former(tmp_path, offsets(0, 0, 1, generation=1), {"f": 8}, topic_id="b")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert upgrade(str(tmp_path)) == 8
    log = EventLog(str(tmp_path))
    assert log.read()["event_id"].tolist() == ["i1", "i2", "a", "b", "c", "d", "e", "f"]
    log.topic_id = "a"
    assert log.next_offsets([0, 1, 2]) == {0: 13, 1: 8}
    log.topic_id = "b"
    assert log.next_offsets([0, 1, 2]) == {0: 2}
    assert set(before) < {path.name for path in tmp_path.iterdir()}, "the files stay"


def test_it_is_taken_over_once(tmp_path: Path) -> None:
    former(tmp_path, offsets(0, 0, 1), {"a": 1, "b": 2})
    assert [upgrade(str(tmp_path)), upgrade(str(tmp_path))] == [2, 0]
    assert EventLog(str(tmp_path)).count() == 2


def test_the_oldest_files_are_read_as_clicks(tmp_path: Path) -> None:
    table = pa.table({"event_id": ["a"], "user_id": ["u"], "item_id": ["i"], "timestamp": [3]})
    pq.write_table(table, tmp_path / f"clicks-{offsets(0, 0, 0)}.parquet")
    upgrade(str(tmp_path))
    (row,) = EventLog(str(tmp_path)).read().to_dict("records")
    assert (row["event_type"], row["arrival"]) == ("click", 3)


def test_what_is_no_former_log_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing to upgrade"):
        upgrade(str(tmp_path / "empty"))
    (tmp_path / f"clicks-{offsets(0, 0, 0)}.parquet").write_text("no parquet")
    with pytest.raises(ConfigurationError, match="cannot be read as Parquet"):
        upgrade(str(tmp_path))
