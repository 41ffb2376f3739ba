"""A trainer dies at every step of writing its event log; each click is in it once all the same."""

from __future__ import annotations

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
    collect,
    committed_clicks,
    held,
    judge_log,
    leftovers,
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
    """Between a death and the next start: whole files, nothing twice, nothing committed missing."""
    there = held(folder / "log")
    assert there == [event_id for event_id in IN_ORDER if event_id in there]
    assert committed_clicks(folder / "committed") <= set(there)


def go_on(folder: Path) -> None:
    collect(folder / "log", folder / "committed")
    assert held(folder / "log") == IN_ORDER
    assert EventLog(str(folder / "log")).count() == len(IN_ORDER)
    assert leftovers(folder / "log") == []


def test_killed_before_any_change_to_the_folder(tmp_path: Path, report: Report) -> None:
    watch = Stopwatch()
    died = []

    def begin(number: int) -> ForkServerProcess:
        folder = tmp_path / str(number)
        (folder / "log").mkdir(parents=True)
        (folder / "log" / ".clicks-p00000-x.parquet.ab.tmp").write_bytes(b"half a file")
        prepare = partial(dying.at_change, number, folder / "log", steps=folder / "steps")
        return start(folder, prepare)

    for number in dying.deaths(begin):
        folder = tmp_path / str(number)
        died.append((folder / "steps").read_text().splitlines()[-1].split()[0])
        look(folder)
        go_on(folder)
    files = PARTITIONS * -(-CLICKS // 4)
    at_the_start = ["os.mkdir", "os.remove", "open", "os.remove"]  # a leftover, and the probe
    assert died == at_the_start + files * ["open", "fsync", "os.rename", "fsync"]
    last = tmp_path / str(len(died) + 1)
    verdict = judge_log(CLICKS_IN_ALL, held(last / "log"))
    report(f"event log, killed before each of {len(died)} changes", verdict, watch.seconds())


def test_killed_in_the_middle_of_a_write(tmp_path: Path, report: Report) -> None:
    watch = Stopwatch()
    sizes = [0, 1, 100, 500, 1000, 1500, 2000, 1 << 20]

    def begin(number: int) -> ForkServerProcess:
        folder = tmp_path / str(number)
        folder.mkdir()
        return start(folder, partial(dying.in_mid_write, sizes[number - 1]))

    for number in dying.deaths(begin):
        folder = tmp_path / str(number)
        assert held(folder / "log") == []
        (left,) = leftovers(folder / "log")
        assert (folder / "log" / left).stat().st_size == sizes[number - 1]
        go_on(folder)
    verdict = judge_log(CLICKS_IN_ALL, held(tmp_path / "1" / "log"))
    report(f"event log, killed in {number} half done writes", verdict, watch.seconds())


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
    output = tmp_path / "output"
    output.touch()
    collector = start(tmp_path, partial(dying.full_at, 1000))
    until(lambda: "waiting: cannot write" in output.read_text(), "it says so", 20)
    assert held(tmp_path / "log") == []
    watch = Stopwatch()
    dying.refuse_from(collector, dying.NO_LIMIT)
    collector.join(90)
    assert collector.exitcode == 0
    (line,) = output.read_text().splitlines()
    assert "free space" in line
    assert held(tmp_path / "log") == IN_ORDER
    assert leftovers(tmp_path / "log") == []
    verdict = judge_log(CLICKS_IN_ALL, held(tmp_path / "log"))
    report("event log, disk full", verdict, watch.seconds())


def _compact(folder: Path, prepare: Callable[[], None]) -> None:
    prepare()
    EventLog(str(folder)).compact()


def test_killed_before_any_change_of_a_compaction(tmp_path: Path, report: Report) -> None:
    """Whenever it dies, the log holds what it held, in order; the next one ends the work."""
    watch = Stopwatch()

    def begin(number: int) -> ForkServerProcess:
        folder = tmp_path / str(number)
        collect(folder / "log", folder / "committed")
        prepare = partial(dying.at_change, number, folder / "log", steps=folder / "steps")
        return children.call(partial(_compact, folder / "log", prepare), folder / "output")

    died = []
    for number in dying.deaths(begin):
        folder = tmp_path / str(number)
        died.append((folder / "steps").read_text().splitlines()[-1].split()[0])
        assert held(folder / "log") == IN_ORDER
        assert EventLog(str(folder / "log")).next_offset(0) == CLICKS
        EventLog(str(folder / "log")).compact()
        assert held(folder / "log") == IN_ORDER
        assert len(list((folder / "log").iterdir())) == PARTITIONS
    small = -(-CLICKS // 4)
    opening = ["os.mkdir", "open", "os.remove"]  # the folder is there; the probe
    merging = ["open", "fsync", "os.rename", "fsync", *small * ["os.remove"]]
    assert died == opening + PARTITIONS * merging
    verdict = judge_log(CLICKS_IN_ALL, held(tmp_path / str(len(died) + 1) / "log"))
    report(
        f"event log, compaction killed before each of {len(died)} changes", verdict, watch.seconds()
    )
