from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from shared.errors import ConfigurationError
from trainer.event_log import EventLog, Row


def rows(*ids: int) -> list[Row]:
    return [(f"e{i}", f"u{i % 2}", f"i{i}", i) for i in ids]


def ids(frame: pd.DataFrame) -> list[str]:
    return [str(event_id) for event_id in frame["event_id"]]


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(str(tmp_path / "log"))


def test_an_empty_log_is_empty(log: EventLog) -> None:
    assert log.count() == 0
    assert len(log.read()) == 0
    assert log.next_offset(0) is None


def test_a_partition_is_read_in_the_order_of_its_offsets(log: EventLog) -> None:
    log.append(0, 5, 9, rows(3, 4))
    log.append(0, 0, 4, rows(1, 2))
    log.append(1, 0, 1, rows(5))
    assert ids(log.read()) == ["e1", "e2", "e3", "e4", "e5"]
    assert log.count() == 5
    assert (log.next_offset(0), log.next_offset(1), log.next_offset(2)) == (10, 2, None)


def test_a_range_without_a_valid_click_moves_on_all_the_same(log: EventLog) -> None:
    log.append(0, 0, 7, [])
    assert log.next_offset(0) == 8
    assert log.count() == 0


def test_writing_a_range_again_does_not_double_it(log: EventLog) -> None:
    log.append(0, 0, 1, rows(1, 2))
    log.append(0, 0, 1, rows(1, 2))
    assert ids(log.read()) == ["e1", "e2"]


def test_an_event_that_the_shop_sent_twice_counts_once(log: EventLog) -> None:
    log.append(0, 0, 2, rows(1, 2, 1))
    assert ids(log.read()) == ["e1", "e2"]


def test_an_imported_past_comes_first(log: EventLog) -> None:
    log.append(0, 0, 0, rows(9))
    columns = ["event_id", "user_id", "item_id", "timestamp"]
    log.import_clicks(pd.DataFrame(rows(1, 2), columns=columns))
    log.import_clicks(pd.DataFrame(rows(3), columns=columns))
    assert ids(log.read()) == ["e1", "e2", "e3", "e9"]
    assert log.next_offset(0) == 1


def test_the_newest_clicks_are_those_with_the_newest_times(log: EventLog) -> None:
    log.append(0, 0, 3, rows(1, 8, 2, 9))
    log.append(1, 0, 1, rows(7, 3))
    assert ids(log.read(newest=3)) == ["e8", "e9", "e7"]
    assert len(log.read(newest=100)) == 6


def test_what_a_crash_left_behind_is_removed(log: EventLog) -> None:
    (log.folder / ".clicks-p00000-x.parquet.ab.tmp").write_bytes(b"half a file")
    again = EventLog(str(log.folder))
    assert list(log.folder.iterdir()) == []
    assert again.count() == 0


def test_a_folder_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="NEXTCLICK_TRAINER__EVENT_LOG"):
        EventLog(str(tmp_path / "file" / "log"))
