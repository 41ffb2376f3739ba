"""Merging the small files of an event log, and which files of one count."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.trainer.collect import EventLog, Row, compact, compaction
from nextclick.trainer.collect.compaction import merges
from nextclick.trainer.collect.event_log_files import (
    OffsetFile,
    files_of,
    locked,
    offset_files,
    uncovered,
)
from tests.unit.trainer.collect.test_event_log import frame_of, ids, rows


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(str(tmp_path / "log"))


def names(folder: Path) -> list[str]:
    return [path.name for path in files_of(folder)]


def fill(log: EventLog) -> list[str]:
    """Thirty files of three partitions, with gaps, empty ranges and an import; the ids in order."""
    log.import_clicks(frame_of(900))
    for number in range(30):
        partition, first = number % 3, number // 3 * 10
        mine = [] if number % 7 == 0 else rows(*range(number * 10, number * 10 + 5))
        log.append(partition, first, first + 8, mine)
    return ids(log.read())


def test_a_compacted_log_is_the_same_log(log: EventLog) -> None:
    before = fill(log)
    counted = log.count()
    done = log.compact()
    assert ids(log.read()) == before
    assert log.count() == counted
    assert (done.files_before, done.files_after, done.rows_rewritten) == (30, 3, counted - 1)
    assert names(log.folder)[1:] == [
        f"clicks-p{p:05d}-{0:018d}-{98:018d}.parquet" for p in range(3)
    ]
    assert [log.next_offset(p) for p in range(4)] == [99, 99, 99, None]
    assert ids(EventLog(str(log.folder)).read()) == before


def test_it_goes_on_growing_and_is_compacted_again(log: EventLog) -> None:
    fill(log)
    log.compact()
    log.append(0, 99, 120, rows(777))
    before = ids(log.read())
    log.compact()
    assert ids(log.read()) == before
    assert log.next_offset(0) == 121
    assert log.compact().rows_rewritten == 0


def test_what_is_covered_does_not_count_and_goes_away(log: EventLog) -> None:
    """As left behind by a compaction that died before it removed its sources."""
    log.append(0, 0, 9, rows(1, 2, 3, 4))
    log.append(0, 0, 4, rows(1, 2))
    log.append(0, 5, 9, rows(3, 4))
    log.append(1, 0, 4, rows(5))
    assert log.count() == 5
    assert ids(log.read()) == ["e1", "e2", "e3", "e4", "e5"]
    assert len(offset_files(log.folder)) == 4
    log.compact()
    assert len(offset_files(log.folder)) == 2


def test_ranges_that_overlap_and_do_not_cover_both_count(log: EventLog) -> None:
    """Two trainers wrote them, each before it knew of the other."""
    log.append(0, 0, 5, rows(1, 2, 3))
    log.append(0, 3, 9, rows(2, 3, 4))
    for _ in range(2):
        assert ids(log.read()) == ["e1", "e2", "e3", "e4"]
        log.compact()
    assert names(log.folder) == [f"clicks-p00000-{0:018d}-{9:018d}.parquet"]


ranges = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 12)), max_size=25)


@given(ranges)
def test_whatever_was_written_no_offset_is_left_out(drawn: list[tuple[int, int, int]]) -> None:
    files = [OffsetFile(0, p, first, first + more, Path()) for p, first, more in drawn]
    kept = uncovered(files)

    def offsets(of: list[OffsetFile]) -> set[tuple[int, int]]:
        return {(file.partition, o) for file in of for o in range(file.first, file.last + 1)}

    assert offsets(kept) == offsets(files)
    for one in kept:
        for other in kept:
            covers = other.partition == one.partition and other.first <= one.first
            assert one is other or not (covers and other.last >= one.last)


def sized(*rows_of: int, partition: int = 0) -> list[tuple[OffsetFile, int]]:
    return [(OffsetFile(0, partition, i, i, Path(str(i))), rows) for i, rows in enumerate(rows_of)]


def sizes(runs: list[list[tuple[OffsetFile, int]]]) -> list[list[int]]:
    return [[rows for _, rows in run] for run in runs]


def test_small_files_join_and_large_ones_wait_for_their_like() -> None:
    assert sizes(merges(sized(100, 100, 100))) == [[100, 100, 100]]
    assert sizes(merges(sized(900_000, 100, 100))) == [[100, 100]]
    assert sizes(merges(sized(400_000, 300_000, 100, 9))) == [[400_000, 300_000], [100, 9]]
    assert sizes(merges(sized(700_000, 600_000, 100))) == []
    assert sizes(merges(sized(20_000, 5_000, 100), full=25_050)) == [[5_000, 100]]
    assert merges([]) == merges(sized(5)) == []


def test_partitions_are_not_mixed() -> None:
    runs = merges(sized(5, 5, partition=0) + sized(6, 6, partition=1))
    assert sizes(runs) == [[5, 5], [6, 6]]


def test_each_click_is_rewritten_a_few_times_only() -> None:
    """A thousand hours of a busy partition: what stays are full files, at little cost."""
    files: list[tuple[OffsetFile, int]] = []
    rewritten = 0
    for hour in range(1000):
        files.append((OffsetFile(0, 0, hour, hour, Path()), 20_000))
        for run in merges(files):
            total = sum(rows for _, rows in run)
            rewritten += total
            at = files.index(run[0])
            merged = OffsetFile(0, 0, run[0][0].first, run[-1][0].last, Path())
            files[at : at + len(run)] = [(merged, total)]
    assert sum(rows for _, rows in files) == 1000 * 20_000
    assert rewritten < 5 * 1000 * 20_000
    assert len(files) < 2 * 1000 * 20_000 / compaction.MAX_ROWS + 5


def test_two_compactions_at_once_do_not_mind_each_other(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one comes between what this one plans and what it does."""
    before = fill(log)
    calls = []

    def the_other_comes_second(*arguments: Any, **options: Any) -> AbstractContextManager[None]:
        calls.append(arguments)
        if len(calls) == 2:
            monkeypatch.undo()
            assert compact(log.folder).files_after == 3
            monkeypatch.setattr(compaction, "locked", the_other_comes_second)
        return locked(*arguments, **options)

    monkeypatch.setattr(compaction, "locked", the_other_comes_second)
    assert compact(log.folder).rows_rewritten == 0
    assert len(calls) == 4
    assert len(offset_files(log.folder)) == 3
    assert ids(log.read()) == before


