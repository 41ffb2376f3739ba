"""The event log as a Delta table: what it promises to collectors, imports and readers."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.trainer.collect import EventLog, Row, click_table, event_log
from nextclick.trainer.collect.click_table import SCHEMA
from nextclick.trainer.collect.event_log import COLUMNS

DAY_MS = 86_400_000


def rows(*ids: int) -> list[Row]:
    return [Row(f"e{i}", f"u{i % 2}", f"i{i}", i, "click", i) for i in ids]


def put(log: EventLog, partition: int, first: int, clicks: Sequence[Row], end: int = 0) -> int:
    """Append clicks of one partition, at offsets from `first` on."""
    placed = [
        row._replace(kafka_partition=partition, kafka_offset=first + n)
        for n, row in enumerate(clicks)
    ]
    return log.append(placed, {partition: end or first + len(clicks)})


def frame_of(*ids: int) -> pd.DataFrame:
    """Clicks to import; an import says neither type nor arrival."""
    return pd.DataFrame(rows(*ids), columns=Row._fields)[list(Row._fields[:4])]


def ids(frame: pd.DataFrame) -> list[str]:
    return [str(event_id) for event_id in frame["event_id"]]


def next_offset(log: EventLog, partition: int = 0) -> int | None:
    return log.next_offsets([partition]).get(partition)


def table_of(log: EventLog) -> DeltaTable:
    assert log.folder is not None
    return DeltaTable(str(log.folder))


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(str(tmp_path / "log"))


def test_an_empty_log_is_empty(log: EventLog) -> None:
    assert log.count() == 0
    assert tuple(log.read().columns) == COLUMNS
    assert len(log.read(newest=5)) == 0
    assert log.next_offsets([0, 1]) == {}


def test_all_partitions_are_appended_at_once(log: EventLog) -> None:
    clicks = [
        row._replace(kafka_partition=i % 2, kafka_offset=i) for i, row in enumerate(rows(1, 2, 3))
    ]
    assert log.append(clicks, {0: 3, 1: 7, 2: 4}) == 3
    assert ids(log.read()) == ["e1", "e2", "e3"]
    assert log.next_offsets(range(4)) == {0: 3, 1: 7, 2: 4}
    assert table_of(log).version() == 1


def test_a_partition_is_read_in_the_order_of_its_offsets(log: EventLog) -> None:
    """Whatever the clocks of producers say, and also across appends."""
    put(log, 0, 0, rows(3, 2))
    put(log, 0, 2, rows(1, 4))
    put(log, 1, 0, rows(5))
    assert ids(log.read()) == ["e3", "e2", "e1", "e4", "e5"]
    again = EventLog(str(log.folder))
    put(again, 0, 4, rows(0))
    assert ids(again.read()) == ["e3", "e2", "e1", "e4", "e0", "e5"]


def test_a_range_without_a_valid_click_moves_on_all_the_same(log: EventLog) -> None:
    assert put(log, 0, 0, [], end=8) == 0
    assert next_offset(log) == 8
    assert log.count() == 0


def test_what_is_logged_is_not_logged_again(log: EventLog) -> None:
    assert put(log, 0, 0, rows(1, 2)) == 2
    assert put(log, 0, 0, rows(1, 2)) == 0
    assert put(log, 0, 1, rows(2, 3, 4)) == 2
    assert put(log, 0, 0, rows(1)) == 0
    assert log.count() == 4
    assert next_offset(log) == 4


def test_of_two_writers_of_a_partition_the_second_sees_what_the_first_wrote(tmp_path: Path) -> None:
    """Each has opened the table before the other wrote."""
    ours, theirs = (EventLog(str(tmp_path / "log")) for _ in range(2))
    assert put(theirs, 0, 0, rows(1, 2, 3)) == 3
    assert put(ours, 0, 0, rows(1, 2, 3, 4)) == 1
    assert ours.count() == 4


def test_a_conflict_is_tried_again_with_the_offsets_of_then(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another collector writes the same partition between our look at the table and our commit."""
    other, write = EventLog(str(log.folder)), write_deltalake

    def they_were_faster(*arguments: object, **options: object) -> None:
        monkeypatch.setattr(click_table, "write_deltalake", write)
        put(other, 0, 0, rows(1, 2, 3))
        write(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(click_table, "write_deltalake", they_were_faster)
    assert put(log, 0, 0, rows(1, 2, 3, 4)) == 1
    assert ids(log.read()) == ["e1", "e2", "e3", "e4"]
    assert log.count() == 4


def test_another_partition_or_a_compaction_is_no_conflict(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, write = EventLog(str(log.folder)), write_deltalake
    for i in range(5):
        put(log, 0, i, rows(i))
    writes = []

    def they_were_faster(*arguments: object, **options: object) -> None:
        writes.append(1)
        if len(writes) == 1:
            monkeypatch.setattr(click_table, "write_deltalake", write)
            put(other, 1, 0, rows(100))
            other.maintain()
            monkeypatch.setattr(click_table, "write_deltalake", they_were_faster)
        write(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(click_table, "write_deltalake", they_were_faster)
    put(log, 0, 5, rows(5))
    assert len(writes) == 1
    assert log.count() == 7
    assert log.next_offsets([0, 1]) == {0: 6, 1: 1}


def test_many_at_once_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    """Two collectors of the same partitions, imports, and somebody who compacts all the time."""
    folder = str(tmp_path / "log")
    EventLog(folder)

    def collect(partition: int) -> int:
        ours = EventLog(folder)
        return sum(put(ours, partition, first, rows(first)) for first in range(12))

    def compact(_: int) -> int:
        for _ in range(5):
            EventLog(folder).maintain()
        return 0

    def bring_in(number: int) -> int:
        return EventLog(folder).import_clicks(frame_of(100 + number), f"file {number % 3}")

    with ThreadPoolExecutor(6) as threads:
        collected = [threads.submit(collect, p) for p in (0, 1, 0, 1)]
        others = [threads.submit(bring_in, n) for n in range(6)] + [threads.submit(compact, 0)]
        assert sum(task.result() for task in collected) == 24
        assert sum(task.result() for task in others) == 3
    log = EventLog(folder)
    assert log.count() == 27
    assert log.next_offsets([0, 1]) == {0: 12, 1: 12}
    assert len(log.read()) == 15, "an event in both partitions counts once"


def test_an_event_that_the_shop_sent_twice_counts_once(log: EventLog) -> None:
    put(log, 0, 0, rows(1, 2, 1))
    assert ids(log.read()) == ["e1", "e2"]


def test_an_event_id_belongs_to_its_user(log: EventLog) -> None:
    put(log, 0, 0, [Row("e", user, "i", 1, "click", 1) for user in ("a", "b", "a")])
    assert log.read()["user_id"].tolist() == ["a", "b"]


def test_the_same_event_in_two_partitions_or_imported_counts_once(log: EventLog) -> None:
    log.import_clicks(frame_of(1, 2))
    put(log, 0, 0, rows(2, 3))
    put(log, 1, 0, rows(3, 4))
    assert ids(log.read()) == ["e1", "e2", "e3", "e4"]


def test_an_imported_past_comes_first(log: EventLog) -> None:
    put(log, 0, 0, rows(9))
    log.import_clicks(frame_of(1, 2))
    log.import_clicks(frame_of(3))
    assert ids(log.read()) == ["e1", "e2", "e3", "e9"]
    assert next_offset(log) == 1


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


def test_a_file_is_imported_once(log: EventLog) -> None:
    assert log.import_clicks(frame_of(1, 2), "a file") == 2
    assert log.import_clicks(frame_of(1, 2), "a file") == 0
    assert log.import_clicks(frame_of(3), "another") == 1
    assert log.count() == 3


def test_the_newest_clicks_are_those_that_arrived_last(log: EventLog) -> None:
    """What a producer says about the time does not count: the year 9999 is not the newest."""
    late = [row._replace(timestamp=253_402_300_000_000) for row in rows(1, 2)]
    put(log, 0, 0, [*late, *rows(8, 9)])
    put(log, 1, 0, rows(3, 7))
    assert ids(log.read(newest=3)) == ["e7", "e8", "e9"]
    assert len(log.read(newest=100)) == 6


def test_exactly_so_many_newest_are_read_also_when_times_tie(log: EventLog) -> None:
    put(log, 0, 0, [Row(f"e{i}", "u", "i", 7, "click", 7) for i in range(6)])
    for newest in (0, 1, 5, 6, 7):
        assert len(log.read(newest=newest)) == min(newest, 6)


def test_duplicates_send_the_window_further_back(log: EventLog) -> None:
    put(log, 0, 0, rows(*range(100)))
    for first in range(100, 500, 100):
        put(log, 0, first, rows(*[99] * 100))
    assert ids(log.read(newest=5)) == [f"e{i}" for i in range(95, 100)]


def test_only_the_wanted_columns_are_returned(log: EventLog) -> None:
    put(log, 0, 0, rows(1, 2, 2))
    frame = log.read(1, ("user_id", "timestamp"))
    assert frame.to_dict("records") == [{"user_id": "u0", "timestamp": 2}]


def test_any_text_is_kept(log: EventLog) -> None:
    row = Row("é", "ü", "猫", 2**53, "Ж", 7)
    put(log, 0, 0, [row])
    frame = log.read()
    assert frame.to_dict("records") == [dict(zip(COLUMNS, row, strict=False))]
    assert frame["timestamp"].dtype == "int64"


def spoil(path: Path) -> None:
    """The footer stays; whoever reads the rows fails."""
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)


def test_files_that_are_too_old_are_not_opened(log: EventLog) -> None:
    for start in range(0, 1000, 100):
        put(log, start // 100 % 2, start, rows(*range(start, start + 100)))
    actions = pa.table(table_of(log).get_add_actions(flatten=True)).to_pylist()
    assert log.folder is not None
    for action in sorted(actions, key=lambda action: action["min.arrival"])[:7]:
        spoil(log.folder / action["path"])
    assert sorted(ids(log.read(newest=300))) == [f"e{i}" for i in range(700, 1000)]
    with pytest.raises(ConfigurationError, match="cannot read the event log"):
        log.read()


events = st.integers(0, 60)
written = st.lists(st.tuples(st.integers(0, 2), st.lists(events, max_size=8)), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(written=written, newest=st.integers(0, 40), compacted=st.booleans())
def test_the_newest_of_any_log_are_those_of_the_whole_log(
    tmp_path: Path, written: list[tuple[int, list[int]]], newest: int, compacted: bool
) -> None:
    log = EventLog(str(tmp_path / uuid.uuid4().hex))
    for number, (partition, arrivals) in enumerate(written):
        clicks = [
            Row(f"{number}-{n}", "u", "i", 1, "click", arrival)
            for n, arrival in enumerate(arrivals)
        ]
        put(log, partition, 10 * number, clicks, end=10 * number + 10)
    whole = log.read()
    kept = whole.tail(newest)
    if compacted:
        log.maintain()
    assert ids(log.read(newest=newest)) == ids(kept)
    assert ids(log.read()) == ids(whole)


def test_a_compacted_log_is_the_same_log(log: EventLog) -> None:
    log.import_clicks(frame_of(900))
    for number in range(30):
        partition, first = number % 3, number // 3 * 10
        mine = [] if number % 7 == 0 else rows(*range(number * 10, number * 10 + 5))
        put(log, partition, first, mine, end=first + 9)
    before, offsets = log.read(), log.next_offsets(range(4))
    done = log.maintain()
    assert done.files_before > 20
    assert (done.files_after, done.rows_deleted) == (1, 0)
    pd.testing.assert_frame_equal(log.read(), before)
    assert log.next_offsets(range(4)) == offsets == {0: 99, 1: 99, 2: 99}
    put(log, 0, 99, rows(777), end=121)
    assert log.maintain().files_after == 1
    assert len(log.read()) == len(before) + 1
    assert log.maintain() == (1, 1, 0)


def test_of_two_compactions_at_once_one_is_made(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both look at the table before one of them begins; delta-rs would let both commit."""
    for i in range(10):
        put(log, 0, i, rows(i))
    other = EventLog(str(log.folder))
    write = write_deltalake

    def the_other_comes_first(*arguments: object, **options: object) -> None:
        monkeypatch.setattr(click_table, "write_deltalake", write)
        assert other.maintain().files_after == 1
        write(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(click_table, "write_deltalake", the_other_comes_first)
    log.maintain()
    assert log.count() == 10
    assert ids(log.read()) == [f"e{i}" for i in range(10)]


def test_while_one_compacts_others_do_not_and_its_death_is_waited_for(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        put(log, 0, i, rows(i))
    other = EventLog(str(log.folder))
    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "optimize", property(lambda table: 1 / 0))
        with pytest.raises(ZeroDivisionError):
            log.maintain()
    assert other.maintain() == (3, 3, 0)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 3601)
    assert other.maintain() == (3, 1, 0)


def test_a_reading_goes_on_while_others_compact_and_delete(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its two passes the files of its snapshot are replaced; they stay for a day."""
    for i in range(10):
        put(log, 0, i, rows(i))
    other = EventLog(str(log.folder))
    first_pass, done = event_log.arrival_of, []

    def others_come_between(*arguments: Any) -> int | None:
        since = first_pass(*arguments)
        put(other, 0, 10, rows(10))
        done.append(other.maintain(keep_days=1))
        return since

    monkeypatch.setattr(event_log, "arrival_of", others_come_between)
    assert ids(log.read(newest=4)) == ["e6", "e7", "e8", "e9"]
    (maintained,) = done
    assert maintained.rows_deleted == 11


def test_a_reading_starts_again_where_its_files_are_vacuumed_at_once(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(10):
        put(log, 0, i, rows(i))
    first_pass, passes = event_log.arrival_of, []

    def vacuumed_between(*arguments: Any) -> int | None:
        since = first_pass(*arguments)
        if not passes:
            table = table_of(log)
            table.optimize.compact()
            assert table.vacuum(0, dry_run=False, enforce_retention_duration=False)
        passes.append(since)
        return since

    monkeypatch.setattr(event_log, "arrival_of", vacuumed_between)
    assert ids(log.read(newest=4)) == ["e6", "e7", "e8", "e9"]
    assert len(passes) == 2
    for file in Path(str(log.folder)).glob("*.parquet"):
        file.unlink()
    with pytest.raises(ConfigurationError, match="read the event log"):
        log.read()


def test_a_state_says_how_many_clicks_are_new(log: EventLog, tmp_path: Path) -> None:
    empty = log.state()
    assert empty[1:] == (0, -1, 0)
    put(log, 0, 0, rows(1, 2))
    two = log.state()
    assert two.new_since(empty) == 2
    log.import_clicks(frame_of(0))  # of the past
    assert log.state().new_since(two) == 1
    assert two.new_since(two) == 0
    assert two._replace(clicks=1).new_since(two) == 0  # deleted
    assert two._replace(clicks=1, newest_arrival=3).new_since(two) == 1  # and one arrived
    assert two._replace(clicks=1, forget_count=1).new_since(two) == 1  # models know who is gone
    assert EventLog(str(log.folder)).state() == log.state()
    assert two.new_since(EventLog(str(tmp_path / "other")).state()) == 2
    assert EventLog(str(tmp_path / "none"), read_only=True).state() == ("", 0, -1, 0)


def test_clicks_are_kept_for_so_many_days(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 100.5 * 86_400)
    days = [90, 92, 93, 94, 100]
    put(log, 0, 0, [Row(f"e{d}", "u", "i", 1, "click", d * DAY_MS + 1) for d in days])
    assert log.maintain(0).rows_deleted == 0
    assert log.maintain(7).rows_deleted == 2
    assert ids(log.read()) == ["e93", "e94", "e100"]
    assert next_offset(log) == 5
    assert log.maintain(7).rows_deleted == 0
    table = table_of(log)
    assert len(table.to_pandas(filters=[("user_id", "=", "u")])) == 3


def test_the_table_s_own_log_is_cleaned_up(log: EventLog) -> None:
    assert log.folder is not None
    assert table_of(log).metadata().configuration.items() >= {
        ("delta.checkpointInterval", "100"),
        ("delta.logRetentionDuration", "interval 6 hours"),
    }
    for i in range(101):
        put(log, 0, i, rows(i))
    assert list((log.folder / "_delta_log").glob("*.checkpoint.parquet"))
    again = EventLog(str(log.folder))
    assert (again.count(), next_offset(again)) == (101, 101)


@pytest.mark.long
def test_months_of_small_flushes_do_not_pile_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is kept for a time is kept for no time here, so that its number is certain."""
    kept = {"delta.logRetentionDuration", "delta.deletedFileRetentionDuration"}
    now = dict.fromkeys(kept, "interval 0 seconds")
    monkeypatch.setattr(click_table, "_CONFIGURATION", click_table._CONFIGURATION | now)
    log = EventLog(str(tmp_path / "log"))
    for i in range(600):
        put(log, i % 8, i // 8, rows(i))
        if i % 20 == 19:  # ten minutes of a flush every 30 s
            log.maintain()
    of_table = tmp_path / "log" / "_delta_log"
    assert len(list(of_table.glob("*.json"))) <= 200
    assert len(list(of_table.glob("*.checkpoint.parquet"))) <= 2
    assert len(list((tmp_path / "log").glob("*.parquet"))) <= 2
    again = EventLog(str(log.folder))
    assert again.count() == len(again.read()) == 600
    assert again.next_offsets(range(8)) == dict.fromkeys(range(8), 75)


def test_offsets_of_a_topic_that_was_made_anew_are_not_those_of_the_former(log: EventLog) -> None:
    log.topic_id = "a"
    put(log, 0, 0, rows(1, 2, 3))
    log.topic_id = "b"
    assert next_offset(log) is None
    put(log, 0, 0, rows(4, 5))
    assert next_offset(log) == 2
    assert ids(log.read()) == ["e1", "e2", "e3", "e4", "e5"]
    again = EventLog(str(log.folder))
    again.topic_id = "a"
    assert next_offset(again) == 3


def test_a_reader_changes_nothing(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path / "none"), read_only=True)
    assert (log.count(), len(log.read()), len(log.read(newest=3))) == (0, 0, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="NEXTCLICK_TRAINER__EVENT_LOG"):
        EventLog(str(tmp_path / "file" / "log"))


def test_a_log_of_the_former_format_names_the_command(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"user_id": ["u"]}), tmp_path / f"clicks-p00000-{0:018d}-{0:018d}.parquet"
    )
    with pytest.raises(ConfigurationError, match="nextclick events upgrade"):
        EventLog(str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 1


def test_another_delta_table_is_refused(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path / "table"), pa.table({"user_id": ["u"], "price": [1.5]}))
    with pytest.raises(ConfigurationError, match="is no event log: it has no column event_id"):
        EventLog(str(tmp_path / "table"))


def test_a_table_that_is_broken_is_one_line(log: EventLog) -> None:
    put(log, 0, 0, rows(1))
    assert log.folder is not None
    (log.folder / "_delta_log" / f"{0:020d}.json").write_text("no json")
    with pytest.raises(ConfigurationError, match="NEXTCLICK_TRAINER__EVENT_LOG") as caught:
        EventLog(str(log.folder))
    assert "\n" not in str(caught.value)


def test_a_folder_that_goes_away_is_waited_for_and_leaves_no_debris(log: EventLog) -> None:
    assert log.folder is not None
    away = log.folder.rename(log.folder.parent / "away")
    for action in (log.count, lambda: next_offset(log), lambda: put(log, 0, 0, rows(1))):
        with pytest.raises(Unavailable, match="NEXTCLICK_TRAINER__EVENT_LOG"):
            action()
    with pytest.raises(Unavailable):
        log.check_writable()
    assert not log.folder.exists()
    away.rename(log.folder)
    put(log, 0, 0, rows(1))
    assert ids(log.read()) == ["e1"]


def test_a_commit_is_flushed_to_the_disk(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", noted)
    put(log, 0, 0, rows(1))
    assert log.folder is not None
    (data,) = (path.name for path in log.folder.glob("*.parquet"))
    assert flushed == [data, "log", f"{1:020d}.json", "_delta_log"]


def test_other_files_in_the_folder_are_left_alone(log: EventLog) -> None:
    assert log.folder is not None
    (log.folder / "notes.txt").write_text("mine")
    for i in range(3):
        put(log, 0, i, rows(i))
    log.maintain()
    table_of(log).vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert (log.folder / "notes.txt").read_text() == "mine"
    assert log.count() == 3


def test_the_table_is_what_the_docs_say(log: EventLog) -> None:
    """Other engines depend on these names; JSON in the table's log, as the protocol has it."""
    put(log, 3, 7, rows(1))
    assert log.folder is not None
    assert [f.name for f in table_of(log).schema().fields] == SCHEMA.names
    commit = (log.folder / "_delta_log" / f"{1:020d}.json").read_text().splitlines()
    transactions = {
        action["txn"]["appId"]: action["txn"]["version"]
        for action in map(json.loads, commit)
        if "txn" in action
    }
    assert transactions == {"nextclick/offset//3": 8, "nextclick/arrival/3": 1}


def test_a_log_that_goes_away_in_the_middle_is_unavailable(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(log, 0, 0, rows(1, 2))
    table = log._clicks.current()
    assert log.folder is not None
    shutil.rmtree(log.folder)
    monkeypatch.setattr(log._clicks, "current", lambda: table)
    with pytest.raises(Unavailable, match="read the event log"):
        log.next_offsets([0, 1])
