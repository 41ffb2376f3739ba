"""More clicks than the worker can answer, and clicks for a long time."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from tests.faults.conftest import MakeStand, Report
from tests.faults.stand import Stopwatch
from tests.integration.traffic import make_clicks

GROWTH_MB = 160.0
"""What a worker may take beyond what it has after its first answers. librdkafka reads ahead, up to
64 MiB of messages (queued.max.messages.kbytes) and what it keeps with each."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def memory_mb(pid: int | None) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files(pid: int | None) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@linux
def test_overload_is_worked_off(long: bool, stand: MakeStand, report: Report) -> None:
    """Everything comes at once: the lag grows and drains, memory does not grow with it."""
    ours = stand()
    count = 200_000 if long else 20_000
    clicks = make_clicks(count, users=2000, seed=1)
    worker = ours.worker()
    ours.send(clicks[:1000])
    ours.wait_for_all()
    before = most = memory_mb(worker.pid)
    watch = Stopwatch()
    ours.send(clicks[1000:])
    backlog = ours.sent - ours.committed()
    while ours.committed() < ours.sent:
        most = max(most, memory_mb(worker.pid))
    seconds = watch.seconds()
    assert backlog > 100, "it was no overload"
    assert most - before < GROWTH_MB
    verdict = ours.verdict()
    assert verdict.doubled == 0
    what = f"{backlog:,} clicks behind, {most - before:.0f} MB more, at_least_once"
    report(what, verdict, seconds)


@linux
@pytest.mark.long
def test_soak(soak_minutes: float, stand: MakeStand, report: Report) -> None:
    """Clicks at a steady pace: memory and open files stay as they are. `make soak` takes longer."""
    ours = stand()
    worker = ours.worker()
    pace = threading.Event()
    watch, sent = Stopwatch(), 0
    measured: list[tuple[float, int]] = []
    clicks = make_clicks(int(soak_minutes * 60 * 300) + 300, users=500, seed=2)
    while watch.seconds() < soak_minutes * 60:
        ours.send(clicks[sent : sent + 30])
        sent += 30
        if sent % 300 == 0:
            measured.append((memory_mb(worker.pid), open_files(worker.pid)))
        pace.wait(0.1)
    ours.wait_for_all()
    _check_flat(measured)
    report(f"soak of {soak_minutes:g} minutes, at_least_once", ours.verdict(), watch.seconds())


def _check_flat(measured: list[tuple[float, int]]) -> None:
    """Compare the ends of the second half: in the first, caches fill."""
    half = measured[len(measured) // 2 :]
    (memory, files), (memory_at_end, files_at_end) = half[0], half[-1]
    assert memory_at_end - memory < 10, "MB"
    assert files_at_end <= files + 2