def test_a_file_that_is_none_is_named_and_nothing_is_lost(log: EventLog) -> None:
    fill(log)
    broken = files_of(log.folder)[5]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    with pytest.raises(ConfigurationError, match=broken.name):
        log.compact()
    with pytest.raises(ConfigurationError, match=broken.name):
        log.read()
    broken.write_bytes(whole)
    assert len(offset_files(log.folder)) == 30


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        compact(tmp_path / "none")


def test_who_reads_is_waited_for(log: EventLog) -> None:
    before = fill(log)
    with locked(log.folder):
        waiting = threading.Thread(target=log.compact)
        waiting.start()
        assert ids(EventLog(str(log.folder)).read()) == before  # a second reader need not wait
        assert len(offset_files(log.folder)) == 30
    waiting.join(20)
    assert len(offset_files(log.folder)) == 3
    assert ids(log.read()) == before


def test_merged_files_have_groups_that_can_be_left_out(log: EventLog) -> None:
    for start in range(0, 200_000, 20_000):
        log.append(0, start, start + 19_999, rows(*range(start, start + 20_000)))
    log.compact()
    (path,) = files_of(log.folder)
    assert pq.read_metadata(path).num_row_groups == 4
    assert ids(log.read(newest=3)) == ["e199997", "e199998", "e199999"]


def test_topics_of_one_name_are_not_mixed(log: EventLog) -> None:
    for topic_id in ("a", "b"):
        log.use_topic(topic_id)
        first, second = (Row(f"{topic_id}{i}", "u", "i", 1, "click", i) for i in (0, 1))
        log.append(0, 0, 0, [first])
        log.append(0, 1, 1, [second])
    log.compact()
    assert len(offset_files(log.folder)) == 2
    assert log.read()["event_id"].tolist() == ["a0", "b0", "a1", "b1"]
    again = EventLog(str(log.folder))
    for topic_id in ("a", "b"):
        again.use_topic(topic_id)  # the merged files still say which topic they are of
        assert again.next_offset(0) == 2
    again.use_topic("c")
    assert again.next_offset(0) is None
