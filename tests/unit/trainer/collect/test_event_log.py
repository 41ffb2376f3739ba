from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.trainer.collect import EventLog, Row
from nextclick.trainer.collect.event_log_files import name_of


def rows(*ids: int) -> list[Row]:
    return [Row(f"e{i}", f"u{i % 2}", f"i{i}", i, "click", i) for i in ids]


def frame_of(*ids: int) -> pd.DataFrame:
    """Clicks to import; an import says neither type nor arrival."""
    return pd.DataFrame(rows(*ids), columns=Row._fields)[list(Row._fields[:4])]


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
    """Whatever the clocks of producers say."""
    log.append(0, 5, 9, rows(1, 4))
    log.append(0, 0, 4, rows(3, 2))
    log.append(1, 0, 1, rows(5))
    assert ids(log.read()) == ["e3", "e2", "e1", "e4", "e5"]
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
    log.import_clicks(frame_of(1, 2))
    log.import_clicks(frame_of(3))
    assert ids(log.read()) == ["e1", "e2", "e3", "e9"]
    assert log.next_offset(0) == 1


def test_the_newest_clicks_are_those_that_arrived_last(log: EventLog) -> None:
    """What a producer says about the time does not count: the year 9999 is not the newest."""
    late = [row._replace(timestamp=253_402_300_000_000) for row in rows(1, 2)]
    log.append(0, 0, 3, [*late, *rows(8, 9)])
    log.append(1, 0, 1, rows(3, 7))
    assert ids(log.read(newest=3)) == ["e7", "e8", "e9"]
    assert len(log.read(newest=100)) == 6


def test_partitions_are_merged_by_arrival_whatever_was_written_first(log: EventLog) -> None:
    log.append(1, 0, 2, rows(2, 4, 6))
    log.append(0, 0, 2, rows(1, 3, 5))
    assert ids(log.read()) == ["e1", "e2", "e3", "e4", "e5", "e6"]


def test_the_order_of_imports_does_not_matter(tmp_path: Path) -> None:
    october, november = frame_of(1, 2, 3), frame_of(4, 5, 6)
    november.loc[0, "timestamp"] = 3  # at the same time as the last one of october
    read = []
    for name, frames in (("a", (october, november)), ("b", (november, october))):
        log = EventLog(str(tmp_path / name))
        for frame in frames:
            log.import_clicks(frame)
        read.append(log.read())
    pd.testing.assert_frame_equal(*read)


def test_imports_at_once_keep_each_other(log: EventLog) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda i: log.import_clicks(frame_of(i)), range(40)))
    assert ids(log.read()) == [f"e{i}" for i in range(40)]


def test_a_log_of_an_older_version_is_read_as_clicks(log: EventLog) -> None:
    old = pa.table(frame_of(3, 1).to_dict("list"))
    pq.write_table(old, log.folder / name_of(0, 0, 0, 1))
    frame = log.read()
    assert frame["event_type"].tolist() == ["click", "click"]
    assert frame["arrival"].tolist() == [3, 3]
    log.append(0, 2, 2, rows(2, 9))
    assert ids(log.read(newest=2)) == ["e2", "e9"]


def test_an_event_id_belongs_to_its_user(log: EventLog) -> None:
    log.append(0, 0, 2, [Row("e", user, "i", 1, "click", 1) for user in ("a", "b", "a")])
    assert log.read()["user_id"].tolist() == ["a", "b"]


def test_what_a_crash_left_behind_is_removed(log: EventLog) -> None:
    (log.folder / ".clicks-p00000-x.parquet.ab.tmp").write_bytes(b"half a file")
    again = EventLog(str(log.folder))
    assert list(log.folder.iterdir()) == []
    assert again.count() == 0


def test_a_folder_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="NEXTCLICK_TRAINER__EVENT_LOG"):
        EventLog(str(tmp_path / "file" / "log"))


def test_columns_are_the_schemas_also_of_an_empty_log(log: EventLog) -> None:
    assert tuple(log.read().columns) == Row._fields
    row = Row("é", "ü", "猫", 2**53, "Ж", 7)
    log.append(0, 0, 0, [row])
    frame = log.read()
    assert frame.to_dict("records") == [row._asdict()]
    assert frame["timestamp"].dtype == "int64"


def test_partitions_and_offsets_are_ordered_as_numbers(log: EventLog) -> None:
    for i, (partition, offset) in enumerate([(10, 0), (2, 100), (2, 99), (2, 1000), (2, 9)]):
        log.append(partition, offset, offset, rows(i))
    of_two = [name for name in ids(log.read()) if name != "e0"]
    assert of_two == ["e4", "e2", "e1", "e3"]
    assert log.next_offset(2) == 1001
    assert log.next_offset(1) is None


def test_the_next_offset_is_after_the_newest_file_whatever_was_written_last(log: EventLog) -> None:
    for first, last in ((5, 9), (0, 4), (20, 29), (10, 19)):
        log.append(0, first, last, rows(first))
    assert log.next_offset(0) == 30


def test_a_log_is_the_same_after_reopening(log: EventLog) -> None:
    log.append(0, 0, 1, rows(1, 2))
    again = EventLog(str(log.folder))
    assert ids(again.read()) == ["e1", "e2"]
    assert again.next_offset(0) == 2


def test_the_same_event_in_two_partitions_or_imported_counts_once(log: EventLog) -> None:
    log.import_clicks(frame_of(1, 2))
    log.append(0, 0, 1, rows(2, 3))
    log.append(1, 0, 1, rows(3, 4))
    assert ids(log.read()) == ["e1", "e2", "e3", "e4"]


