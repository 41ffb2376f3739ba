"""A trainer dies while it writes its event log; each click is in it once all the same.

The table's library writes data files, then the commit, which appears in one step. What it does
Python does not see, so it is killed by the kernel in the middle of writes; what lies between two
of its steps is made by taking commits away.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest

from nextclick.trainer.collect import EventLog
from tests.faults import children, dying
from tests.faults.collecting import (
    CLICKS,
    PARTITIONS,
    TOPIC_ID,
    collect,
    committed_clicks,
    held,
    judge_log,
    strays,
    stream,
)
from tests.faults.conftest import Report
from tests.faults.stand import Stopwatch
from tests.waiting import until

CLICKS_IN_ALL = [click for partition in range(PARTITIONS) for click in stream(partition)]
IN_ORDER = [click.event_id for click in CLICKS_IN_ALL]


def start(folder: Path, prepare: Callable[[], None]) -> ForkServerProcess:
    action = partial(collect, folder / "log", folder / "committed", prepare)
    return children.call(action, folder / "output")


def look(folder: Path) -> None:
    """Between a death and the next start: nothing twice, nothing committed missing."""
    there = held(folder / "log")
    assert there == [event_id for event_id in IN_ORDER if event_id in there]
    assert committed_clicks(folder / "committed") <= set(there)


def go_on(folder: Path) -> None:
    collect(folder / "log", folder / "committed")
    assert held(folder / "log") == IN_ORDER
    assert EventLog(str(folder / "log")).count() == len(IN_ORDER)


def test_killed_after_a_commit_and_before_its_offsets_are_committed(
    tmp_path: Path, report: Report
) -> None:
    """Each flush to the disk is such a moment, and the first of them the earliest."""
    watch = Stopwatch()
    died = []

    def begin(number: int) -> ForkServerProcess:
        folder = tmp_path / str(number)
        folder.mkdir()
        prepare = partial(dying.at_change, number, folder / "log", steps=folder / "steps")
        return start(folder, prepare)

    for number in dying.deaths(begin):
        folder = tmp_path / str(number)
        died.append((folder / "steps").read_text().splitlines()[-1].split()[0])
        look(folder)
        go_on(folder)
    appends = -(-CLICKS // 4)
    assert died == ["os.mkdir"] + appends * ["open", "open", *4 * ["fsync"]]
    last = tmp_path / str(len(died) + 1)
    verdict = judge_log(CLICKS_IN_ALL, held(last / "log"))
    report(f"event log, killed before each of {len(died)} changes", verdict, watch.seconds())


def test_killed_in_the_middle_of_a_write(tmp_path: Path, report: Report) -> None:
    """Of the table's beginning, of a data file, or of a commit."""
    watch = Stopwatch()
    sizes = [0, 1, 100, 500, 1000, 1500, 2000, 2500, 3000, 1 << 20]

    def begin(number: int) -> ForkServerProcess:
        folder = tmp_path / str(number)
        folder.mkdir()
        return start(folder, partial(dying.in_mid_write, sizes[number - 1]))

    for number in dying.deaths(begin):
        folder = tmp_path / str(number)
        look(folder)
        go_on(folder)
    assert number >= 7, "data files are larger than their commits"
    verdict = judge_log(CLICKS_IN_ALL, held(tmp_path / "1" / "log"))
    report(f"event log, killed in {number} half done writes", verdict, watch.seconds())


def test_killed_between_the_data_and_its_commit(tmp_path: Path, report: Report) -> None:
    """The data files of an append or a compaction are there, and nobody knows of them."""
    watch = Stopwatch()
    whole = tmp_path / "whole"
    collect(whole / "log", whole / "committed")
    EventLog(str(whole / "log")).maintain()
    versions = sorted((whole / "log" / "_delta_log").glob("*.json"))
    for number in range(1, len(versions) + 1):
        folder = tmp_path / str(number)
        shutil.copytree(whole / "log", folder / "log")
        for version in versions[number:]:
            (folder / "log" / "_delta_log" / version.name).unlink()
        (folder / "log" / "_delta_log" / "_commit_half.json.tmp").write_bytes(b"{")
        look(folder)
        go_on(folder)
        assert strays(folder / "log") or number == len(versions)
        EventLog(str(folder / "log")).maintain()
        assert held(folder / "log") == IN_ORDER
    verdict = judge_log(CLICKS_IN_ALL, held(tmp_path / "1" / "log"))
    report(f"event log, without the last of {len(versions)} commits", verdict, watch.seconds())


@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again(seed: int, tmp_path: Path, long: bool) -> None:
    rng = np.random.default_rng(seed)
    most = 8 if long else 20
    steps = rng.integers(1, most, 1000).tolist()
    for _ in dying.deaths(
        lambda number: start(tmp_path, partial(dying.at_change, steps[number], tmp_path / "log"))
    ):
        look(tmp_path)
    assert held(tmp_path / "log") == IN_ORDER


def test_the_disk_is_full_and_then_it_is_not(tmp_path: Path, report: Report) -> None:
    """Whoever collects waits, says so once, and shows nothing that is half written."""
    EventLog(str(tmp_path / "log"))
    output = tmp_path / "output"
    output.touch()
    collector = start(tmp_path, partial(dying.full_at, 1500))
    until(lambda: "waiting: cannot write" in output.read_text(), "it says so", 20)
    assert held(tmp_path / "log") == []
    watch = Stopwatch()
    dying.refuse_from(collector, dying.NO_LIMIT)
    collector.join(90)
    assert collector.exitcode == 0
    assert len(output.read_text().splitlines()) == 1, output.read_text()
    line = output.read_text()
    assert "free space" in line
    assert held(tmp_path / "log") == IN_ORDER
    assert strays(tmp_path / "log") == []
    verdict = judge_log(CLICKS_IN_ALL, held(tmp_path / "log"))
    report("event log, disk full", verdict, watch.seconds())


def _compact(folder: Path, prepare: Callable[[], None]) -> None:
    prepare()
    EventLog(str(folder)).maintain()


def test_killed_in_the_middle_of_a_compaction(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever it dies, the log holds what it held; the next one ends the work."""
    watch = Stopwatch()
    sizes = [0, 500, 1000, 2000, 3000, 1 << 20]

    def begin(number: int) -> ForkServerProcess:
        folder = tmp_path / str(number)
        collect(folder / "log", folder / "committed")
        prepare = partial(dying.in_mid_write, sizes[number - 1])
        return children.call(partial(_compact, folder / "log", prepare), folder / "output")

    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 3700)  # its lease has run out
    for number in dying.deaths(begin):
        folder = tmp_path / str(number)
        assert held(folder / "log") == IN_ORDER
        log = EventLog(str(folder / "log"))
        log.topic_id = TOPIC_ID
        assert log.next_offsets(range(PARTITIONS)) == dict.fromkeys(range(PARTITIONS), CLICKS)
        assert log.maintain().files_after == 1
        assert held(folder / "log") == IN_ORDER
    assert number >= 3
    verdict = judge_log(CLICKS_IN_ALL, held(tmp_path / "1" / "log"))
    report(f"event log, compaction killed in {number} writes", verdict, watch.seconds())