def test_exactly_so_many_newest_are_read_also_when_times_tie(log: EventLog) -> None:
    log.append(0, 0, 5, [Row(f"e{i}", "u", "i", 7, "click", 7) for i in range(6)])
    for newest in (0, 1, 5, 6, 7):
        assert len(log.read(newest=newest)) == min(newest, 6)


def test_a_folder_that_goes_away_is_waited_for_and_leaves_no_debris(log: EventLog) -> None:
    away = log.folder.rename(log.folder.parent / "away")
    assert (log.next_offset(0), log.count()) == (None, 0)
    with pytest.raises(Unavailable, match="NEXTCLICK_TRAINER__EVENT_LOG"):
        log.append(0, 0, 0, rows(1))
    away.rename(log.folder)
    log.append(0, 0, 0, rows(1))
    assert ids(log.read()) == ["e1"]


def test_a_write_that_dies_before_its_rename_adds_nothing(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    log.append(0, 0, 0, rows(1))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        with pytest.raises(Unavailable, match="No space left"):
            log.append(0, 1, 1, rows(2))
    assert len(list(log.folder.iterdir())) == 1
    assert log.next_offset(0) == 1


def test_other_files_in_the_folder_are_left_alone(log: EventLog) -> None:
    (log.folder / "notes.txt").write_text("mine")
    EventLog(str(log.folder)).append(0, 0, 0, rows(1))
    assert (log.folder / "notes.txt").read_text() == "mine"
    assert log.count() == 1


def test_two_that_open_a_log_at_once_do_not_mind_each_other(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes the other's probe, and the leftovers, for its own to remove."""
    (log.folder / ".clicks.ab.tmp").touch()
    unlink = Path.unlink

    def the_other_was_faster(path: Path, missing_ok: bool = False) -> None:
        unlink(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", the_other_was_faster)
    EventLog(str(log.folder))
    assert list(log.folder.iterdir()) == []


def spoil(path: Path) -> None:
    """The footer stays; whoever reads the rows fails."""
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)


def test_files_that_are_too_old_are_not_opened(log: EventLog) -> None:
    for start in range(0, 1000, 100):
        log.append(start // 100 % 2, start, start + 99, rows(*range(start, start + 100)))
    oldest = sorted(log.folder.iterdir(), key=lambda path: path.name[13:])[:7]
    for path in oldest:
        spoil(path)
    assert sorted(ids(log.read(newest=300))) == [f"e{i}" for i in range(700, 1000)]
    with pytest.raises(ConfigurationError, match="cannot be read as Parquet"):
        log.read()


def test_duplicates_send_the_window_further_back(log: EventLog) -> None:
    log.append(0, 0, 99, rows(*range(100)))
    for first in range(100, 1000, 100):
        log.append(0, first, first + 99, rows(*[99] * 100))
    assert ids(log.read(newest=5)) == [f"e{i}" for i in range(95, 100)]


written = st.lists(
    st.tuples(
        st.integers(0, 2),  # partition
        st.lists(st.integers(0, 60), max_size=8),  # events: their ids and their times
    ),
    max_size=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(written=written, newest=st.integers(0, 40), compacted=st.booleans())
def test_the_newest_of_any_log_are_those_of_the_whole_log(
    tmp_path: Path, written: list[tuple[int, list[int]]], newest: int, compacted: bool
) -> None:
    log = EventLog(str(tmp_path / uuid.uuid4().hex))
    for number, (partition, events) in enumerate(written):
        log.append(partition, 10 * number, 10 * number + 9, rows(*events))
    whole = log.read()
    kept = whole.tail(newest)
    if compacted:
        log.compact()
    assert ids(log.read(newest=newest)) == ids(kept)
    assert ids(log.read()) == ids(whole)


def test_many_files_come_in_their_order(log: EventLog) -> None:
    for i in range(300):
        log.append(0, i, i, rows(i))
    assert ids(log.read()) == [f"e{i}" for i in range(300)]
    assert ids(log.read(newest=250)) == [f"e{i}" for i in range(50, 300)]


def test_an_import_never_takes_the_place_of_another(log: EventLog) -> None:
    for number in (1, 2):
        log.import_clicks(frame_of(number))
    (log.folder / "clicks-import-000000000000000000.parquet").unlink()  # the oldest, by hand
    log.import_clicks(frame_of(3))
    assert ids(log.read()) == ["e2", "e3"]


def test_offsets_of_a_topic_that_was_made_anew_are_not_those_of_the_former(log: EventLog) -> None:
    log.use_topic("a")
    log.append(0, 0, 2, rows(1, 2, 3))
    log.use_topic("b")
    assert log.next_offset(0) is None
    log.append(0, 0, 1, rows(4, 5))
    assert log.next_offset(0) == 2
    assert ids(log.read()) == ["e1", "e2", "e3", "e4", "e5"]
    again = EventLog(str(log.folder))
    again.use_topic("a")
    assert again.next_offset(0) == 3
    again.use_topic("b")
    assert again.next_offset(0) == 2


def test_files_that_name_no_topic_are_taken_for_its(log: EventLog) -> None:
    log.append(0, 0, 2, rows(1, 2, 3))  # as they were written before topics had ids
    log.use_topic("a")
    assert log.next_offset(0) == 3
    log.append(0, 3, 3, rows(4))
    log.use_topic("b")
    assert log.next_offset(0) is None


def test_without_ids_reading_goes_on_after_the_newest(log: EventLog) -> None:
    log.use_topic("a")
    log.append(0, 0, 2, rows(1, 2, 3))
    log.use_topic("")
    assert log.next_offset(0) == 3
